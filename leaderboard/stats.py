"""The few statistics that the pages need: intervals over prompts and over tuning seeds, overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from bench.core.paired import CONFIDENCE, mean_t_interval
from bench.core.student import t_quantile

MIN_CLUSTERS = 4
"""Fewer prompts than this carry no interval worth printing."""
_SHARE = 0.5 + CONFIDENCE / 2
_NORMAL_QUANTILE = NormalDist().inv_cdf(_SHARE)


def clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float | None, float | None]:
    """Mean over clusters of cluster means with a 95 % t interval: images of one prompt are not independent.

    Categories hold a handful of prompts, where the percentile bootstrap of ``bench.core.paired`` is far too narrow.

    Returns:
        (mean, low, high); the ends are None below ``MIN_CLUSTERS`` clusters.
    """
    found = mean_t_interval(values, clusters)
    if found.n_clusters < MIN_CLUSTERS:
        return found.value, None, None
    return found.value, found.ci_low, found.ci_high


def over_seeds(
    values: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None]
) -> tuple[float, float | None, float | None]:
    """One figure of a tuner from its tuning seeds' figures: their mean with a 95 % interval over seeds and prompts.

    For figures of which only the seeds' own intervals over prompts are known (``bench.core.crossed`` needs them by
    prompt). The seeds share their prompts, so the variance from prompts is that of one seed at most; Satterthwaite's
    degrees of freedom. Simulated coverage 93 to 99 % from three seeds on, 87 to 99 % with two. One seed keeps its own.

    Returns:
        (mean, low, high); no ends where a seed has none.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if any(end is None for end in (*lows, *highs)):
        return mean, None, None
    halves = [((high or 0.0) - (low or 0.0)) / 2 for low, high in zip(lows, highs, strict=True)]
    if n == 1:
        return mean, lows[0], highs[0]
    from_prompts = math.fsum((half / _NORMAL_QUANTILE) ** 2 for half in halves) / n
    from_seeds = math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n
    if from_seeds == 0:
        half = math.fsum(halves) / n
    else:
        df = (n - 1) * ((from_seeds + from_prompts) / from_seeds) ** 2
        half = t_quantile(_SHARE, _rounded_down(df)) * math.sqrt(from_seeds + from_prompts)
    return mean, mean - half, mean + half


def _rounded_down(df: float) -> float:
    """To two significant digits: never a narrower interval, and a table of a few quantiles serves thousands of rows."""
    size = 10.0 ** (math.floor(math.log10(df)) - 1)
    return math.floor(df / size + 1e-9) * size if df < 1e6 else 1e6


def apart(low_a: float | None, high_a: float | None, low_b: float | None, high_b: float | None) -> bool:
    """Whether two intervals share no point; without an interval nothing can be told apart."""
    if low_a is None or high_a is None or low_b is None or high_b is None:
        return False
    return high_a < low_b or high_b < low_a
