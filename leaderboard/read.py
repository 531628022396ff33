"""Reads the records under a runs folder; a damaged one is reported and stops nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.budget import Budget
from bench.core.errors import UserError
from bench.core.identity import canonical_json, file_sha256
from bench.core.record import MetricEntry, Record, SnapshotEntry
from bench.store.runs import RunFolder

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}")
"""A run id is part of a page's file name, so nothing else may be in it."""


@dataclass(frozen=True)
class Run:
    """A record with the facts that boards group by."""

    root: Path
    """The runs folder; nothing outside it is ever read."""
    folder: Path
    record: Record
    suite: str
    edition: str
    model: str
    tuner: str
    """What boards call it: the preset's name, else the tuner's."""
    reward: str
    seed: int
    changed: dict[str, Any] = field(compare=False)
    """Settings that are not the tuner's defaults."""
    budget: Budget
    digest: str = ""
    """SHA-256 of ``record.json``: two runs of one digest are the same."""

    @classmethod
    def of(cls, root: Path, folder: Path, record: Record, digest: str) -> Run:
        """Raises UserError when the record's spec lacks what a board needs."""
        spec = record.spec
        missing = [key for key in ("suite", "edition", "model", "tuner", "reward", "seed", "budget") if key not in spec]
        if missing:
            raise UserError(f"its spec lacks {', '.join(missing)}")
        if not _RUN_ID.fullmatch(record.run_id):
            raise UserError(f"{record.run_id!r} is no run id", valid="letters, digits, '-', '_', '.'")
        return cls(
            root=root, folder=folder, record=record, suite=str(spec["suite"]), edition=str(spec["edition"]),
            model=str(spec["model"]), tuner=str(spec.get("label") or spec["tuner"]), reward=str(spec["reward"]),
            seed=int(spec["seed"]), changed=dict(spec.get("settings") or {}), budget=Budget.from_json(spec["budget"]),
            digest=digest,
        )  # fmt: skip

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def base(self) -> SnapshotEntry | None:
        """The untouched model: the snapshot at fraction 0."""
        return next((s for s in self.record.snapshots if s.fraction == 0), None)

    @property
    def final(self) -> SnapshotEntry | None:
        """The last snapshot of the tuned model, at whatever share of the budget it was taken."""
        tuned = [s for s in self.record.snapshots if s.fraction > 0]
        return max(tuned, key=lambda s: s.fraction) if tuned else None

    def entries(self, snapshot: SnapshotEntry | None) -> dict[str, MetricEntry]:
        """The metrics of one snapshot by name."""
        return {} if snapshot is None else {m.name: m for m in self.record.metrics if m.snapshot == snapshot.name}

    def inside(self, *parts: str) -> Path:
        """A path below the run's folder.

        Raises:
            UserError: it leads out of the runs folder, which no honest record does.
        """
        path = self.folder.joinpath(*parts).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise UserError(f"{'/'.join(parts)!r} leads out of the runs folder")
        return path


@dataclass(frozen=True)
class Unreadable:
    """A record that could not be taken, and why."""

    path: str
    """Relative to the runs folder."""
    reason: str


def read_runs(runs_dir: Path) -> tuple[list[Run], list[Unreadable]]:
    """Every record under ``runs_dir``, by run id, and the ones that could not be read."""
    runs: dict[str, Run] = {}
    texts: dict[str, str] = {}
    unreadable: list[Unreadable] = []
    for path in sorted(runs_dir.glob("*/*/*/record.json")):
        where = path.relative_to(runs_dir).as_posix()
        try:
            run = Run.of(runs_dir, path.parent, RunFolder(path.parent).read_record(), file_sha256(path))
            text = canonical_json(run.record.model_dump())
        except (UserError, OSError, ValueError, TypeError, AttributeError) as err:
            # Hand-made JSON can be of any shape: whatever it trips over is that file's fault, not the site's.
            reason = err.problem if isinstance(err, UserError) else f"{type(err).__name__}: {err}"
            reason = reason.replace(f"{path}", "it").replace(f"{runs_dir}/", "")
            unreadable.append(Unreadable(where, " ".join(reason.split())))
            continue
        known = runs.setdefault(run.run_id, run)
        if texts.setdefault(run.run_id, text) != text:
            first = known.folder.relative_to(runs_dir).as_posix()
            unreadable.append(Unreadable(where, f"run {run.run_id} again with other content; shown is {first}"))
    return [runs[run_id] for run_id in sorted(runs)], unreadable
