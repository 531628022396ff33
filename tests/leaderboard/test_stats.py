from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from leaderboard.stats import apart, clustered_mean, over_seeds
from leaderboard.wording import figure, number, places, span


def test_images_of_one_prompt_count_once() -> None:
    values, clusters = [1.0, 3.0, 2.0, 4.0, 6.0, 8.0], ["a", "a", "b", "c", "d", "e"]
    means = [2.0, 2.0, 4.0, 6.0, 8.0]
    mean, low, high = clustered_mean(values, clusters)
    expected = reference.t.interval(0.95, 4, loc=4.4, scale=reference.sem(means))
    assert mean == pytest.approx(4.4)
    assert (low, high) == pytest.approx(expected)
    assert clustered_mean([1.0, 2.0], ["a", "b"]) == (1.5, None, None)


def test_touching_intervals_are_not_apart() -> None:
    assert not apart(0.1, 0.5, 0.5, 0.9)
    assert apart(0.1, 0.49, 0.5, 0.9)
    assert not apart(None, None, 0.5, 0.9)


def test_figures_read_well() -> None:
    assert places("tifa", [0.7], [0.021]) == 3
    assert places("winrate/x", [0.62], [0.06]) == 1
    assert figure("winrate/x", 0.6249, 1) == "62.5"
    assert figure("fid", -0.0004, 2) == "0.00"
    assert figure("fid", -1.25, 2, signed=True) == "−1.25"
    assert span("winrate/x", 0.55, 0.65, 1) == "55.0–65.0"
    assert span("kid", -0.1, 0.2, 1, signed=True) == "−0.1 to +0.2"
    assert number(12000) == "12,000"
    assert not math.isnan(float(number(0.25)))


def test_one_seed_keeps_its_interval_and_a_seed_without_one_leaves_none() -> None:
    assert over_seeds([0.6], [0.5], [0.75]) == (0.6, 0.5, 0.75)
    assert over_seeds([0.5, 0.75], [0.5, None], [0.7, 0.8]) == (0.625, None, None)
    # Seeds that agree to the digit share their prompts: no narrower than one of them.
    assert over_seeds([0.6] * 3, [0.5] * 3, [0.7] * 3) == pytest.approx((0.6, 0.5, 0.7))


@pytest.mark.parametrize(
    ("n_seeds", "seed_sd", "low"), [(3, 0.05, 0.95), (3, 0.3, 0.89), (5, 0.1, 0.95), (2, 0.3, 0.84)]
)
def test_intervals_over_seeds_cover(n_seeds: int, seed_sd: float, low: float) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        table = (rng.normal(0, seed_sd, (n_seeds, 1)) + rng.normal(0, 0.3, (1, 64))
                 + rng.normal(0, 0.4, (n_seeds, 64)))  # fmt: skip
        means, halves = table.mean(axis=1), 1.96 * table.std(axis=1, ddof=1) / 8
        _, below, above = over_seeds(means.tolist(), (means - halves).tolist(), (means + halves).tolist())
        assert below is not None
        assert above is not None
        hits += below <= 0 <= above
    assert low <= hits / 500 <= 1.0
