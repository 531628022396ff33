"""Means of tables of tuning seeds x prompts: every seed's model is asked the same prompts, and both are samples.

The model is y_sp = mean + seed_s + prompt_p + rest_sp with independent effects (two-way random ANOVA, one value a
cell). Resampling is wrong here: with three seeds the percentile bootstrap of seeds and prompts covers 75 to 90 % where
seeds differ much, because three values resampled have too little variance and light tails. So variances are estimated
from mean squares and intervals are Student's t. Both of the usual ways to put several mean squares into one t are
computed and the wider is taken: Satterthwaite's (Biometrics Bulletin 2, 1946), too narrow where seeds dominate, and the
sum of squared half-widths of the parts (Ting et al., J. Stat. Comput. Simul. 35, 1990), too narrow where prompts do not
differ. Simulated coverage of the 95 % interval (tests/core/test_crossed.py): 94 to 99 % from three seeds on, 91 to 98 %
with two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.core.paired import CONFIDENCE, Interval
from bench.core.student import t_quantile, two_sided_p

MAX_MORE = 1_000_000
"""No more prompts or seeds than this are asked for: the difference is then as good as nothing."""
_P_GRID = np.sort(np.append(np.geomspace(1e-12, 1.0, 73)[:-1], 1 - CONFIDENCE))


@dataclass(frozen=True)
class Crossed:
    """A mean over tuning seeds and prompts. Variances are those of one seed's effect, one prompt's, and the rest's."""

    value: float
    ci_low: float
    ci_high: float
    n_seeds: int
    n_prompts: int
    p: float
    """Two-sided p value of the mean against ``null``."""
    var_seed: float | None
    """None where it is unknown, with one seed and no other tables to learn from: then the interval is about this seed's
    model alone."""
    var_prompt: float
    """With one seed the rest is in it."""
    var_rest: float
    df_seed: int
    """Degrees of freedom of ``var_seed``."""

    @property
    def half(self) -> float:
        return (self.ci_high - self.ci_low) / 2


@dataclass(frozen=True)
class SeedVariance:
    """What one tuning seed's effect varies by, from many tables together."""

    value: float
    df: int


def pooled_seed_variance(tables: Sequence[ArrayLike], df: int) -> SeedVariance | None:
    """Mean over tables of several seeds of their seed variances; None without any, or with ``df`` 0.

    Two or three seeds tell so little that a table's own variance is often near zero by chance, and at the small levels
    that many comparisons need such chances are what gets significant.

    Args:
        df: degrees of freedom of all tables together, such as the sum of seeds - 1 over the tuners compared.
    """
    found = []
    for values in tables:
        table = np.asarray(values, dtype=np.float64)
        if len(table) > 1:
            ms_seed, _, ms_rest = _mean_squares(table)
            found.append((ms_seed - ms_rest) / table.shape[1])
    return SeedVariance(max(0.0, math.fsum(found) / len(found)), df) if found and df else None


def crossed_mean(values: ArrayLike, *, null: float = 0.0, at_least: SeedVariance | None = None) -> Crossed:
    """Mean of a table with its 95 % interval over both seeds and prompts.

    Args:
        values: (n_seeds, n_prompts), such as each prompt's mean difference between two tuners.
        null: what the p value is against.
        at_least: seeds are taken to vary by this or by what the table shows, whichever is more; a table of one seed,
            which shows nothing, by this.

    Raises:
        ValueError: not a table of finite values.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"expected finite values (n_seeds, n_prompts), got shape {table.shape}")
    n_seeds, n_prompts = table.shape
    ms_seed, ms_prompt, ms_rest = _mean_squares(table)
    mean = float(table.mean())
    var_seed = None if n_seeds == 1 else max(0.0, ms_seed - ms_rest) / n_prompts
    df_seed = n_seeds - 1
    if at_least is not None and at_least.value >= (var_seed or 0.0):
        var_seed, df_seed = at_least.value, max(df_seed, at_least.df)
        ms_seed = max(ms_seed, ms_rest + n_prompts * at_least.value)
    half, p = _t_interval(mean - null, ms_seed, ms_prompt, ms_rest, n_seeds, n_prompts, df_seed)
    return Crossed(
        value=mean, ci_low=mean - half, ci_high=mean + half, n_seeds=n_seeds, n_prompts=n_prompts, p=p,
        var_seed=var_seed,
        var_prompt=max(0.0, ms_prompt - ms_rest) / n_seeds, var_rest=ms_rest, df_seed=df_seed,
    )  # fmt: skip


def crossed_mean_ci(values: ArrayLike) -> Interval:
    """``crossed_mean`` as the interval that other statistics give."""
    found = crossed_mean(values)
    return Interval(found.value, found.ci_low, found.ci_high, found.n_seeds * found.n_prompts, found.n_prompts)


def n_needed(
    effect: float, at: Crossed, *, more: Literal["prompts", "seeds"], alpha: float = 1 - CONFIDENCE, power: float = 0.8
) -> int | None:  # fmt: skip
    """How many prompts, or tuning seeds, in all make a difference of ``effect`` significant with chance ``power``.

    From the variances seen in ``at`` and the noncentral t approximation of Abramowitz & Stegun 26.7.10.

    Args:
        effect: the difference, in the table's unit, taken as the true one.
        at: what was seen; the number of the other kind stays.
        more: ``prompts`` or ``seeds``.
        alpha: level of the two-sided test.

    Returns:
        None where no number below ``MAX_MORE`` is enough, and for seeds where one seed tells nothing about others.
    """
    if effect == 0 or (more == "seeds" and at.var_seed is None):
        return None

    def enough(n: int) -> bool:
        n_seeds, n_prompts = (n, at.n_prompts) if more == "seeds" else (at.n_seeds, n)
        return _power(abs(effect), at, n_seeds, n_prompts, alpha) >= power

    high = at.n_seeds if more == "seeds" else max(2, at.n_prompts)
    if not enough(MAX_MORE):
        return None
    low = high - 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _mean_squares(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Of seeds, prompts and the rest; with one seed (prompt) the others' alone."""
    n_seeds, n_prompts = table.shape
    mean = table.mean()
    by_seed, by_prompt = table.mean(axis=1) - mean, table.mean(axis=0) - mean
    rest = table - mean - by_seed[:, None] - by_prompt[None, :]
    df_rest = (n_seeds - 1) * (n_prompts - 1)
    return (
        n_prompts * float((by_seed**2).sum()) / (n_seeds - 1) if n_seeds > 1 else 0.0,
        n_seeds * float((by_prompt**2).sum()) / (n_prompts - 1) if n_prompts > 1 else 0.0,
        float((rest**2).sum()) / df_rest if df_rest else 0.0,
    )


def _t_interval(
    distance: float, ms_seed: float, ms_prompt: float, ms_rest: float, n_seeds: int, n_prompts: int, df_seed: int
) -> tuple[float, float]:
    """(half-width of the 95 % interval, p value of ``distance``)"""
    n, df_prompt = n_seeds * n_prompts, n_prompts - 1
    share = 0.5 + CONFIDENCE / 2
    if ms_seed + ms_prompt <= 1e-24:  # rounding of a table of equal values
        return 0.0, 1.0 if math.isclose(distance, 0, abs_tol=1e-12) else 0.0
    if df_seed == 0 or df_prompt == 0:
        error = math.sqrt((ms_seed or ms_prompt) / n)
        alone = df_seed or df_prompt
        return t_quantile(share, alone) * error, two_sided_p(distance / error, alone)
    variance, df = _satterthwaite(ms_seed, ms_prompt, ms_rest, n_seeds, n_prompts, df_seed)
    error = math.sqrt(variance)
    half, p = t_quantile(share, df) * error, two_sided_p(distance / error, df)
    extra = max(0.0, ms_seed - ms_rest)
    summed = math.sqrt((t_quantile(share, df_seed) ** 2 * extra + t_quantile(share, df_prompt) ** 2 * ms_prompt) / n)
    squares = _squared_quantiles(df_seed) * extra + _squared_quantiles(df_prompt) * ms_prompt
    # Rising in log p from the largest distance to none: the p at which the summed interval ends at the null.
    at = -math.log(max(distance**2 * n, 1e-300))
    p_summed = math.exp(float(np.interp(at, -np.log(squares), np.log(_P_GRID), right=0.0)))
    return max(half, summed), max(p, p_summed)


@lru_cache(maxsize=512)
def _squared_quantiles(df: int) -> NDArray[np.float64]:
    """Squares of the two-sided quantiles for ``_P_GRID``."""
    return np.array([t_quantile(1 - p / 2, df) ** 2 for p in _P_GRID])


def _satterthwaite(
    ms_seed: float, ms_prompt: float, ms_rest: float, n_seeds: int, n_prompts: int, df_seed: int
) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom; never below what seeds or prompts alone give."""
    total = max(ms_seed + ms_prompt - ms_rest, ms_seed, ms_prompt)
    df_prompt = n_prompts - 1
    spread = ms_seed**2 / df_seed + ms_prompt**2 / df_prompt + ms_rest**2 / (df_seed * df_prompt)
    return total / (n_seeds * n_prompts), total**2 / spread


def _power(effect: float, at: Crossed, n_seeds: int, n_prompts: int, alpha: float) -> float:
    """Chance that ``n_seeds`` x ``n_prompts`` show ``effect``, with mean squares at their expectations."""
    if not at.var_seed and at.var_prompt + at.var_rest == 0:
        return 1.0
    if at.var_seed is None:
        variance, df = (at.var_prompt + at.var_rest) / n_prompts, n_prompts - 1.0
        critical = t_quantile(1 - alpha / 2, df)
    else:
        df_seed = at.df_seed if at.df_seed > at.n_seeds - 1 else max(1, n_seeds - 1)
        ms_seed, ms_prompt = at.var_rest + n_prompts * at.var_seed, at.var_rest + n_seeds * at.var_prompt
        variance, df = _satterthwaite(ms_seed, ms_prompt, at.var_rest, n_seeds, n_prompts, df_seed)
        summed = (
            t_quantile(1 - alpha / 2, df_seed) ** 2 * n_prompts * at.var_seed
            + t_quantile(1 - alpha / 2, n_prompts - 1) ** 2 * ms_prompt
        ) / (n_seeds * n_prompts)
        critical = max(t_quantile(1 - alpha / 2, df), math.sqrt(summed / variance))
    centred = (critical * (1 - 1 / (4 * df)) - effect / math.sqrt(variance)) / math.sqrt(1 + critical**2 / (2 * df))
    return 1 - NormalDist().cdf(centred)
