from __future__ import annotations

import math

import pytest
from scipy import stats as reference

from leaderboard.stats import apart, clustered_mean, student_975
from leaderboard.wording import figure, number, places, span


@pytest.mark.parametrize("df", [3, 4, 7, 15, 63, 1000])
def test_student_quantile(df: int) -> None:
    assert student_975(df) == pytest.approx(reference.t.ppf(0.975, df), rel=0.01)


def test_images_of_one_prompt_count_once() -> None:
    values, clusters = [1.0, 3.0, 2.0, 4.0, 6.0, 8.0], ["a", "a", "b", "c", "d", "e"]
    means = [2.0, 2.0, 4.0, 6.0, 8.0]
    mean, low, high = clustered_mean(values, clusters)
    expected = reference.t.interval(0.95, 4, loc=4.4, scale=reference.sem(means))
    assert mean == pytest.approx(4.4)
    assert (low, high) == pytest.approx(expected, rel=0.01)
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
