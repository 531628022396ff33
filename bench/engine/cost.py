"""What a planned run is expected to cost: the budget it will spend, images, and time as recorded runs took it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.engine.plan import PlannedRun
from bench.store.runs import iter_records


@dataclass(frozen=True)
class Expected:
    """The price of one run."""

    primary: str
    limit: float
    n_images: int
    """Evaluation images over all snapshots, the base included."""
    wall_s: float | None
    """Median of recorded runs of the same suite, model, tuner and budget; None when there are none."""
    wall_s_low: float | None
    wall_s_high: float | None
    n_recorded: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        time = "no recorded run to tell the time from"
        if self.wall_s is not None:
            spread = f", {self.wall_s_low:.0f} to {self.wall_s_high:.0f}" if self.n_recorded > 1 else ""
            time = f"about {self.wall_s:.0f} s ({self.n_recorded} recorded{spread})"
        return f"{self.primary} {self.limit:,.0f}, {self.n_images} images, {time}"


def expect(run: PlannedRun, runs: Path) -> Expected:
    """The expected cost of ``run``, from its spec and from recorded runs that differ in seed and settings only."""
    spec = run.spec
    walls = []
    for _, record in iter_records(runs):
        other = record.spec
        same = ("suite", "model", "tuner", "limit")
        if all(other[key] == getattr(spec, key) for key in same) and record.ledger.budget == spec.budget.to_json():
            walls.append(record.ledger.spent["device_s"] + sum(record.ledger.evaluation_s.values()))
    limit = spec.budget.limit(spec.budget.primary)
    assert limit is not None
    return Expected(
        primary=spec.budget.primary, limit=limit,
        n_images=run.suite.spec.n_prompts * len(spec.eval_seeds) * len(spec.fractions),
        wall_s=statistics.median(walls) if walls else None, wall_s_low=min(walls, default=None),
        wall_s_high=max(walls, default=None), n_recorded=len(walls),
    )  # fmt: skip
