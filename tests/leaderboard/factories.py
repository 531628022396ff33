"""Run folders with made-up figures: every number here is synthetic and says nothing about any tuner."""

from __future__ import annotations

import hashlib
import io
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from bench.core.identity import digest
from bench.store import atomic

PROMPTS = [
    ("a red circle and a blue square", "colour"), ("two green triangles", "count"),
    ("a star left of a circle", "place"), ("a striped square on a black background", "texture"),
]  # fmt: skip


@dataclass
class Fake:
    """One synthetic run; ``write`` makes its folder."""

    tuner: str = "drtune"
    seed: int = 0
    held_out: float = 0.62
    trained: float = 0.85
    suite: str = "coco-sample@1"
    model: str = "tiny-sd"
    reward: str = "tiny-pick"
    status: str = "done"
    reason: str = "budget:denoiser_u"
    ranked: bool = True
    unranked_reason: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    limit_u: float = 12000.0
    spent_u: float = 11880.0
    fractions: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
    fid_passport: dict[str, Any] = field(
        default_factory=lambda: {"protocol": "pytorch-fid", "resize": "bilinear", "n": 64}
    )
    prompts: list[tuple[str, str]] = field(
        default_factory=lambda: [(f"{t}, no. {i}", c) for i in range(4) for t, c in PROMPTS]
    )
    n_seeds: int = 2
    primary: str = "denoiser_u"
    hardware: str = ""
    """"" is a record of before it was noted."""
    again: int = 0
    """Tells runs of one configuration apart."""
    error: dict[str, str] | None = None
    failed_metric: str | None = None
    judge_roles: dict[str, str] = field(
        default_factory=lambda: {"tiny-pick": "trained-on", "tiny-judge": "held-out", "tiny-clip": "related"}
    )

    @property
    def run_id(self) -> str:
        return digest([self.tuner, self.seed, self.suite, self.model, self.reward, self.settings, self.limit_u,
                       self.status, self.ranked, *([self.again] if self.again else [])], 12)  # fmt: skip

    def write(self, runs: Path) -> Path:
        folder = runs / self.suite / self.tuner / self.run_id
        rng = random.Random(f"{self.run_id}")
        rows = [
            {"id": f"{i:03d}", "text": t, "tags": {"category": c, "pair": str(i)}}
            for i, (t, c) in enumerate(self.prompts)
        ]
        atomic.write_jsonl(folder / "prompts.jsonl", rows)
        snapshots, metrics = [], []
        for fraction in self.fractions:
            name = f"f{round(fraction * 100):03d}"
            images = f"snapshots/{name}/images"
            if fraction in (self.fractions[0], self.fractions[-1]):
                _images(folder / images, rows, self.n_seeds, fraction)
            spent = {"denoiser_u": self.spent_u * fraction, "steps": 40 * fraction}
            snapshots.append({
                "name": name, "fraction": fraction, "spent": spent, "images": images,
                "adapter": None if fraction == 0 else f"snapshots/{name}/adapter",
                "n_images": len(rows) * self.n_seeds, "content_hash": digest([name, self.run_id]),
            })  # fmt: skip
            metrics += self._metrics(folder, name, fraction, rows, rng)
        curve = [[11880 * i / 40, float(i), 0.2 + 0.01 * i + rng.gauss(0, 0.02), 1.5 - 0.01 * i if i != 7 else None]
                 for i in range(41)]  # fmt: skip
        record = {
            "schema": "tunebench/record", "schema_version": 5 if self.hardware else 1,
            "run_id": self.run_id, "status": self.status, "reason": self.reason, "spec": self._spec(),
            "settings": {"lr": 1e-4, "K": 4, "m": 1, **self.settings},
            "suite": {"title": "COCO-like scene captions", "name": "coco", "edition": "sample"},
            "notes": ["synthetic figures"], "ranked": self.ranked, "unranked_reason": self.unranked_reason,
            "ledger": {
                "budget": {self.primary: self.limit_u, "primary": self.primary},
                "spent": {"denoiser_u": self.spent_u, "steps": 40.0, "device_s": 95.4, "images": 320.0,
                          "reward_calls": 320.0, "flops": 2.97e12, "denoiser_fwd": self.spent_u - 2 * 2000.0,
                          "denoiser_bwd": 2000.0, **({"device_s": self.spent_u} if self.primary == "device_s" else {})},
                "lost": {"denoiser_u": 297.0, "device_s": 2.5}, "evaluation_s": {"generate": 31.2, "score": 12.9},
            },
            "provenance": {
                "commit": "4a46afb0c1", "dirty": False, "packages": {"torch": "2.13.0", "diffusers": "0.36.0"},
                "python": "3.11.7", "platform": "Linux x86_64", "device": "cpu", "n_threads": 2, "world_size": 1,
                **({"hardware": self.hardware} if self.hardware else {}),
                "command": f"python -m bench run --suite coco --tuner {self.tuner} --seed {self.seed}",
            },
            "attempts": [
                {"number": 1, "started": "2026-11-20T10:00:00Z", "ended": "2026-11-20T10:01:10Z", "host": "node-1",
                 "device": "cpu", "exit": "interrupted: SIGTERM", "lost": {"denoiser_u": 297.0}},
                {"number": 2, "started": "2026-11-20T10:02:00Z", "ended": "2026-11-20T10:04:00Z", "host": "node-1",
                 "device": "cpu", "exit": "done", "lost": {}},
            ],
            "snapshots": snapshots, "metrics": metrics,
            "curve": {"columns": ["denoiser_u", "steps", "reward", "grad_norm"], "rows": curve},
            "artifacts": [{"path": "snapshots/f100/adapter/adapter.safetensors", "sha256": "ab" * 32}],
            "error": self.error,
        }  # fmt: skip
        atomic.write_json(folder / "record.json", record)
        return folder

    def _spec(self) -> dict[str, Any]:
        sampler = {"scheduler": "ddim", "n_steps": 20, "guidance": 5.0, "eta": 0.0, "resolution": None}
        return {
            "suite": self.suite, "suite_name": "coco", "edition": "full" if "-full" in self.suite else "sample",
            "variant": "", "prompt_hash": "f00d", "train_prompt_hash": "beef", "limit": None, "model": self.model,
            "model_revision": "c0ffee", "tuner": self.tuner, "tuner_version": 1, "label": self.tuner,
            "settings": self.settings, "reward": self.reward,
            "budget": {self.primary: self.limit_u, "primary": self.primary, "hard_wall_s": 3600.0},
            "sampler": sampler, "train_sampler": sampler, "global_batch": 8, "eval_seeds": list(range(self.n_seeds)),
            "fractions": list(self.fractions), "metrics": ["fid"], "seed": self.seed,
        }  # fmt: skip

    def _metrics(
        self, folder: Path, name: str, fraction: float, rows: list[dict[str, Any]], rng: random.Random
    ) -> list[dict[str, Any]]:
        n = len(rows) * self.n_seeds
        ends = fraction in (self.fractions[0], self.fractions[-1])
        base = random.Random("base") if fraction == 0 else rng
        made: list[dict[str, Any]] = []
        for judge, role in sorted(self.judge_roles.items()):
            goal = self.trained if role == "trained-on" else self.held_out
            value = 0.5 + (goal - 0.5) * fraction**0.7
            if fraction > 0:
                made.append(entry(f"winrate/{judge}", name, value, n, role=role, judge=judge, half=0.06))
            scores = f"scores/reward_{judge}__{name}.jsonl"
            mean = 20 + 2 * (goal - 0.5) * fraction
            if ends:
                lines = [{"prompt_id": r["id"], "seed": s, "value": mean + base.gauss(0, 0.6), "reason": None}
                         for r in rows for s in range(self.n_seeds)]  # fmt: skip
                atomic.write_jsonl(folder / scores, lines)
            made.append(entry(f"reward/{judge}", name, mean, n, role=role, judge=judge, half=0.1,
                              scores=scores if ends else None, change=mean - 20 if fraction > 0 else None))  # fmt: skip
        if ends:
            kinds = {"color": {"accuracy": 0.7 + 0.05 * fraction, "n": 40}, "counting": {"accuracy": 0.5, "n": 22}}
            made += [
                entry("fid", name, 84.0 - 3 * fraction, n, better="lower", passport=self.fid_passport),
                entry("kid", name, 0.0123 - 0.001 * fraction, n, better="lower", half=0.0012),
                entry("clipscore/tiny-clip", name, 0.31 + 0.004 * fraction, n, half=0.003,
                      change=0.004 if fraction else None),
                entry("tifa/tiny-vqa", name, 0.71 + 0.02 * fraction, n, half=0.02, change=0.02 if fraction else None,
                      detail={"accuracy_by_kind": kinds, "n_questions": 62}),
                entry("fid-to-base", name, 4.0 * fraction, n, better="lower"),
                entry("diversity/tiny-clip", name, 0.44 - 0.03 * fraction, n, half=0.01,
                      change=-0.03 if fraction else None),
            ]  # fmt: skip
        if self.failed_metric:
            kind = self.failed_metric
            made = [m for m in made if m["name"].split("/")[0] != kind]
            made.append(entry(kind, name, None, 0, error="3 images are missing"))
        return made


def entry(
    name: str, snapshot: str, value: float | None, n: int, *, role: str = "held-out", judge: str = "",
    half: float | None = None, better: str = "higher", change: float | None = None, scores: str | None = None,
    passport: dict[str, Any] | None = None, detail: dict[str, Any] | None = None, error: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One metric of one snapshot, as a record holds it."""
    spans = half is not None and value is not None
    difference = None
    if change is not None:
        width = (half or 0.0) * 0.7
        difference = {"value": change, "ci_low": change - width, "ci_high": change + width}
    return {
        "name": name, "snapshot": snapshot, "value": value, "ci_low": value - half if spans else None,
        "ci_high": value + half if spans else None, "n": n, "unit": "", "higher_is_better": better == "higher",
        "role": role, "judge": judge, "family": judge, "difference": difference, "passport": passport or {},
        "detail": detail or {}, "scores": scores, "warnings": [], "error": error,
    }  # fmt: skip


def _images(folder: Path, rows: list[dict[str, Any]], n_seeds: int, fraction: float) -> None:
    """64×64 PNGs: a plain square for every prompt and seed, lighter when tuned."""
    index = []
    folder.mkdir(parents=True)
    for i, row in enumerate(rows):
        for seed in range(n_seeds):
            rng = random.Random(f"{row['id']} {seed}")
            back = tuple(rng.randrange(40, 120) + round(80 * fraction) for _ in range(3))
            image = Image.new("RGB", (64, 64), back)
            x, y = rng.randrange(4, 34), rng.randrange(4, 34)
            image.paste(tuple(rng.randrange(256) for _ in range(3)), (x, y, x + 24, y + 24))
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            path = f"{i:05d}-{seed}.png"
            (folder / path).write_bytes(buffer.getvalue())
            index.append({"prompt_id": row["id"], "seed": seed, "path": path,
                          "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()})  # fmt: skip
    atomic.write_jsonl(folder / "index.jsonl", index)


def one_of_everything(runs: Path) -> None:
    """All that a board can show; for looking at, and for the browser."""
    for seed in range(3):
        Fake(seed=seed, held_out=0.66 + 0.01 * seed, fractions=(0.0, 0.1, 1.0) if seed else Fake.fractions).write(runs)
    Fake(tuner="refl", held_out=0.60, trained=0.78, settings={"K": 2, "lr": 3e-4}, fractions=(0.0, 1.0)).write(runs)
    Fake(tuner="draft-lv", held_out=0.44, trained=0.93, spent_u=12300.0, fractions=(0.0, 1.0)).write(runs)
    error = {"type": "OutOfMemoryError", "message": "could not allocate 2.1 GiB", "tail": "line 1\nline 2"}
    Fake(tuner="alignprop", status="failed", reason="error", fractions=(0.0, 0.1), error=error).write(runs)
    Fake(tuner="hgdpo", status="diverged", reason="loss is not finite at step 31", fractions=(0.0, 0.5)).write(runs)
    limited = "limited to the first 64 of 1,632 prompts"
    Fake(suite="parti-full@1", ranked=False, unranked_reason=limited, fractions=(0.0, 1.0)).write(runs)
    Fake(suite="hpsv2-full@1", model="sd15", fractions=(0.0, 1.0)).write(runs)
    broken = runs / "coco-sample@1" / "refl" / "0badc0de"
    atomic.write_text(broken / "record.json", '{"schema": "tunebench/record", "schema_ver')
