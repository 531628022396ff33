"""AlignProp's draws: which steps train in each of its published forms (research/tuners.md section 3.4, oracle 12)."""

import statistics
from collections import Counter

import pytest
import torch

from bench.core.contract import make_config
from tuners.alignprop import AlignProp, draw_gaussian, draw_subset

from .world import context


def paths(n_steps=50, updates=600, **settings):
    tuner = AlignProp(make_config(AlignProp, settings), context(n_steps=n_steps))
    drawn = [tuner.path(u) for u in range(updates)]
    assert drawn[:20] == [tuner.path(u) for u in range(20)]
    assert {(p.stop, p.through_input) for p in drawn} == {(n_steps - 1, True)}
    return drawn


def is_suffix(path, n_steps=50):
    return path.train == set(range(n_steps - len(path.train), n_steps))


def test_a_step_of_the_subset_is_kept_with_i_plus_one_over_t_plus_one():
    rng = torch.Generator().manual_seed(0)
    n = 6000
    kept = Counter(i for _ in range(n) for i in draw_subset(50, rng))
    for i in range(50):
        p = (i + 1) / 51
        assert kept[i] / n == pytest.approx(p, abs=4.5 * (p * (1 - p) / n) ** 0.5)


def test_the_subset_is_25_of_50_steps_give_or_take_three_with_gaps():
    drawn = paths(mode="subset")
    lengths = [len(p.train) for p in drawn]
    assert statistics.mean(lengths) == pytest.approx(25.0, abs=0.5)
    assert statistics.stdev(lengths) == pytest.approx(2.9, abs=0.4)
    assert not any(is_suffix(p) for p in drawn)


def test_the_papers_suffix_is_uniform_from_none_to_all():
    drawn = paths(mode="suffix", updates=3000)
    lengths = Counter(len(p.train) for p in drawn)
    assert all(is_suffix(p) for p in drawn)
    assert set(lengths) == set(range(51))
    assert statistics.mean(lengths.elements()) == pytest.approx(25.0, abs=1.2)
    assert statistics.stdev(lengths.elements()) == pytest.approx(14.7, abs=0.6)


def test_the_gaussian_trains_the_last_nine_steps_give_or_take_four_and_a_half():
    drawn = paths(mode="gaussian", updates=2000)
    lengths = [len(p.train) for p in drawn]
    assert all(is_suffix(p) for p in drawn)
    assert min(lengths) >= 1 and max(lengths) <= 49
    assert statistics.mean(lengths) == pytest.approx(9.1, abs=0.4)
    assert statistics.stdev(lengths) == pytest.approx(4.5, abs=0.3)


@pytest.mark.parametrize("T", [2, 3, 20])
def test_the_gaussian_stays_inside_any_rollout(T):
    rng = torch.Generator().manual_seed(0)
    assert {draw_gaussian(T, 0.84 * T, 0.1 * T, rng) for _ in range(300)} <= set(range(1, T))


@pytest.mark.parametrize(("j", "K"), [(-1, 1), (49, 1), (40, 10), (0, 50)])
def test_the_fixed_step_is_the_first_that_trains(j, K):
    assert {p.train for p in paths(mode="fixed", j=j, updates=20)} == {frozenset(range(50 - K, 50))}


def test_an_update_whose_draw_is_empty_has_no_gradient_and_still_costs_its_rollout():
    tuner = AlignProp(make_config(AlignProp, {"mode": "suffix"}), context(n_steps=4))
    tuner.update = next(u for u in range(100) if not tuner.path(u).train)
    assert tuner.next_cost().get("denoiser_u") == 2 * 2 * 4
    scalars = tuner.unit().scalars
    assert (scalars["n_trained"], scalars["grad_norm"]) == (0, 0.0)
