"""Scoring a finished run once more: its stored images past every cache, or its adapter at other scales. No tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bench.core.errors import UserError
from bench.core.record import MetricEntry, Record, ScaledEntry, SnapshotEntry, is_human
from bench.diffusion import adapters
from bench.engine import imaging, scoring, tuning
from bench.engine.rejudging import rejudge
from bench.engine.worker import Worker
from bench.store import atomic
from bench.store.lock import exclusive
from bench.store.runs import RunFolder


class Rescorer(Worker):
    """A worker on a run that has its record."""

    def rescore(self, *, regenerate: bool = False) -> Record:
        """Scores the stored images again, past every cache, and rewrites the record.

        Args:
            regenerate: first make images that are missing or damaged again, from the recorded adapters.
        """
        with exclusive(self.folder.lock_path, f"run {self.spec.run_id}"):
            old = self.folder.read_record()
            folders = [(s.name, self.folder.root / s.images) for s in old.snapshots]
            if not folders:
                raise UserError(f"run {self.spec.run_id} has no images to score ({old.status}: {old.reason})")
            if regenerate:
                for _, root in folders:
                    imaging.drop_damaged(root)
                self._generate()
            scaled = [(e.snapshot.name, self.folder.root / e.snapshot.images) for e in old.scales]
            ends = [folders[-1][0], *(name for name, _ in scaled)]
            entries = self._scorer(fresh=True).score_all([*folders, *scaled], self.stop, ends=ends)
            own = {name for name, _ in folders}
            record = old.model_copy(update={
                "metrics": [*(m for m in entries if m.snapshot in own), *(m for m in old.metrics if is_human(m))],
                "scales": [_with_metrics(e.snapshot, entries) for e in old.scales],
            })  # fmt: skip
            self.recorder.write(record)
            return record

    def score_scales(self, scales: Sequence[float]) -> Record:
        """Samples and scores the last snapshot with other LoRA scales, and adds them to the record."""
        with exclusive(self.folder.lock_path, f"run {self.spec.run_id}"):
            old = self.folder.read_record()
            last = old.snapshots[-1] if old.snapshots else None
            if last is None or last.adapter is None:
                raise UserError(f"run {self.spec.run_id} has no adapter to scale ({old.status}: {old.reason})",
                                hint="bench status")  # fmt: skip
            base = (scoring.BASE, self.folder.snapshots / scoring.BASE / "images")
            found = [self._sample_scaled(last, scale) for scale in scales]
            folders = [(s.name, self.folder.root / s.images) for s in found]
            entries = self._scorer().score_all([base, *folders], self.stop, ends=[name for name, _ in folders])
            kept = {e.snapshot.name: e for e in old.scales} | {s.name: _with_metrics(s, entries) for s in found}
            record = old.model_copy(update={"scales": sorted(kept.values(), key=lambda e: e.snapshot.adapter_scale)})
            self.recorder.write(record)
            return record

    def _sample_scaled(self, last: SnapshotEntry, scale: float) -> SnapshotEntry:
        """The images of one scale, made where they are missing."""
        name = f"{last.name}-s{round(100 * scale):03d}"
        root = self.folder.snapshots / name
        facts = atomic.read_json(self.folder.snapshots / last.name / "snapshot.json")
        atomic.write_json(root / "snapshot.json", {**facts, "adapter_scale": scale})
        model = self._load_model()
        patch = tuning.load_patch(model, self.folder.snapshots / last.name, self.request["tuner"], self.spec.settings)
        images = imaging.make_images(
            root / "images", model, self.spec, self.suite, dataclasses.replace(patch, adapter_scale=scale),
            self.progress, f"generate {name}", self.stop,
        )  # fmt: skip
        adapters.detach(model.unet)
        return self.recorder.snapshot(name, images).model_copy(update={"adapter": last.adapter})


def _with_metrics(snapshot: SnapshotEntry, entries: Sequence[MetricEntry]) -> ScaledEntry:
    return ScaledEntry(snapshot=snapshot, metrics=[m for m in entries if m.snapshot == snapshot.name])


def parse_scales(text: str) -> list[float]:
    """``0.5,0.75`` as numbers. Raises UserError unless each is above 0 and has two decimals at most."""
    try:
        scales = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        scales = []
    if not scales or any(not 0 < s < 10 or abs(100 * s - round(100 * s)) > 1e-9 for s in scales):
        raise UserError(f"--adapter-scale {text!r}", valid="numbers above 0 and below 10 with two decimals at most",
                        hint="--adapter-scale 0.5,0.75")  # fmt: skip
    return scales


def rescore(
    folder: RunFolder, *, regenerate: bool = False, scales: Sequence[float] = (), quiet: bool = False,
    say: Callable[[str], object] = lambda text: None, **judging: Any,
) -> Record:  # fmt: skip
    """``bench score``: see ``Rescorer.rescore`` and, with ``scales``, ``Rescorer.score_scales``.

    Args:
        say: told what this machine lacks of what is to be measured.
        judging: see ``rejudging.rejudge``.

    Raises:
        UserError: the run is not finished; a choice that cannot be.
    """
    if not folder.record_path.exists():
        raise UserError(f"run {folder.root.name} is not finished", hint="the same bench run command again continues it")
    for sentence in rejudge(folder, **judging):
        say(f"absent: {sentence}")
    if folder.read_record().external is not None:
        return _rescore_external(folder, regenerate or bool(scales), quiet)
    worker = Rescorer(folder, quiet=quiet)
    return worker.score_scales(scales) if scales else worker.rescore(regenerate=regenerate)


def _rescore_external(folder: RunFolder, makes_images: bool, quiet: bool) -> Record:
    """Images from elsewhere have no adapter: they can be scored again and not made again."""
    from bench.engine import external

    if makes_images:
        raise UserError(f"run {folder.root.name} is images from elsewhere: it has no adapter to sample with",
                        hint=f"bench score {folder.root.name}")  # fmt: skip
    return external.rescore(folder, quiet=quiet)
