"""Krippendorff's published example, closed forms, and coverage of mean ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.core.agreement import Level, krippendorff_alpha, krippendorff_interval, mean_ranks

N = math.nan
LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")
# Krippendorff 2011, example E: four observers, twelve units, missing votes.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(level: Level, published: float) -> None:
    assert krippendorff_alpha(FOUR_OBSERVERS, level) == pytest.approx(published, abs=0.0005)


def test_two_observers_and_two_values() -> None:
    """Krippendorff 2011, example A: ten units, 0 and 1, alpha 0.095."""
    table = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    assert krippendorff_alpha(table, "nominal") == pytest.approx(0.095, abs=0.0005)
    # With two values all levels agree: there is one distance.
    assert krippendorff_alpha(table, "ordinal") == pytest.approx(krippendorff_alpha(table, "interval"))


def test_perfect_systematic_and_chance_agreement() -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(1, 6, size=4000).astype(float)
    for level in LEVELS:
        assert krippendorff_alpha([votes, votes], level) == pytest.approx(1)
        assert krippendorff_alpha([votes, rng.permutation(votes)], level) == pytest.approx(0, abs=0.05)
    assert krippendorff_alpha([votes, 6 - votes], "interval") == pytest.approx(-1, abs=0.01)


def test_only_order_matters_to_ordinal_votes_and_no_order_of_raters_or_items_to_any() -> None:
    rng = np.random.default_rng(1)
    table = np.array(FOUR_OBSERVERS)
    stretched = np.exp(table)
    assert krippendorff_alpha(stretched, "ordinal") == pytest.approx(krippendorff_alpha(table, "ordinal"))
    assert krippendorff_alpha(stretched, "interval") != pytest.approx(krippendorff_alpha(table, "interval"), abs=0.01)
    shuffled = table[rng.permutation(4)][:, rng.permutation(12)]
    for level in LEVELS:
        assert krippendorff_alpha(shuffled, level) == pytest.approx(krippendorff_alpha(table, level), abs=1e-12)


def test_nothing_can_be_said() -> None:
    assert math.isnan(krippendorff_alpha([[1, N], [N, 2]], "nominal"))  # no item has two votes
    assert math.isnan(krippendorff_alpha([[3, 3], [3, 3]], "interval"))  # no variation
    assert all(math.isnan(x) for x in krippendorff_interval([[3, 3], [3, 3]], "interval"))
    with pytest.raises(ValueError, match="nominal, ordinal or interval"):
        krippendorff_alpha([[1, 2], [1, 2]], "ratio")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_raters, n_items"):
        krippendorff_alpha([1, 2], "nominal")


def test_alphas_interval_covers() -> None:
    """Raters see an item's true value through noise: on the interval level alpha is the intraclass correlation."""
    rng = np.random.default_rng(2)
    hits, tries = 0, 100
    for k in range(tries):
        votes = rng.normal(size=80) + rng.normal(size=(3, 80))
        low, high = krippendorff_interval(np.clip(np.round(2 * votes), -5, 5), "interval", seed=k, n_boot=200)
        hits += low <= 0.49 <= high
    assert 0.86 <= hits / tries <= 0.99


def test_mean_ranks_are_means_over_prompts() -> None:
    ranks: list[list[float]] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [1.5, 1.5, 3]]
    first, _second, third = mean_ranks(ranks, ["a", "a", "b", "c"])
    assert first is not None
    assert third is not None
    assert first.value == pytest.approx((1 + 2 + 1.5) / 3)  # two raters of prompt a weigh as one prompt
    expected = stats.t.interval(0.95, 2, loc=1.5, scale=stats.sem([1, 2, 1.5]))
    assert (first.ci_low, first.ci_high) == pytest.approx(expected)
    assert third.value == pytest.approx((2.5 + 3 + 3) / 3)


def test_a_candidate_may_be_missing_and_a_ballot_must_be_a_ranking() -> None:
    first, _, nobody = mean_ranks([[1.0, 2.0, N], [2.0, 1.0, N]], ["a", "b"])
    assert first is not None
    assert (first.value, first.n, nobody) == (1.5, 2, None)
    with pytest.raises(ValueError, match="no ranking"):
        mean_ranks([[1, 1, 2]], ["a"])
    with pytest.raises(ValueError, match="n_ballots"):
        mean_ranks([[1, 2]], ["a", "b"])
