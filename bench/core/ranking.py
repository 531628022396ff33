"""Who is better than whom: paired win rates of all pairs, Holm's correction, Bradley-Terry strengths, tie groups.

Everything starts from tables of wins (n_seeds, n_prompts): 1 where a is better, 0 where b is, 1/2 for a tie; several
noise seeds or judges of one prompt are averaged before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.core.crossed import Crossed, SeedVariance, crossed_mean, pooled_seed_variance
from bench.core.paired import CONFIDENCE, sign_test, wilson

ELO = 400 / math.log(10)
"""Points for one unit of log-odds: 400 points are odds of ten to one."""
_NEWTON_ROUNDS = 100

Table = NDArray[np.float64]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """How often a is above b."""

    value: float
    """Mean over seeds and prompts; ties count half."""
    ci_low: float
    ci_high: float
    p: float
    """Two-sided: Student's t over seeds and prompts; the exact sign test over prompts where nothing is known of how
    seeds vary, or where all cells agree."""
    sign_test_p: float
    """Exact two-sided sign test over prompts, each prompt's mean over seeds; tied prompts take no part."""
    crossed: Crossed


@dataclass(frozen=True)
class Strength:
    """Bradley-Terry log-odds against the anchor."""

    value: float
    ci_low: float
    ci_high: float


def wins(a: ArrayLike, b: ArrayLike, *, tie_eps: float = 0.0) -> Table:
    """1 where a is above b, 0 where below, 1/2 where they differ by at most ``tie_eps``; any shape."""
    if tie_eps < 0:
        raise ValueError(f"tie_eps must not be negative, got {tie_eps}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return np.asarray(0.5 + 0.5 * np.where(np.abs(difference) <= tie_eps, 0.0, np.sign(difference)))


def compare(table: ArrayLike, at_least: SeedVariance | None = None) -> Comparison:
    """A table of wins (n_seeds, n_prompts) as one win rate.

    The interval is ``crossed_mean``'s, cut at 0 and 1; where all cells agree it is Wilson's over prompts, since equal
    values have no variance to estimate.

    Args:
        at_least: how seeds vary in the pairs of the same family together (``pooled_seed_variance``). Without it Holm's
            small levels are met by pairs whose two or three seeds agree by chance: a family-wise error of 5 % becomes
            15 to 70 % where seeds matter (tests/core/test_ranking.py).
    """
    crossed = crossed_mean(table, null=0.5, at_least=at_least)
    by_prompt = np.asarray(table, dtype=np.float64).mean(axis=0)
    sign_p = sign_test(int((by_prompt > 0.5).sum()), int((by_prompt < 0.5).sum()))
    low, high = max(0.0, crossed.ci_low), min(1.0, crossed.ci_high)
    if crossed.half == 0:
        low, high = wilson(crossed.value * crossed.n_prompts, crossed.n_prompts)
    exact = crossed.var_seed is None or crossed.half == 0
    return Comparison(crossed.value, low, high, sign_p if exact else crossed.p, sign_p, crossed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the given order: a family-wise error of 5 % at adjusted p <= 0.05 (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def better(n: int, comparisons: Mapping[Pair, tuple[float, float]], alpha: float = 1 - CONFIDENCE) -> NDArray[np.bool_]:
    """(n, n): whether row i is significantly better than row j, from (win rate of a, adjusted p) by pair (a, b)."""
    found = np.zeros((n, n), dtype=bool)
    for (a, b), (value, p) in comparisons.items():
        if p <= alpha and value != 0.5:
            found[(a, b) if value > 0.5 else (b, a)] = True
    return found


def places(is_better: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Best and worst place each row may have: 1 + rows significantly better, n - rows significantly worse.

    With tests that hold the family-wise error these are simultaneous confidence sets for all ranks
    (Mogstad, Romano, Shaikh & Wilhelm, Review of Economic Studies 91, 2024). They need no transitivity.
    """
    n = len(is_better)
    above, below = is_better.sum(axis=0), is_better.sum(axis=1)
    return [(1 + int(above[i]), n - int(below[i])) for i in range(n)]


def tie_groups(is_better: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """All largest sets of rows of which none is significantly better than another, in order of their first rows.

    "Not significantly different" is not transitive, so groups may overlap: a row stands in each group that it cannot
    be told from (the compact letter display of Piepho, J. Comput. Graph. Stat. 13, 2004, by insert and absorb).
    """
    n = len(is_better)
    apart = is_better | is_better.T
    groups = [frozenset(range(n))] if n else []
    for a, b in sorted((int(i), int(j)) for i, j in np.argwhere(apart) if i < j):
        split: set[frozenset[int]] = set()
        for group in groups:
            split |= {group - {a}, group - {b}} if {a, b} <= group else {group}
        groups = [g for g in split if not any(g < other for other in split)]
    return sorted(tuple(sorted(g)) for g in groups)


def bradley_terry(rates: ArrayLike) -> NDArray[np.float64]:
    """Log-odds strengths, (n,), mean 0, whose win rates fit best: maximum likelihood (Bradley & Terry 1952).

    Args:
        rates: (n, n), share of wins of row i over row j; rates[j, i] = 1 - rates[i, j]. nan where a pair never met.

    Raises:
        ValueError: some row won or lost everything, so that its strength is infinite, or rows never met.
    """
    table = np.asarray(rates, dtype=np.float64)
    met = ~np.isnan(table) & ~np.eye(len(table), dtype=bool)
    shares = np.where(met, table, 0.0)
    theta = np.zeros(len(table))
    for _ in range(_NEWTON_ROUNDS):
        expected = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
        gradient = np.where(met, shares - expected, 0.0).sum(axis=1)
        try:
            step = np.linalg.solve(_information(expected, met) + 1 / len(table), gradient)
        except np.linalg.LinAlgError:
            break
        theta = theta + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < 1e-10:
            return np.asarray(theta - theta.mean(), dtype=np.float64)
    raise ValueError("no finite strengths: a row won or lost everything, or some rows never met")


def strengths(
    n: int, tables: Mapping[Pair, tuple[Sequence[int], Table]], *, anchor: int
) -> list[Strength]:  # fmt: skip
    """Bradley-Terry strengths against row ``anchor``, with 95 % intervals over tuning seeds and prompts.

    One more prompt on which all rows tie is added, as a weak prior: a row that always wins has a finite strength.
    Intervals are ``crossed_mean``'s of the strengths' influence by seed and prompt (the infinitesimal jackknife), which
    is what a bootstrap over prompts converges to, and unlike it covers with few seeds. Seeds count as in ``compare``.

    Args:
        n: rows.
        tables: by pair (a, b) with a < b: the tuning seeds compared, and the wins of a over b (n_seeds, n_prompts); the
            same prompts everywhere.
        anchor: the row at 0.
    """
    seeds = sorted({s for labels, _ in tables.values() for s in labels})
    n_prompts = next(iter(tables.values()))[1].shape[1] + 1
    rates, pull = np.full((n, n), np.nan), np.zeros((n, len(seeds), n_prompts))
    own: list[set[int]] = [set() for _ in range(n)]
    for (a, b), (labels, table) in tables.items():
        with_prior = np.pad(table, ((0, 0), (0, 1)), constant_values=0.5)
        rates[a, b] = with_prior.mean()
        rates[b, a] = 1 - rates[a, b]
        at = [seeds.index(s) for s in labels]
        share = (with_prior - rates[a, b]) * len(seeds) / len(labels)
        pull[a, at] += share
        pull[b, at] -= share
        own[a] |= set(at)
        own[b] |= set(at)
    theta = bradley_terry(rates)
    met = ~np.isnan(rates)
    information = _information(1 / (1 + np.exp(theta[None, :] - theta[:, None])), met)
    influence = np.tensordot(np.linalg.inv(information + 1 / n), pull, axes=1)
    influence -= influence[anchor].copy()
    tables_of_rows = []
    for i in range(n):
        mine = sorted(own[i])
        others = [s for s in range(len(seeds)) if s not in own[i]]
        value = float(theta[i] - theta[anchor])
        # Seeds that a row lacks move it through the others only: their part is spread over its own seeds.
        by_seed = influence[i, mine] * len(mine) / len(seeds) + influence[i, others].sum(axis=0) / len(seeds)
        tables_of_rows.append(value + by_seed)
    moving = [table for i, table in enumerate(tables_of_rows) if i != anchor]
    pooled = pooled_seed_variance(moving, sum(len(table) - 1 for table in moving))
    found = [crossed_mean(t, at_least=pooled if i != anchor else None) for i, t in enumerate(tables_of_rows)]
    return [Strength(c.value, c.ci_low, c.ci_high) for c in found]


def _information(expected: NDArray[np.float64], met: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fisher information of the strengths for one meeting of each pair: singular along the common shift."""
    weight = np.where(met, expected * (1 - expected), 0.0)
    return np.asarray(np.diag(weight.sum(axis=1)) - weight, dtype=np.float64)
