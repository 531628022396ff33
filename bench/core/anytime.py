"""Quality along the budget: area under the curve, time to a target, performance profiles over suites.

Time is the share of the budget spent, between 0 and 1. "Not reached" is a value: infinity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_RATIO = 4.0
"""Where profiles end, as in AlgoPerf."""


def area_under_curve(times: Sequence[float], values: Sequence[float]) -> float:
    """Mean quality over the whole budget, straight lines between snapshots.

    A tuner that ended before its budget keeps its last value to the end.

    Args:
        times: rising shares of the budget, the first one 0.
        values: quality at each.
    """
    _check(times, values)
    steps = sum((t1 - t0) * (v0 + v1) / 2 for t0, t1, v0, v1 in _pieces(times, values))
    return steps + (1 - times[-1]) * values[-1]


def time_to_target(times: Sequence[float], values: Sequence[float], target: float) -> float:
    """The first share of the budget at which quality is at ``target``, on straight lines between snapshots.

    What happens afterwards does not matter; infinity where no snapshot is at the target. Arguments as in
    ``area_under_curve``.
    """
    _check(times, values)
    if values[0] >= target:
        return times[0]
    for t0, t1, v0, v1 in _pieces(times, values):
        if v1 >= target:
            return t0 + (t1 - t0) * (target - v0) / (v1 - v0)
    return math.inf


def ratios_to_best(times: ArrayLike) -> NDArray[np.float64]:
    """Each tuner's time over the best tuner's on the same suite (Dolan & Moré, Math. Programming 91, 2002, eq. 2.1).

    Args:
        times: (n_tuners, n_suites), positive; infinity where the target was not reached or there is no run.

    Returns:
        (n_tuners, n_suites); infinity for all where nobody reached the target.
    """
    table = np.asarray(times, dtype=np.float64)
    if table.ndim != 2 or not (table > 0).all():
        raise ValueError(f"expected positive times (n_tuners, n_suites), got shape {table.shape}")
    best = table.min(axis=0, initial=math.inf)
    reached = np.isfinite(table)
    ratios = np.full(table.shape, math.inf)
    np.divide(table, best, out=ratios, where=reached)
    return ratios


def profile(ratios: ArrayLike, at: Sequence[float]) -> NDArray[np.float64]:
    """(n_tuners, len(at)): share of suites on which a tuner is within each factor of the best."""
    table = np.asarray(ratios, dtype=np.float64)
    return np.asarray((table[:, :, None] <= np.asarray(at)).mean(axis=1), dtype=np.float64)


def profile_score(ratios: ArrayLike, max_ratio: float = MAX_RATIO) -> NDArray[np.float64]:
    """Area under each tuner's profile from 1 to ``max_ratio``, between 0 and 1 (AlgoPerf, arXiv:2306.07179, sec. 4.5).

    The profile is a step function, so each suite adds the part of the range to the right of its ratio.
    """
    table = np.asarray(ratios, dtype=np.float64)
    return np.asarray(np.clip((max_ratio - table) / (max_ratio - 1), 0.0, None).mean(axis=1), dtype=np.float64)


def _pieces(times: Sequence[float], values: Sequence[float]) -> list[tuple[float, float, float, float]]:
    ends = zip(itertools.pairwise(times), itertools.pairwise(values), strict=True)
    return [(t0, t1, v0, v1) for (t0, t1), (v0, v1) in ends]


def _check(times: Sequence[float], values: Sequence[float]) -> None:
    rising = all(a < b for a, b in itertools.pairwise(times))
    if len(times) != len(values) or not times or times[0] != 0 or not rising or times[-1] > 1:
        raise ValueError(f"expected rising shares of the budget from 0 with a value each, got {list(times)}")
