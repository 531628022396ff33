"""The generate stage of a run: the base's images and every snapshot's, by one process or by several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.core.contract import ImageFolder, Patch
from bench.core.types import RunSpec, Suite
from bench.diffusion import adapters
from bench.diffusion.models import BaseModel
from bench.engine import imaging, scoring, tuning
from bench.engine.progress import Progress
from bench.engine.shards import Shard
from bench.metrics.images import read_folder
from bench.store import atomic
from bench.store.runs import RunFolder


@dataclass(frozen=True)
class Generation:
    """The images of one run. ``load_model`` is called when some are missing."""

    folder: RunFolder
    spec: RunSpec
    suite: Suite
    tuner_ref: str
    base_store: Path
    load_model: Callable[[], BaseModel]
    progress: Progress
    stop: Callable[[], None]
    """Called between images; raises when the attempt is to end."""

    def whole(self) -> dict[str, ImageFolder]:
        """Image folders of the base and of every snapshot, in order of the budget; what is missing is made."""
        wanted = {name: self._images(name) for name in [scoring.BASE, *self._names()]}
        if all((path / "index.jsonl").exists() for path in wanted.values()):
            return {name: read_folder(path) for name, path in wanted.items()}
        atomic.write_json(
            self.folder.snapshots / scoring.BASE / "snapshot.json",
            {"fraction": 0.0, "spent": {}, "adapter": False, "adapter_scale": 1.0},
        )
        base = imaging.base_images(
            wanted[scoring.BASE], self.base_store, self.load_model, self.spec, self.suite, self.progress, self.stop
        )
        return {scoring.BASE: base, **{name: self._tuned(name) for name in self._names()}}

    def part(self, shard: Shard) -> None:
        """One slice of every folder, as far as it is missing. Another process may do the same slice at once."""
        if not self._has_base():
            imaging.base_part(self.base_store, self.load_model, self.spec, self.suite, self.progress, self.stop, shard)
        for name in self._names():
            path = self._images(name)
            if imaging.missing(path, self.suite, shard):
                with self._patched(name) as (model, patch):
                    imaging.make_part(path, model, self.spec, self.suite, patch, self.progress,
                                      f"generate {name}", self.stop, shard)  # fmt: skip

    def parts(self, shard: Shard) -> Iterator[tuple[str, ImageFolder, AbstractContextManager[None]]]:
        """What ``part`` made: name and images of each folder, and what to hold while one looks at them.

        Raises:
            OSError: one is not there.
        """
        base = self._images(scoring.BASE) if self._has_base() else self.base_store
        yield scoring.BASE, imaging.part_of(base, self.suite, shard), imaging.part_turn(self.base_store, shard)
        for name in self._names():
            yield name, imaging.part_of(self._images(name), self.suite, shard), nullcontext()

    def _has_base(self) -> bool:
        return (self._images(scoring.BASE) / "index.jsonl").exists()

    def _tuned(self, name: str) -> ImageFolder:
        path = self._images(name)
        if not imaging.missing(path, self.suite):
            return imaging.complete(path, self.suite)
        with self._patched(name) as (model, patch):
            imaging.make_part(path, model, self.spec, self.suite, patch, self.progress, f"generate {name}", self.stop)
        return imaging.complete(path, self.suite)

    @contextmanager
    def _patched(self, name: str) -> Iterator[tuple[BaseModel, Patch]]:
        """The model with the snapshot's adapter on it."""
        model = self.load_model()
        try:
            yield model, tuning.load_patch(
                model, self.folder.snapshots / name, self.tuner_ref, self.spec.settings
            )
        finally:
            adapters.detach(model.unet)

    def _names(self) -> list[str]:
        return [tuning.snapshot_name(f) for f in tuning.taken_snapshots(self.folder, self.spec)]

    def _images(self, name: str) -> Path:
        return self.folder.snapshots / name / "images"
