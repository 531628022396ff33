"""``bench eval``: scores images from elsewhere as runs are scored, and writes their record. Nothing is tuned here.

The run folder is that of a run without attempts: ``snapshots/f000`` holds the base model's images (with ``model``), and
``snapshots/f100`` the images from elsewhere. Its spec states the suite's own conditions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.core import registry
from bench.core.contract import ImageFolder, ImageRef
from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256, plain
from bench.core.judging import Judging
from bench.core.record import (
    Artifact,
    Curve,
    ExternalEntry,
    LedgerEntry,
    MetricEntry,
    Record,
    SnapshotEntry,
    is_human,
)  # fmt: skip
from bench.core.types import RunSpec, Suite
from bench.diffusion.execution import Execution
from bench.diffusion.models import BaseModel
from bench.diffusion.sources import find_source
from bench.engine import imaging, scoring
from bench.engine.attempt import provenance
from bench.engine.devices import hardware, resolve
from bench.engine.images_elsewhere import decode, read_index
from bench.engine.progress import Progress
from bench.metrics.images import read_folder, write_index
from bench.store import atomic
from bench.store.lock import exclusive
from bench.store.runs import RunFolder, run_folder

FINAL = "f100"
NO_MODEL = "none"
PAIRING = "prompt only: images from elsewhere share no noise with the base model's"
UNKNOWN_TRAINING = (
    "images from elsewhere: what their model was trained on is not known here, so every judge is called held-out"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


@dataclass(frozen=True)
class Request:
    """What ``bench eval`` is asked for."""

    images: Path
    name: str
    suite: Suite
    runs: Path
    model: str = ""
    """Base model to compare with; "" is the suite's own, ``none`` compares with none."""
    device: str = "auto"
    resolution: int | None = None
    note: str = ""
    command: str = ""
    quiet: bool = False
    judging: Judging = field(default_factory=Judging)


def evaluate(request: Request) -> RunFolder:
    """Takes the images over, scores them and writes the record; the same images again are scored once.

    Raises:
        UserError: a bad name; what ``read_index`` and ``decode`` refuse; a base model that cannot be loaded.
    """
    _check_name(request.name)
    resolve(request.device)
    suite = request.suite
    found = read_index(request.images, suite)
    pictures, sizes, resize = decode(found, request.resolution)
    hashes = [[p, [hashlib.sha256(data).hexdigest() for data in made]] for p, made in pictures.items()]
    spec = _spec(request, digest([hashes, resize, request.model == NO_MODEL], 16))
    folder = run_folder(request.runs, spec)
    facts = ExternalEntry(
        name=request.name, note=request.note, n_per_prompt=found.n_per_prompt, sizes=sizes, resize=resize,
        index_sha256=file_sha256(found.index),
    )  # fmt: skip
    with exclusive(folder.lock_path, f"run {spec.run_id}", wait_s=3.0):
        old = folder.read_record() if folder.record_path.exists() else None
        if old is not None and folder.read_spec().metrics == spec.metrics:
            return folder
        atomic.sweep(folder.root)
        _prepare(folder, spec, request)
        _store(folder, pictures, suite)
        record = _score(folder, spec, suite, facts, fresh=False, quiet=request.quiet)
        if old is not None:
            record = _with_people(record, old)
        _write(folder, record)
    return folder


def rescore(folder: RunFolder, *, quiet: bool = False) -> Record:
    """Scores the stored images again, past every cache, and rewrites the record; people's figures stay."""
    from bench.engine.prepare import read_suite

    with exclusive(folder.lock_path, f"run {folder.root.name}", wait_s=3.0):
        old = folder.read_record()
        assert old.external is not None
        new = _score(folder, folder.read_spec(), read_suite(folder), old.external, fresh=True, quiet=quiet)
        record = _with_people(new, old)
        _write(folder, record)
        return record


def _with_people(new: Record, old: Record) -> Record:
    """The old record with the new figures; people's stay."""
    kept = [m for m in old.metrics if is_human(m)]
    return old.model_copy(update={"metrics": [*new.metrics, *kept], "snapshots": new.snapshots})


def _check_name(name: str) -> None:
    taken = registry.entries("tuners")
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name!r} cannot be a row of the board", valid="letters, digits, '.', '_' and '-'",
                        hint="--name midjourney-5.2")  # fmt: skip
    if name in taken:
        raise UserError(f"--name {name!r} is a tuner's", valid="the name of whatever made the images")


def _spec(request: Request, images_digest: str) -> RunSpec:
    """The suite's own conditions; the images are part of the identity, so other images are another run."""
    s = request.suite.spec
    source = find_source(_model_of(request))
    return RunSpec(
        suite=s.id, suite_name=s.name, edition=s.edition, variant=s.variant, prompt_hash=s.prompt_hash,
        train_prompt_hash=s.train_prompt_hash, limit=s.limit, model=source.name, model_revision=source.revision(),
        model_defaults={}, tuner=request.name, tuner_version=1, label=request.name, tuner_sha256="", settings={},
        reward="", budget=s.budget, sampler=source.sampler(s.sampler), train_sampler=source.sampler(s.train_sampler),
        global_batch=s.global_batch, eval_seeds=s.eval_seeds, fractions=(0.0, 1.0), metrics=s.metrics, seed=0,
        files={"images": images_digest},
    )  # fmt: skip


def _model_of(request: Request) -> str:
    return request.suite.spec.model if request.model in ("", NO_MODEL) else request.model


def _prepare(folder: RunFolder, spec: RunSpec, request: Request) -> None:
    suite = request.suite
    folder.write_spec(spec)
    atomic.write_json(folder.root / "suite.json", {**dataclasses.asdict(suite.spec), "notes": list(suite.notes)})
    atomic.write_jsonl(folder.root / "prompts.jsonl", [dataclasses.asdict(p) for p in suite.prompts])
    atomic.write_jsonl(folder.root / "questions.jsonl", [dataclasses.asdict(q) for q in suite.questions])
    atomic.write_jsonl(folder.root / "train.jsonl", [])  # nothing was tuned
    atomic.write_json(folder.request_path, {
        "external": True, "device": resolve(request.device), "command": request.command,
        "model": None if request.model == NO_MODEL else _model_of(request),
        "n_threads": find_source(_model_of(request)).n_threads or torch.get_num_threads(),
        "score_threads": torch.get_num_threads(), "judging": dataclasses.asdict(request.judging),
    })  # fmt: skip


def _store(folder: RunFolder, pictures: Mapping[str, list[bytes]], suite: Suite) -> None:
    """PNGs and their index, the index last; the places of one prompt's images go by the suite's noise seeds."""
    root = folder.snapshots / FINAL / "images"
    refs: list[ImageRef] = []
    for prompt_id, made in pictures.items():
        for seed, data in zip(suite.spec.eval_seeds, made, strict=False):
            name = f"{len(refs):06d}.png"
            atomic.write_bytes(root / name, data)
            refs.append(ImageRef(prompt_id, seed, name, hashlib.sha256(data).hexdigest()))
    write_index(root, refs)


def _score(
    folder: RunFolder, spec: RunSpec, suite: Suite, facts: ExternalEntry, *, fresh: bool, quiet: bool
) -> Record:  # fmt: skip
    request = atomic.read_json(folder.request_path)
    progress = Progress(quiet=quiet)
    final = read_folder(folder.snapshots / FINAL / "images")
    base = _base(folder, spec, suite, request, progress)
    # the base's images of the first noise seeds, as many as the others brought
    shown = dataclasses.replace(suite, spec=dataclasses.replace(
        suite.spec, eval_seeds=suite.spec.eval_seeds[: facts.n_per_prompt]))  # fmt: skip
    torch.set_num_threads(request["score_threads"])
    scorer = scoring.Scorer(
        folder, dataclasses.replace(spec, reward=suite.spec.reward, eval_seeds=shown.spec.eval_seeds), shown,
        _cache(folder), request["device"], progress, own_reward_family="", fresh=fresh,
        judging=Judging.from_json(request.get("judging", {})),
    )  # fmt: skip
    if base is None:
        # scored as a base model is: nothing to win against, no difference; then filed under its own name
        entries = [_filed(folder, m) for m in scorer.score_all([(scoring.BASE, final.root)], _never)]
    else:
        pairs = [(scoring.BASE, base.root), (FINAL, final.root)]
        entries = [_unpaired(m) for m in scorer.score_all(pairs, _never)]
    s = suite.spec
    limited = f"only the first {s.limit} prompts were used (--limit)" if s.limit else None
    snapshots = [_snapshot(name, f) for name, f in ((scoring.BASE, base), (FINAL, final)) if f is not None]
    index = f"snapshots/{FINAL}/images/index.jsonl"
    return Record(
        run_id=spec.run_id, status="done", reason="images from elsewhere: nothing was tuned", spec=plain(spec),
        settings={}, suite={**plain(s), "id": s.id}, notes=[*suite.notes, UNKNOWN_TRAINING], ranked=limited is None,
        unranked_reason=limited, ledger=LedgerEntry(budget={}, spent={}, lost={}),
        provenance=provenance(
            request["device"], hardware(request["device"]), request["n_threads"], request["command"], 1, 1
        ),
        attempts=[], snapshots=snapshots, metrics=entries, curve=Curve(columns=[], rows=[]),
        artifacts=[Artifact(path=index, sha256=file_sha256(folder.root / index))], external=facts,
    )  # fmt: skip


def _cache(folder: RunFolder) -> Path:
    """Of the runs folder that the run is in now: it may have been merged into another."""
    return folder.root.resolve().parents[2] / ".cache"


def _never() -> None:
    """Nothing asks this to stop: Ctrl-C ends it, and the same command again starts over from the stored images."""


def _base(
    folder: RunFolder, spec: RunSpec, suite: Suite, request: Mapping[str, Any], progress: Progress
) -> ImageFolder | None:
    """The base model's images, made once for all runs of the suite; None without a model."""
    if request["model"] is None:
        return None
    torch.set_num_threads(request["n_threads"])
    root = folder.snapshots / scoring.BASE / "images"
    if (root / "index.jsonl").exists():
        return read_folder(root)
    execution = Execution.of(request, request["device"])

    def load() -> BaseModel:
        return execution.load(request["model"], request["device"])

    store = imaging.base_store(_cache(folder), spec, execution.to_json())
    return imaging.base_images(root, store, load, spec, suite, progress, _never)


def _snapshot(name: str, images: ImageFolder) -> SnapshotEntry:
    return SnapshotEntry(
        name=name, fraction=0.0 if name == scoring.BASE else 1.0, spent={}, adapter=None,
        images=f"snapshots/{name}/images", n_images=len(images.refs), content_hash=images.content_hash,
        u_per_image=imaging.u_per_image(images.root),
    )  # fmt: skip


def _unpaired(entry: MetricEntry) -> MetricEntry:
    """Says of a comparison with the base that prompts are all that the two have in common."""
    compares = entry.difference is not None or entry.passport.get("against") == "base"
    return entry.model_copy(update={"passport": {**entry.passport, "paired_by": PAIRING}}) if compares else entry


def _filed(folder: RunFolder, entry: MetricEntry) -> MetricEntry:
    scores = entry.scores
    if scores is not None:
        scores = scores.replace(f"__{scoring.BASE}.", f"__{FINAL}.")
        os.replace(folder.root / str(entry.scores), folder.root / scores)
    return entry.model_copy(update={"snapshot": FINAL, "scores": scores})


def _write(folder: RunFolder, record: Record) -> None:
    atomic.write_json(folder.record_path, record.model_dump(mode="json", by_alias=True))
