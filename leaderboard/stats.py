"""The few statistics that the pages need: intervals over prompts, hulls over seeds, overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MIN_CLUSTERS = 4
"""Fewer prompts than this carry no interval worth printing."""


def student_975(df: int) -> float:
    """97.5 % quantile of Student's t by the Cornish-Fisher expansion in 1/df (within 1 % from df = 3 on).

    >>> round(student_975(10), 2), round(student_975(1000), 2)
    (2.23, 1.96)
    """
    z = 1.959963984540054
    return (
        z
        + (z**3 + z) / (4 * df)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    )


def clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float | None, float | None]:
    """Mean over clusters of cluster means with a 95 % t interval: images of one prompt are not independent.

    Categories hold a handful of prompts, where the percentile bootstrap of ``bench.core.paired`` is far too narrow.

    Returns:
        (mean, low, high); the ends are None below ``MIN_CLUSTERS`` clusters.
    """
    groups: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    means = np.array([np.mean(groups[key]) for key in sorted(groups)], dtype=np.float64)
    mean = float(means.mean())
    if len(means) < MIN_CLUSTERS:
        return mean, None, None
    half = student_975(len(means) - 1) * float(means.std(ddof=1)) / math.sqrt(len(means))
    return mean, mean - half, mean + half


def apart(low_a: float | None, high_a: float | None, low_b: float | None, high_b: float | None) -> bool:
    """Whether two intervals share no point; without an interval nothing can be told apart."""
    if low_a is None or high_a is None or low_b is None or high_b is None:
        return False
    return high_a < low_b or high_b < low_a
