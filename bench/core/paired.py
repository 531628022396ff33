"""Paired statistics: win rate, mean difference and mean, with intervals from resampling prompts.

The unit is the prompt. Scores are paired by (prompt, seed): base and tuned start from the same noise. Several seeds of
one prompt are averaged first and prompts are resampled whole (cluster bootstrap), because images of one prompt are not
independent. The order of rows changes no digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.core.student import t_quantile

Clusters = Sequence[str] | Sequence[int]
"""One label for each row, the prompt id."""

CONFIDENCE = 0.95
N_BOOT = 2000
_DRAWS_AT_ONCE = 4_000_000
"""Random indices held at one time, 32 MB."""


@dataclass(frozen=True)
class Interval:
    """A mean over prompts."""

    value: float
    ci_low: float
    ci_high: float
    n: int
    """Rows."""
    n_clusters: int


@dataclass(frozen=True)
class WinRate:
    """How often ``a`` is above ``b``."""

    value: float
    """(wins + ties / 2) / n, averaged within each prompt first."""
    ci_low: float
    ci_high: float
    wins: int
    ties: int
    losses: int
    n: int
    """Pairs: wins + ties + losses."""
    n_clusters: int
    sign_test_p: float
    """Exact two-sided sign test over prompts; tied prompts take no part."""
    method: Literal["cluster bootstrap", "wilson"]
    """``wilson`` only where all prompts agree: resampling them would give an interval of no width."""


def win_rate(
    a: ArrayLike, b: ArrayLike, clusters: Clusters, *, tie_eps: float = 0.0, seed: int = 0, n_boot: int = N_BOOT
) -> WinRate:
    """Win rate of ``a`` over ``b``, ties counting half.

    Args:
        a, b: paired scores, higher is better, (n,).
        clusters: prompt of each pair, (n,).
        tie_eps: scores that differ by at most this are a tie.
        seed: of the bootstrap's own generator.
        n_boot: resamples.

    Raises:
        ValueError: no pairs, unequal lengths, values that are not finite.
    """
    difference = _column(a, clusters) - _column(b, clusters)
    if tie_eps < 0:
        raise ValueError(f"tie_eps must not be negative, got {tie_eps}")
    sign = np.where(np.abs(difference) <= tie_eps, 0.0, np.sign(difference))
    per_prompt = _cluster_means(0.5 + 0.5 * sign, clusters)
    n_prompts = len(per_prompt)
    unanimous = bool((per_prompt == 1).all() or (per_prompt == 0).all())
    low, high = wilson(per_prompt[0] * n_prompts, n_prompts) if unanimous else _bootstrap(per_prompt, seed, n_boot)
    return WinRate(
        value=float(per_prompt.mean()), ci_low=low, ci_high=high,
        wins=int((sign > 0).sum()), ties=int((sign == 0).sum()), losses=int((sign < 0).sum()),
        n=len(sign), n_clusters=n_prompts,
        sign_test_p=sign_test(int((per_prompt > 0.5).sum()), int((per_prompt < 0.5).sum())),
        method="wilson" if unanimous else "cluster bootstrap",
    )  # fmt: skip


def mean_difference(
    a: ArrayLike, b: ArrayLike, clusters: Clusters, *, seed: int = 0, n_boot: int = N_BOOT
) -> Interval:  # fmt: skip
    """Mean of a - b with its cluster bootstrap interval; arguments as in ``win_rate``."""
    return cluster_mean_ci(_column(a, clusters) - _column(b, clusters), clusters, seed=seed, n_boot=n_boot)


def cluster_mean_ci(values: ArrayLike, clusters: Clusters, *, seed: int = 0, n_boot: int = N_BOOT) -> Interval:
    """Mean over prompts of the mean within each prompt, and its 95 % percentile interval over resampled prompts.

    One prompt alone tells nothing about others: its interval is the value itself and ``n_clusters`` says why.
    """
    column = _column(values, clusters)
    per_prompt = _cluster_means(column, clusters)
    low, high = _bootstrap(per_prompt, seed, n_boot)
    return Interval(float(per_prompt.mean()), low, high, len(column), len(per_prompt))


def mean_t_interval(values: ArrayLike, clusters: Clusters) -> Interval:
    """As ``cluster_mean_ci``, with Student's t instead of the bootstrap: right from a handful of prompts on, where the
    percentile bootstrap is too narrow. One prompt alone leaves the value itself."""
    column = _column(values, clusters)
    per_prompt = _cluster_means(column, clusters)
    n, mean = len(per_prompt), float(per_prompt.mean())
    half = 0.0
    if n > 1:
        half = t_quantile(0.5 + CONFIDENCE / 2, n - 1) * float(per_prompt.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, len(column), n)


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval for a share.

    >>> [round(100 * x, 1) for x in wilson(151, 177)]  # HG-DPO's 85.31 %
    [79.3, 89.8]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p value of ``wins`` against ``losses`` under equal chances; 1 when there is nothing to test."""
    n = wins + losses
    tail, ways = 0, 1
    for k in range(min(wins, losses) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)  # n choose k + 1
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def _column(values: ArrayLike, clusters: Clusters) -> NDArray[np.float64]:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) != len(clusters) or len(column) == 0:
        raise ValueError(f"expected one value for each of {len(clusters)} rows and at least one, got {column.shape}")
    if not np.isfinite(column).all():
        raise ValueError(f"{int((~np.isfinite(column)).sum())} of {len(column)} values are not finite")
    return column


def _cluster_means(column: NDArray[np.float64], clusters: Clusters) -> NDArray[np.float64]:
    """Mean of each prompt, in order of prompt labels; rows are added in order of value, so row order cannot matter."""
    labels, inverse = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.lexsort((column, inverse))
    sums = np.bincount(inverse[order], weights=column[order], minlength=len(labels))
    return np.asarray(sums / np.bincount(inverse, minlength=len(labels)), dtype=np.float64)


def _bootstrap(per_prompt: NDArray[np.float64], seed: int, n_boot: int) -> tuple[float, float]:
    """Percentile interval of the mean over ``n_boot`` resamples of the prompts."""
    rng = np.random.default_rng(seed)
    n = len(per_prompt)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    means = np.concatenate([
        per_prompt[rng.integers(n, size=(min(at_once, n_boot - start), n))].mean(axis=1)
        for start in range(0, n_boot, at_once)
    ])  # fmt: skip
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
