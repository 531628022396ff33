"""Synthetic records by the thousand, of a real one's size. Every figure is made up and says nothing about any tuner."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.identity import digest

SUITES = ("coco", "parti", "hpsv2", "vilg300", "abc6k", "cc500")
MODELS = ("sd15", "tiny-sd")
LIMITS_U = (12000.0, 48000.0)
TUNERS = ("alignprop", "draft-1", "draft-lv", "drtune", "hgdpo", "hgdpo-lan", "raft", "realigndiff", "refl",
          "treereward", "treereward-global", "mine")  # fmt: skip
REWARDS = ("pick", "hps")
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"K": 2}, {"lr": 3e-4, "K": 8})
SEEDS = (0, 1, 2)
JUDGES = ("pick", "hps", "clip", "judge", "aesthetic")
FRACTIONS = (0.0, 0.1, 0.25, 0.5, 1.0)
N_CURVE_ROWS = 400
_HOLE = re.compile(r'"<<(.*?)>>"')


def write_records(runs: Path, n: int, first: int = 0, n_boards: int = 24) -> list[str]:
    """Writes records ``first`` to ``first + n`` of an endless list over ``n_boards`` boards; returns their run ids.

    Only ``record.json``: no prompts, images or scores lie beside it.
    """
    texts: dict[tuple[str, str], list[str]] = {}
    ids = []
    for config in itertools.islice(_configurations(n_boards), first, first + n):
        kind = (config["reward"], json.dumps(config["settings"]))
        if kind not in texts:  # laid out once: printing indented JSON takes longer than everything else here
            texts[kind] = _HOLE.split(
                json.dumps(_record(config["reward"], config["settings"]), indent=1, sort_keys=True)
            )
        values = {**config, **_figures(config)}
        text = "".join(part if i % 2 == 0 else json.dumps(values[part]) for i, part in enumerate(texts[kind]))
        folder = runs / config["suite"] / config["tuner"] / config["run_id"]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(text, "utf-8")
        ids.append(config["run_id"])
    return ids


def _configurations(n_boards: int) -> Iterator[dict[str, Any]]:
    """Runs in an order in which a few already fill every board."""
    places = list(itertools.product(LIMITS_U, MODELS, SUITES))[:n_boards]
    for round_ in itertools.count():
        for seed, settings, reward, tuner, (limit, model, suite) in itertools.product(
            SEEDS, SETTINGS, REWARDS, TUNERS, places
        ):
            config = {"suite": f"{suite}-full@1", "suite_name": suite, "model": model, "limit": limit, "tuner": tuner,
                      "reward": reward, "settings": settings, "seed": seed + 3 * round_}  # fmt: skip
            status = "failed" if tuner == "raft" and seed == 2 else "done"
            yield {**config, "status": status, "run_id": digest(config, 12)}


def _figures(config: dict[str, Any]) -> dict[str, Any]:
    """Win rates that depend on the configuration, the same whenever it is asked for."""
    rng = random.Random(config["run_id"])
    quality = random.Random(f"{config['tuner']} {config['settings']}").gauss(0.1, 0.05)
    found: dict[str, Any] = {"spent": config["limit"] * rng.uniform(0.97, 1.0)}
    for judge, fraction in itertools.product(JUDGES, FRACTIONS):
        value = round(
            0.5 + quality * fraction**0.7 * (2.0 if judge == config["reward"] else 1.0) + rng.gauss(0, 0.01), 4
        )
        found |= {f"{judge} {fraction}": value, f"{judge} {fraction} low": round(value - 0.03, 4),
                  f"{judge} {fraction} high": round(value + 0.03, 4)}  # fmt: skip
    for fraction in FRACTIONS:
        found[f"fid {fraction}"] = round(24.0 - 8 * quality * fraction + rng.gauss(0, 0.1), 4)
        found[f"shift {fraction}"] = round(3 * fraction + rng.gauss(0, 0.2), 4)
    return found


def _record(reward: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A record with holes ``<<name>>`` where runs differ."""
    rng = random.Random(0)
    sampler = {"scheduler": "ddim", "n_steps": 50, "guidance": 7.5, "eta": 0.0, "resolution": 512}
    names = [f"f{round(100 * fraction):03d}" for fraction in FRACTIONS]
    columns = ["denoiser_u", "steps", "reward", "grad_norm", "loss", "clipped"]
    curve = [[30.0 * i, float(i), *(round(rng.gauss(0.3, 0.1), 5) for _ in columns[2:])] for i in range(N_CURVE_ROWS)]
    metrics = [m for name, fraction in zip(names, FRACTIONS, strict=True) for m in _metrics(name, fraction, reward)]
    return {
        "schema": "tunebench/record", "schema_version": 2, "run_id": "<<run_id>>", "status": "<<status>>",
        "reason": "budget:denoiser_u", "settings": {"lr": 1e-4, "K": 4, "m": 1, "rank": 32, **settings},
        "spec": {
            "suite": "<<suite>>", "suite_name": "<<suite_name>>", "edition": "full", "variant": "", "limit": None,
            "prompt_hash": "f00d" * 16, "train_prompt_hash": "beef" * 16, "model": "<<model>>",
            "model_revision": "c0ffee" * 6, "tuner": "<<tuner>>", "tuner_version": 1, "label": "<<tuner>>",
            "settings": settings, "reward": reward, "sampler": sampler, "train_sampler": sampler, "global_batch": 8,
            "budget": {"denoiser_u": "<<limit>>", "primary": "denoiser_u"}, "eval_seeds": [0, 1],
            "fractions": list(FRACTIONS), "metrics": ["fid", "clipscore", "tifa"], "seed": "<<seed>>",
        },
        "suite": {"title": "Synthetic prompts", "name": "<<suite_name>>", "edition": "full"}, "notes": ["synthetic"],
        "ranked": True, "unranked_reason": None, "artifacts": [],
        "ledger": {
            "budget": {"denoiser_u": "<<limit>>", "primary": "denoiser_u"}, "lost": {"denoiser_u": 0.0},
            "spent": {"denoiser_u": "<<spent>>", "steps": 400.0, "device_s": 5400.0, "images": 3200.0},
            "evaluation_s": {"generate": 31.2, "score": 12.9},
        },
        "provenance": {
            "commit": "4a46afb0c1", "dirty": False, "packages": {"torch": "2.13.0", "diffusers": "0.36.0"},
            "python": "3.11.7", "platform": "Linux", "device": "cuda", "n_threads": 2, "world_size": 1, "command": "-",
        },
        "attempts": [{"number": 1, "started": "2026-11-20T10:00:00Z", "ended": "2026-11-20T11:30:00Z",
                      "host": "node-1", "device": "cuda", "exit": "done", "lost": {}}],
        "snapshots": [{
            "name": name, "fraction": fraction, "spent": {"denoiser_u": 12000 * fraction, "steps": 400 * fraction},
            "adapter": None if fraction == 0 else f"snapshots/{name}/adapter", "images": f"snapshots/{name}/images",
            "n_images": 6400, "content_hash": "ab" * 32, "adapter_scale": 1.0, "u_per_image": 100.0,
        } for name, fraction in zip(names, FRACTIONS, strict=True)],
        "metrics": metrics, "curve": {"columns": columns, "rows": curve}, "error": None,
    }  # fmt: skip


def _metrics(name: str, fraction: float, reward: str) -> list[dict[str, Any]]:
    """Twelve or thirteen entries a snapshot, some sixty a record."""
    kinds = {kind: {"accuracy": 0.8, "n": 200} for kind in ("color", "counting", "object", "shape", "spatial")}
    made = [_metric("fid", name, f"<<fid {fraction}>>", higher_is_better=False),
            _metric("clipscore/clip", name, 0.31), _metric("diversity/clip", name, 0.44),
            _metric("tifa/vqa", name, 0.81, detail={"accuracy_by_kind": kinds})]  # fmt: skip
    made += [_metric(f"colour-shift/{part}", name, f"<<shift {fraction}>>", higher_is_better=False)
             for part in ("hue", "saturation", "value")]  # fmt: skip
    for judge in JUDGES:
        role = "trained-on" if judge == reward else "related" if judge == "clip" else "held-out"
        if fraction > 0:
            hole = f"{judge} {fraction}"
            made.append({**_metric(f"winrate/{judge}", name, f"<<{hole}>>"), "ci_low": f"<<{hole} low>>",
                         "ci_high": f"<<{hole} high>>", "role": role, "judge": judge, "family": judge})  # fmt: skip
        if fraction in (0.0, 1.0):
            made.append({**_metric(f"reward/{judge}", name, 20.1), "role": role, "judge": judge, "family": judge})
    return made


def _metric(name: str, snapshot: str, value: float | str, *, higher_is_better: bool = True,
            detail: dict[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    return {
        "name": name, "snapshot": snapshot, "value": value, "ci_low": None, "ci_high": None, "n": 6400, "unit": "",
        "higher_is_better": higher_is_better, "role": "held-out", "judge": "", "family": "", "difference": None,
        "passport": {"captions": digest(name), "n": 6400, "protocol": "synthetic", "weights_sha256": digest([name, 1])},
        "detail": detail or {}, "scores": None, "warnings": [], "error": None,
    }  # fmt: skip
