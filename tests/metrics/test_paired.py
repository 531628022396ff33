"""Paired statistics: known answers, invariances, agreement with scipy, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.core.paired import WinRate, cluster_mean_ci, mean_difference, mean_t_interval, sign_test, wilson, win_rate


def pairs(wins: int, ties: int, losses: int) -> tuple[list[float], list[float], list[str]]:
    a = [1.0] * wins + [0.0] * ties + [-1.0] * losses
    return a, [0.0] * len(a), [f"p{i}" for i in range(len(a))]


def test_hg_dpos_cell() -> None:
    """Table 1 of HG-DPO: 85.31 % is 151 of 177 prompts; Wilson's interval is 79.3 to 89.8 (research/metrics.md D.9)."""
    rate = win_rate(*pairs(151, 0, 26))
    assert f"{100 * rate.value:.2f}" == "85.31"
    assert [f"{100 * x:.1f}" for x in wilson(151, 177)] == ["79.3", "89.8"]
    assert (rate.ci_low, rate.ci_high) == pytest.approx(wilson(151, 177), abs=0.01)
    assert (rate.wins, rate.ties, rate.losses, rate.n, rate.method) == (151, 0, 26, 177, "cluster bootstrap")


def test_a_dropped_tie_is_visible() -> None:
    """HPS cell 80.68 %: 142 of 176 with one tie of 177 dropped; here the tie counts half and is shown."""
    rate = win_rate(*pairs(142, 1, 34))
    assert f"{100 * rate.wins / (rate.wins + rate.losses):.2f}" == "80.68"
    assert rate.value == pytest.approx(142.5 / 177)
    assert rate.ties == 1


@pytest.mark.parametrize(("wins", "losses"), [(151, 26), (0, 0), (5, 5), (10, 0), (3, 1), (2400, 2600)])
def test_sign_test_is_scipys(wins: int, losses: int) -> None:
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (10, 10), (151, 177), (1, 3)])
def test_wilson_is_scipys(wins: int, n: int) -> None:
    expected = stats.binomtest(wins, n).proportion_ci(method="wilson")
    assert wilson(wins, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_ties_and_their_width() -> None:
    a, b = [1.0, 1.05, 0.0, 3.0], [1.0, 1.0, 1.0, 1.0]
    prompts = ["a", "b", "c", "d"]
    exact = win_rate(a, b, prompts)
    wide = win_rate(a, b, prompts, tie_eps=0.1)
    assert (exact.wins, exact.ties, exact.losses) == (2, 1, 1)
    assert (wide.wins, wide.ties, wide.losses) == (1, 2, 1)
    assert wide.value == 0.5


def test_prompts_weigh_the_same_and_test_counts_prompts() -> None:
    """One prompt wins all of its nine seeds, another loses its only one: a draw between prompts."""
    rate = win_rate([1.0] * 9 + [-1.0], [0.0] * 10, ["x"] * 9 + ["y"])
    assert rate.value == 0.5
    assert (rate.wins, rate.losses, rate.n, rate.n_clusters) == (9, 1, 10, 2)
    assert rate.sign_test_p == 1.0


def test_unanimous_prompts_still_have_an_interval() -> None:
    rate = win_rate(*pairs(20, 0, 0))
    assert rate.method == "wilson"
    assert (rate.ci_low, rate.ci_high) == pytest.approx(wilson(20, 20))
    assert rate.ci_low < 0.9
    assert win_rate(*pairs(0, 0, 20)).ci_high > 0.1


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_changes_no_digit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 24))
    prompts = np.array([f"p{i % 7}" for i in range(24)])
    order = rng.permutation(24)
    straight = win_rate(a, b, prompts.tolist(), n_boot=50), mean_difference(a, b, prompts.tolist(), n_boot=50)
    shuffled = (win_rate(a[order], b[order], prompts[order].tolist(), n_boot=50),
                mean_difference(a[order], b[order], prompts[order].tolist(), n_boot=50))  # fmt: skip
    assert straight == shuffled


def test_win_rate_is_antisymmetric() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    prompts = list(range(30))
    there, back = win_rate(a, b, prompts), win_rate(b, a, prompts)
    assert there.value + back.value == pytest.approx(1)
    assert (there.wins, there.losses) == (back.losses, back.wins)
    assert there.sign_test_p == back.sign_test_p


def test_mean_and_its_interval() -> None:
    values = np.arange(10.0)
    interval = cluster_mean_ci(values, list(range(10)), n_boot=20_000)
    assert interval.value == 4.5
    reference = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert (interval.ci_low, interval.ci_high) == pytest.approx((reference.low, reference.high), abs=0.1)
    assert cluster_mean_ci(values, list(range(10)), seed=1) == cluster_mean_ci(values, list(range(10)), seed=1)


def test_seeds_of_a_prompt_are_not_independent() -> None:
    """Copies of a row under its prompt leave the interval as it is; as prompts of their own they would narrow it."""
    values = np.random.default_rng(3).normal(size=20)
    once = cluster_mean_ci(values, list(range(20)))
    copied = cluster_mean_ci(np.repeat(values, 4), np.repeat(np.arange(20), 4).tolist())
    assert (copied.ci_low, copied.ci_high) == pytest.approx((once.ci_low, once.ci_high), abs=1e-12)
    assert (copied.n, copied.n_clusters) == (80, 20)


def test_large_inputs_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values, prompts = np.random.default_rng(0).normal(size=50), list(range(50))
    whole = cluster_mean_ci(values, prompts, n_boot=999)
    monkeypatch.setattr("bench.core.paired._DRAWS_AT_ONCE", 120)
    assert cluster_mean_ci(values, prompts, n_boot=999) == whole


@pytest.mark.parametrize(
    ("a", "b", "prompts"), [([], [], []), ([1.0], [1.0, 2.0], ["p"]), ([float("nan")], [0.0], ["p"])]
)
def test_bad_input_is_refused(a: list[float], b: list[float], prompts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"expected one value|not finite"):
        win_rate(a, b, prompts)


def test_coverage_with_dependent_seeds() -> None:
    """300 experiments of 60 prompts x 2 seeds that share their prompt's effect: the interval holds the truth ~95 %."""
    rng = np.random.default_rng(7)
    prompts = np.repeat(np.arange(60), 2).tolist()
    hits_mean = hits_rate = 0
    for experiment in range(300):
        effect = np.repeat(rng.normal(0.3, 1.0, 60), 2)
        difference = effect + rng.normal(0, 0.5, 120)
        zero = np.zeros(120)
        interval = mean_difference(difference, zero, prompts, seed=experiment, n_boot=400)
        hits_mean += interval.ci_low <= 0.3 <= interval.ci_high
        rate: WinRate = win_rate(difference, zero, prompts, seed=experiment, n_boot=400)
        truth = stats.norm.cdf(0.3 / np.hypot(1.0, 0.5))
        hits_rate += rate.ci_low <= truth <= rate.ci_high
    assert 0.91 <= hits_mean / 300 <= 0.985
    assert 0.91 <= hits_rate / 300 <= 0.985


def test_a_handful_of_prompts_needs_students_t() -> None:
    """Eight prompts: t covers as stated where the percentile bootstrap does not."""
    rng = np.random.default_rng(5)
    by_t = by_bootstrap = 0
    labels = [f"p{i}" for i in range(8)]
    for experiment in range(1000):
        values = rng.normal(size=8)
        t, boot = mean_t_interval(values, labels), cluster_mean_ci(values, labels, seed=experiment, n_boot=300)
        by_t += t.ci_low <= 0 <= t.ci_high
        by_bootstrap += boot.ci_low <= 0 <= boot.ci_high
    assert 0.93 <= by_t / 1000 <= 0.97
    assert by_bootstrap < by_t - 20
    alone = mean_t_interval([2.0, 4.0], ["a", "a"])
    assert (alone.value, alone.ci_low, alone.ci_high, alone.n, alone.n_clusters) == (3.0, 3.0, 3.0, 2, 1)
