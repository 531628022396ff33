from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate

from bench.core.anytime import area_under_curve, profile, profile_score, ratios_to_best, time_to_target

TIMES = [0.0, 0.1, 0.25, 0.5, 1.0]
INF = math.inf


def test_area_is_scipys_trapezoid_and_an_early_end_keeps_its_value() -> None:
    values = [0.5, 0.6, 0.55, 0.7, 0.72]
    assert area_under_curve(TIMES, values) == pytest.approx(integrate.trapezoid(values, TIMES))
    assert area_under_curve([0.0, 0.5], [0.5, 0.7]) == pytest.approx(0.25 * (0.5 + 0.7) + 0.5 * 0.7)
    assert area_under_curve([0.0], [0.5]) == 0.5


def test_time_to_target_lies_on_the_straight_line() -> None:
    values = [0.5, 0.6, 0.55, 0.7, 0.72]
    assert time_to_target(TIMES, values, 0.55) == pytest.approx(0.05)  # first crossing, though it falls again
    assert time_to_target(TIMES, values, 0.65) == pytest.approx(0.25 + 0.25 * (0.1 / 0.15))
    assert time_to_target(TIMES, values, 0.5) == 0.0
    assert time_to_target(TIMES, values, 0.73) == INF


@pytest.mark.parametrize(("times", "values"), [([0.1, 1.0], [1, 2]), ([0, 0], [1, 2]), ([], []), ([0, 2], [1, 2])])
def test_what_is_no_curve_is_refused(times: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="rising shares"):
        area_under_curve(times, values)


def test_profiles_by_hand() -> None:
    """Two tuners, three suites: a is best on the first, b on the second, nobody reached the third."""
    ratios = ratios_to_best([[0.2, 0.5, INF], [0.4, 0.25, INF]])
    assert ratios.tolist() == [[1, 2, INF], [2, 1, INF]]
    assert profile(ratios, [1, 1.9, 2, 4]) == pytest.approx(np.array([[1, 1, 2, 2], [1, 1, 2, 2]]) / 3)
    assert profile_score(ratios) == pytest.approx([(1 + 2 / 3 + 0) / 3] * 2)


def test_the_score_is_the_area_under_the_profile() -> None:
    rng = np.random.default_rng(0)
    ratios = ratios_to_best(np.where(rng.random((5, 8)) < 0.2, INF, rng.random((5, 8)) + 0.1))
    at = np.linspace(1, 4, 60001)
    areas = integrate.trapezoid(profile(ratios, at.tolist()), at, axis=1) / 3
    assert profile_score(ratios) == pytest.approx(areas, abs=1e-3)


def test_a_time_of_nothing_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="positive"):
        ratios_to_best([[0.0, 1.0]])
