"""What people's votes say: agreement between raters, and mean ranks with intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.core.paired import CONFIDENCE, N_BOOT, Clusters, Interval, mean_t_interval

Level = Literal["nominal", "ordinal", "interval"]
"""What differences between votes mean: none but equality, order, or distance."""


def krippendorff_alpha(table: ArrayLike, level: Level) -> float:
    """Krippendorff's alpha: 1 is perfect agreement, 0 what chance gives, below 0 systematic disagreement.

    alpha = 1 - D_o / D_e over the coincidence matrix (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011).
    Items with fewer than two votes take no part.

    Args:
        table: (n_raters, n_items), nan where a rater did not vote.
        level: the votes' level of measurement.

    Returns:
        nan where nothing can be said: no item has two votes, or all votes are equal.

    Raises:
        ValueError: not a table, an infinite vote, an unknown level.
    """
    values, counts = _votes(table)
    return _alpha(values, counts, level)


def krippendorff_interval(
    table: ArrayLike, level: Level, *, seed: int = 0, n_boot: int = N_BOOT
) -> tuple[float, float]:  # fmt: skip
    """95 % percentile interval of alpha over resampled items; resamples in which all votes are equal are left out.

    (nan, nan) where alpha itself is undefined.
    """
    values, counts = _votes(table)
    if np.isnan(_alpha(values, counts, level)):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    n_items = len(counts)
    found = np.array([_alpha(values, counts[rng.integers(n_items, size=n_items)], level) for _ in range(n_boot)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found[~np.isnan(found)], [tail, 1 - tail])
    return float(low), float(high)


def mean_ranks(ranks: ArrayLike, clusters: Clusters) -> list[Interval | None]:
    """Each candidate's mean rank, 1 the best, with a 95 % t interval over prompts.

    Votes on one prompt are averaged first, so that a prompt with many raters weighs as much as any other.

    Args:
        ranks: (n_ballots, n_candidates), the places that a rater gave, ties sharing the mean place; nan for a candidate
            that was not on the ballot.
        clusters: prompt of each ballot, (n_ballots,).

    Returns:
        One for each candidate; None where nobody placed it.

    Raises:
        ValueError: a ballot is no ranking of the candidates on it.
    """
    table = np.asarray(ranks, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(clusters) or np.isinf(table).any():
        raise ValueError(f"expected (n_ballots, n_candidates) with one prompt for each ballot, got {table.shape}")
    for row, ballot in enumerate(table):
        placed = ballot[~np.isnan(ballot)]
        if len(placed) and not np.allclose(np.sort(placed), np.sort(_mid_ranks(placed))):
            raise ValueError(f"ballot {row} is no ranking: {placed.tolist()} (ties share the mean of their places)")
    labels = np.asarray(clusters)
    return [
        mean_t_interval(column[there], labels[there].tolist()) if (there := ~np.isnan(column)).any() else None
        for column in table.T
    ]


def _mid_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places of ``values`` in rising order from 1, ties sharing the mean place."""
    below = (values[None, :] < values[:, None]).sum(axis=1)
    return np.asarray(below + ((values[None, :] == values[:, None]).sum(axis=1) + 1) / 2, dtype=np.float64)


def _votes(table: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The distinct votes, rising, and how often each item got each: (n_values,), (n_items, n_values)."""
    votes = np.asarray(table, dtype=np.float64)
    if votes.ndim != 2 or np.isinf(votes).any():
        raise ValueError(f"expected finite votes or nan, (n_raters, n_items), got shape {votes.shape}")
    values = np.unique(votes[~np.isnan(votes)])
    return values, (votes[:, :, None] == values).sum(axis=0).astype(np.float64)


def _alpha(values: NDArray[np.float64], counts: NDArray[np.float64], level: Level) -> float:
    n_votes = counts.sum(axis=1)
    counts, n_votes = counts[n_votes > 1], n_votes[n_votes > 1]
    weights = 1 / (n_votes - 1)
    coincidences = (counts * weights[:, None]).T @ counts
    coincidences[np.diag_indices(len(values))] -= weights @ counts
    totals = coincidences.sum(axis=1)
    apart = _distances(values, totals, level)
    expected = float(totals @ apart @ totals)
    if expected == 0:
        return float("nan")
    return 1 - (float(totals.sum()) - 1) * float((coincidences * apart).sum()) / expected


def _distances(values: NDArray[np.float64], totals: NDArray[np.float64], level: Level) -> NDArray[np.float64]:
    """Squared differences between values; ordinal ones count the votes between two values (ibid.)."""
    if level == "nominal":
        return np.asarray(values[:, None] != values[None, :], dtype=np.float64)
    if level == "interval":
        return np.asarray((values[:, None] - values[None, :]) ** 2, dtype=np.float64)
    if level != "ordinal":
        raise ValueError(f"level must be nominal, ordinal or interval, got {level!r}")
    middle = np.cumsum(totals) - totals / 2
    return np.asarray((middle[:, None] - middle[None, :]) ** 2, dtype=np.float64)
