"""What the runs behind ``benchmarks.claims`` gave, kept in the repository: per-prompt scores by run id.

A run id says all that changes the answer, so that a run whose results are here need not be made again, on this machine
or another, and the page of claims can be made from what several machines measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.engine.plan import PlannedRun
from bench.store import atomic

METRICS = (
    "reward/tiny-pick", "reward/tiny-judge", "reward/tiny-caption", "reward/tree", "reward/symmetry",
    "clipscore/tiny-clip", "tifa/tiny-vqa", "colour-shift/hue", "colour-shift/saturation", "colour-shift/value",
)  # fmt: skip
"""What claims compare."""

DIGITS = 7
"""Significant ones that are kept: float32 has no more."""


class Results:
    """The kept results, and those of run folders that are not kept yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._rows = {row["run_id"]: row for row in atomic.read_jsonl(path)}

    def status(self, run: PlannedRun) -> str:
        """``done``, another end, or ``not run``."""
        self._take(run)
        row = self._rows.get(run.spec.run_id)
        return str(row["status"]) if row else "not run"

    def scores(self, run: PlannedRun, metric: str, snapshot: str) -> NDArray[np.float64]:
        """(n_prompts,) means over noise seeds, in order of prompt id, of a run that is ``done``."""
        self._take(run)
        return np.array(self._rows[run.spec.run_id]["scores"][metric][snapshot])

    def save(self) -> None:
        """Writes all results, ordered by run id."""
        lines = [json.dumps(self._rows[key], sort_keys=True) for key in sorted(self._rows)]
        atomic.write_text(self.path, "".join(f"{line}\n" for line in lines))

    def _take(self, run: PlannedRun) -> None:
        """Reads the folder of a run that ended and is not here yet."""
        key = run.spec.run_id
        if key in self._rows or not run.folder.record_path.exists():
            return
        record = run.folder.read_record()
        self._rows[key] = {
            "run_id": key, "label": run.spec.label, "seed": run.spec.seed, "status": record.status,
            "commit": record.provenance.commit, "scores": _read(run.folder.root / "scores"),
        }  # fmt: skip


def _read(folder: Path) -> Mapping[str, Mapping[str, list[float]]]:
    """Metric → snapshot → means over noise seeds by prompt."""
    found: dict[str, dict[str, list[float]]] = {}
    for metric in METRICS:
        for path in sorted(folder.glob(f"{metric.replace('/', '~')}__*.jsonl")):
            by_prompt: dict[str, list[float]] = {}
            for row in atomic.read_jsonl(path):
                by_prompt.setdefault(row["prompt_id"], []).append(float(row["value"]))
            means = [float(f"{np.mean(by_prompt[prompt]):.{DIGITS}g}") for prompt in sorted(by_prompt)]
            found.setdefault(metric, {})[path.stem.rpartition("__")[2]] = means
    return found
