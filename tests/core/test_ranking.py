"""Published Bradley-Terry figures, hand-worked Holm, tie groups by their definition, coverage of strengths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from bench.core.crossed import pooled_seed_variance
from bench.core.ranking import Pair, better, bradley_terry, compare, holm, places, strengths, tie_groups, wins

# Agresti, Categorical Data Analysis (2002), table 10.10: wins in the American League 1987, 13 games a pair.
TEAMS = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
BASEBALL = np.array([
    [0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12], [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0],
])  # fmt: skip
ABILITIES = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0]


def test_bradley_terrys_published_abilities() -> None:
    theta = bradley_terry(BASEBALL / 13)
    assert theta - theta[-1] == pytest.approx(ABILITIES, abs=0.001)


def test_two_rows_are_their_log_odds_and_row_order_changes_nothing() -> None:
    two = bradley_terry([[0.5, 0.8], [0.2, 0.5]])
    assert two[0] - two[1] == pytest.approx(np.log(4))
    order = np.random.default_rng(0).permutation(7)
    assert bradley_terry(BASEBALL[np.ix_(order, order)] / 13) == pytest.approx(bradley_terry(BASEBALL / 13)[order])


def test_infinite_strengths_are_refused() -> None:
    with pytest.raises(ValueError, match="no finite strengths"):
        bradley_terry([[0.5, 1.0], [0.0, 0.5]])


def test_holm_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1: .02, .03, .06, then .04 raised to .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_ties_have_a_width() -> None:
    assert wins([1.0, 1.05, 0.0], 1.0).tolist() == [0.5, 1.0, 0.0]
    assert wins([1.0, 1.05, 0.0], 1.0, tie_eps=0.1).tolist() == [0.5, 0.5, 0.0]


def test_one_seed_is_the_exact_sign_test_and_all_wins_have_wilsons_interval() -> None:
    table = wins([[1.0] * 40 + [-1.0] * 20 + [0.0] * 4], 0.0)
    found = compare(table)
    assert found.value == pytest.approx(42 / 64)
    assert found.p == found.sign_test_p == pytest.approx(stats.binomtest(40, 60).pvalue)
    always = compare(np.ones((3, 64)))
    wilson = stats.binomtest(64, 64).proportion_ci(method="wilson")
    assert (always.ci_low, always.ci_high) == pytest.approx((wilson.low, wilson.high))
    assert always.p == pytest.approx(2 * 0.5**64)


def test_a_against_b_mirrors_b_against_a() -> None:
    table = np.random.default_rng(1).choice([0, 0.5, 1], size=(3, 64))
    ab, ba = compare(table), compare(1 - table)
    assert (ba.value, ba.ci_low, ba.ci_high, ba.p) == pytest.approx((1 - ab.value, 1 - ab.ci_high, 1 - ab.ci_low, ab.p))


def relation(n: int, pairs: list[Pair]) -> NDArray[np.bool_]:
    return better(n, dict.fromkeys(pairs, (0.9, 0.001)) | {(9 % n, 9 % n): (0.5, 1.0)})


def test_overlapping_groups_where_equality_is_not_transitive() -> None:
    """0 is above 2, yet neither can be told from 1: two groups share row 1, and nobody is in one with its better."""
    found = relation(3, [(0, 2)])
    assert tie_groups(found) == [(0, 1), (1, 2)]
    assert places(found) == [(1, 2), (1, 3), (2, 3)]


def test_a_circle_is_three_groups_of_one() -> None:
    found = relation(3, [(0, 1), (1, 2), (2, 0)])
    assert tie_groups(found) == [(0,), (1,), (2,)]
    assert places(found) == [(2, 2), (2, 2), (2, 2)]


def test_groups_are_the_maximal_sets_without_a_significant_pair() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        n = int(rng.integers(1, 8))
        found = relation(n, [(a, b) for a in range(n) for b in range(n) if a < b and rng.random() < 0.4])
        free = [
            set(rows) for size in range(1, n + 1) for rows in itertools.combinations(range(n), size)
            if not any(found[a, b] or found[b, a] for a, b in itertools.combinations(rows, 2))
        ]  # fmt: skip
        expected = [tuple(sorted(rows)) for rows in free if not any(rows < other for other in free)]
        assert tie_groups(found) == sorted(expected)


def test_significance_needs_the_adjusted_p() -> None:
    found = better(3, {(0, 1): (0.3, 0.04), (0, 2): (0.9, 0.06), (1, 2): (0.5, 0.0)})
    assert found.tolist() == [[False, False, False], [True, False, False], [False, False, False]]


def test_places_hold_all_true_ranks_at_once() -> None:
    """Six rows, 95 %: the sets of places contain every true rank together in at least 95 % of experiments."""
    rng = np.random.default_rng(3)
    quality = np.array([0.5, 0.45, 0.2, 0.0, 0.0, -0.4])
    hits = 0
    for _ in range(200):
        scores = quality[:, None] + rng.normal(size=64) * 0.2 + rng.normal(size=(6, 64))
        found = {(a, b): compare(wins(scores[a], scores[b])[None]) for a, b in itertools.combinations(range(6), 2)}
        adjusted = dict(zip(found, holm([c.p for c in found.values()]), strict=True))
        sets = places(better(6, {pair: (c.value, adjusted[pair]) for pair, c in found.items()}))
        # The two equal rows share places 4 and 5: any of them is a true place.
        hits += all(low <= worst and best <= high for (low, high), (best, worst) in
                    zip(sets, [(1, 1), (2, 2), (3, 3), (4, 5), (4, 5), (6, 6)], strict=True))  # fmt: skip
    assert hits / 200 >= 0.95


def tables_of(scores: NDArray[np.float64]) -> dict[Pair, tuple[list[int], NDArray[np.float64]]]:
    """(n_rows, n_seeds, n_prompts) → wins of all pairs."""
    n, n_seeds, _ = scores.shape
    return {(a, b): (list(range(n_seeds)), wins(scores[a], scores[b])) for a, b in itertools.combinations(range(n), 2)}


def gumbel(
    rng: np.random.Generator, theta: NDArray[np.float64], n_seeds: int, n_prompts: int, seed_sd: float
) -> NDArray[np.float64]:
    """Scores whose win rates are exactly Bradley-Terry's where seeds do not differ (Gumbel noise; Luce 1959)."""
    shift = rng.normal(0, seed_sd, (len(theta), n_seeds, 1))
    return np.asarray(theta[:, None, None] + shift + rng.gumbel(size=(len(theta), n_seeds, n_prompts)))


@pytest.mark.parametrize(
    ("n_seeds", "seed_sd", "bounds"), [(1, 0.0, (0.93, 0.97)), (3, 0.0, (0.95, 1.0)), (3, 0.3, (0.92, 0.98))]
)
def test_strengths_intervals_cover(n_seeds: int, seed_sd: float, bounds: tuple[float, float]) -> None:
    rng = np.random.default_rng(4)
    theta = np.array([0.0, 0.3, 0.6, 1.2])
    hits = 0
    for _ in range(250):
        found = strengths(4, tables_of(gumbel(rng, theta, n_seeds, 100, seed_sd)), anchor=0)
        assert found[0].value == found[0].ci_low == found[0].ci_high == 0
        hits += sum(s.ci_low <= t <= s.ci_high for s, t in zip(found[1:], theta[1:], strict=True))
    assert bounds[0] <= hits / 750 <= bounds[1]


def test_one_seeds_interval_is_the_bootstrap_over_prompts() -> None:
    rng = np.random.default_rng(5)
    scores = gumbel(rng, np.array([0.0, 0.5, 1.0]), 1, 200, 0.0)
    found = strengths(3, tables_of(scores), anchor=0)
    draws = [
        [s.value for s in strengths(3, tables_of(scores[:, :, rng.integers(200, size=200)]), anchor=0)]
        for _ in range(400)
    ]
    for i in (1, 2):
        low, high = np.quantile([d[i] for d in draws], [0.025, 0.975])
        assert found[i].ci_high - found[i].ci_low == pytest.approx(high - low, rel=0.12)
        assert found[i].value == pytest.approx((low + high) / 2, abs=0.1)


def test_a_row_that_always_wins_has_a_finite_strength_and_the_order_is_that_of_win_rates() -> None:
    scores = np.random.default_rng(6).normal(size=(4, 1, 64))
    scores[2] += 100
    found = strengths(4, tables_of(scores), anchor=0)
    assert max(range(4), key=lambda i: found[i].value) == 2
    assert 2 < found[2].ci_low < found[2].value < found[2].ci_high < 20
    rates = [np.mean([wins(scores[i], scores[j]).mean() for j in range(4) if j != i]) for i in range(4)]
    assert np.argsort(rates).tolist() == np.argsort([s.value for s in found]).tolist()


def test_rows_with_fewer_seeds_take_part() -> None:
    scores = gumbel(np.random.default_rng(7), np.array([0.0, 0.5, 1.0]), 3, 64, 1.0)
    tables = tables_of(scores)
    one_seed = {pair: (labels[:1], table[:1]) for pair, (labels, table) in tables.items() if 2 in pair}
    found = strengths(3, tables | one_seed, anchor=0)
    whole = strengths(3, tables, anchor=0)
    # How much its one seed may be off is learnt from the others.
    assert found[2].ci_low < whole[2].value < found[2].ci_high
    assert found[1].ci_low < whole[1].value < found[1].ci_high


@pytest.mark.parametrize(("n_seeds", "sds"), [(2, [0.3] * 6), (3, [0.3] * 6), (3, [0.05] * 3 + [0.4] * 3)])
def test_equal_tuners_are_told_apart_in_few_families(n_seeds: int, sds: list[float]) -> None:
    """Six tuners of equal quality whose seeds differ: Holm holds 5 % with the pooled seed variance, not without."""
    rng = np.random.default_rng(8)
    errors = {True: 0, False: 0}
    for _ in range(100):
        shift = np.array(sds)[:, None, None] * rng.normal(size=(6, n_seeds, 1))
        scores = shift + rng.normal(size=(6, n_seeds, 200)) + rng.normal(0, 0.5, size=(6, 1, 200))
        tables = [wins(scores[a], scores[b]) for a, b in itertools.combinations(range(6), 2)]
        pooled = pooled_seed_variance(tables, 6 * (n_seeds - 1))
        for pool in (True, False):
            adjusted = holm([compare(table, pooled if pool else None).p for table in tables])
            errors[pool] += min(adjusted) <= 0.05
    assert errors[True] <= 10
    assert errors[False] > errors[True] + 5
