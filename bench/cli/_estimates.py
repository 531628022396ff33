"""How long planned runs are expected to take, for launchers that must say so beforehand."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from bench.engine.plan import PlannedRun
from bench.launch.base import Estimate
from bench.store.runs import iter_records

IMAGE_S = 3.0
"""A guess for an image, generated and scored, where no run is recorded: Stable Diffusion with 50 steps on one GPU."""
SCORERS_S = 300.0
"""A guess for loading the networks that score."""


def estimates(planned: Sequence[PlannedRun], runs: Path, processes: int) -> list[Estimate]:
    """One for each planned run: recorded runs that differ in seed and settings only, else what the budget says."""
    walls: dict[Hashable, list[tuple[float, float]]] = {}
    for _, record in iter_records(runs):
        if record.status == "done":
            key = _key(record.spec["suite"], record.spec["model"], record.spec["tuner"], record.spec["limit"],
                       record.ledger.budget, record.provenance.world_size)  # fmt: skip
            took_s = record.ledger.spent["device_s"] / record.provenance.world_size
            walls.setdefault(key, []).append((took_s, sum(record.ledger.evaluation_s.values())))
    return [_estimate(run, walls, processes) for run in planned]


def _key(suite: str, model: str, tuner: str, limit: int | None, budget: Any, processes: int) -> Hashable:
    return suite, model, tuner, limit, tuple(sorted(budget.items())), processes


def _estimate(run: PlannedRun, walls: dict[Hashable, list[tuple[float, float]]], processes: int) -> Estimate:
    spec = run.spec
    key = _key(spec.suite, spec.model, spec.tuner, spec.limit, spec.budget.to_json(), processes)
    if key in walls:
        why = f"median of {len(walls[key])} recorded"
        tuning_s, scoring_s = (statistics.median(part) for part in zip(*walls[key], strict=True))
        return Estimate(tuning_s, why, scoring_s, why)
    n_images = run.suite.spec.n_prompts * len(spec.eval_seeds) * len(spec.fractions)
    device_s = spec.budget.limit("device_s")
    tuning = (device_s / processes, "the budget") if device_s else (spec.budget.hard_wall_s, "the hard limit")
    return Estimate(*tuning, SCORERS_S + IMAGE_S * n_images, f"a guess: {n_images} images at {IMAGE_S:g} s")
