"""What is in a run folder, as the record that boards are made of."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.core.budget import Ledger
from bench.core.contract import ImageFolder
from bench.core.identity import file_sha256, plain
from bench.core.record import Artifact, ErrorEntry, LedgerEntry, MetricEntry, Record, SnapshotEntry
from bench.core.types import RunSpec, Suite
from bench.diffusion.processes import ProcessFailed
from bench.engine import imaging
from bench.engine.attempt import provenance, read_attempts, read_curve, tuned_on
from bench.store import atomic
from bench.store.runs import RunFolder

Status = Literal["done", "failed", "diverged"]


@dataclass(frozen=True)
class Recorder:
    """Reads one run folder."""

    folder: RunFolder
    spec: RunSpec
    suite: Suite
    request: Mapping[str, Any]
    device: str
    processes: int
    micro_batch: int
    execution: Mapping[str, Any] = field(default_factory=dict)
    """How the base model is computed, where that is not the plain way."""

    def make(
        self, status: Status, reason: str, error: ErrorEntry | None, folders: list[tuple[str, ImageFolder]],
        entries: list[MetricEntry],
    ) -> Record:  # fmt: skip
        """The record of what is in the folder; ``folders`` are the base's and every snapshot's images, by name."""
        s = self.suite.spec
        limited = (
            f"only the first {s.limit} prompts were used (--limit)" if s.limit else self._untrained(status, folders)
        )
        n_threads = self.request["n_threads"]
        return Record(
            run_id=self.spec.run_id, status=status, reason=reason, spec=plain(self.spec),
            settings=dict(self.request["settings"]), suite={**plain(s), "id": s.id},
            notes=[*self.suite.notes, *self._cut(folders)],
            ranked=limited is None, unranked_reason=limited, ledger=self.ledger(),
            provenance=provenance(
                self.device, tuned_on(self.folder), n_threads, self.request["command"], self.processes,
                self.micro_batch, self.execution,
            ),
            attempts=read_attempts(self.folder), snapshots=[self.snapshot(n, f) for n, f in folders], metrics=entries,
            curve=read_curve(self.folder), artifacts=self._artifacts(folders), error=error,
        )  # fmt: skip

    def _cut(self, folders: list[tuple[str, ImageFolder]]) -> list[str]:
        n = max((imaging.n_truncated(f.root) or 0 for _, f in folders), default=0)
        return [f"{n} of {len(self.suite.prompts)} prompts are longer than a text encoder of {self.spec.model} reads: "
                "their end was cut"] if n else []  # fmt: skip

    def _untrained(self, status: Status, folders: list[tuple[str, ImageFolder]]) -> str | None:
        """Why a run whose adapter was never trained is no result: its images are the base model's."""
        facts = [atomic.read_json(self.folder.snapshots / name / "snapshot.json") for name, _ in folders[1:]]
        if status != "done" or not any(f["adapter"] for f in facts) or self.ledger().spent["steps"]:
            return None
        return "no optimiser step was taken: the budget does not hold the first one"

    def ledger(self) -> LedgerEntry:
        """What was spent so far, over all attempts."""
        empty = Ledger(self.spec.budget).to_json()
        data = atomic.read_json(self.folder.ledger_path) if self.folder.ledger_path.exists() else empty
        path = self.folder.root / "evaluation.json"
        return LedgerEntry(**data, evaluation_s=atomic.read_json(path) if path.exists() else {})

    def snapshot(self, name: str, images: ImageFolder) -> SnapshotEntry:
        """The entry of the snapshot in ``snapshots/<name>``."""
        root = self.folder.snapshots / name
        facts = atomic.read_json(root / "snapshot.json")
        return SnapshotEntry(
            name=name, fraction=facts["fraction"], spent=facts["spent"],
            adapter=f"snapshots/{name}/adapter" if facts["adapter"] else None, images=f"snapshots/{name}/images",
            n_images=len(images.refs), content_hash=images.content_hash, adapter_scale=facts["adapter_scale"],
            u_per_image=imaging.u_per_image(root / "images"), n_truncated=imaging.n_truncated(root / "images"),
        )  # fmt: skip

    def _artifacts(self, folders: list[tuple[str, ImageFolder]]) -> list[Artifact]:
        paths = ["kept.pt"] + [p for name, _ in folders for p in (
            f"snapshots/{name}/images/index.jsonl", f"snapshots/{name}/adapter/pytorch_lora_weights.safetensors",
        )]  # fmt: skip
        root = self.folder.root
        return [Artifact(path=p, sha256=file_sha256(root / p)) for p in paths if (root / p).exists()]

    def write(self, record: Record) -> None:
        """Last: a run is done when its record is there."""
        atomic.write_json(self.folder.record_path, record.model_dump(mode="json", by_alias=True))


def error_entry(err: BaseException) -> ErrorEntry:
    """What a tuner raised; of one that failed in another process, that process's traceback."""
    tail = err.failure.tail if isinstance(err, ProcessFailed) else "".join(traceback.format_exception(err))[-4000:]
    return ErrorEntry(type=type(err).__name__, message=str(err), tail=tail)
