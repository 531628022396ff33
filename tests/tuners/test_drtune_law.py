"""DRTune's draws: the index law for all (T, K), the early stop, and how many steps then train."""

import itertools
from collections import Counter

import pytest
import torch

from bench.core.contract import make_config
from bench.core.errors import UserError
from tuners.drtune import DRTune, draw_t_min, draw_t_train

from .world import context


@pytest.mark.parametrize("T", [1, 2, 7, 20, 25, 50])
def test_k_steps_with_stride_t_over_k_inside_the_rollout_never_none(T):
    rng = torch.Generator().manual_seed(0)
    for K in range(1, T + 1):
        starts = set()
        for _ in range(20):
            S = sorted(draw_t_train(T, K, rng))
            assert len(S) == K
            assert 0 <= S[0] <= S[-1] <= T - 1
            assert {b - a for a, b in itertools.pairwise(S)} <= {T // K}
            starts.add(S[0])
        assert len(starts) > 1 or T - (K - 1) * (T // K) == 1


def test_every_start_is_drawn_about_equally_often():
    rng = torch.Generator().manual_seed(1)
    counts = Counter(min(draw_t_train(50, 5, rng)) for _ in range(4000))
    assert set(counts) == set(range(10))
    assert max(counts.values()) < 1.3 * min(counts.values())


def test_three_four_or_five_steps_train_with_the_probabilities_of_the_notes():
    """T = 50, K = 5, m = 20, by full count over the 10 starts and 20 stops, which are equally likely."""
    trained = Counter()
    at_stop = 0
    for start in range(10):
        for t_min in range(1, 21):
            S, stop = {start + 10 * k for k in range(5)}, 50 - t_min
            trained[sum(i <= stop for i in S)] += 1 / 200
            at_stop += (stop in S) / 200
    assert trained == pytest.approx({3: 0.225, 4: 0.5, 5: 0.275})
    assert at_stop == pytest.approx(0.1)


def drawn(n_steps=50, updates=1500, **settings):
    tuner = DRTune(make_config(DRTune, settings), context(n_steps=n_steps))
    return tuner, [tuner.path(u) for u in range(updates)]


def test_the_tuners_own_draws_follow_that_law():
    tuner, paths = drawn()
    assert (tuner.K, tuner.m) == (5, 20)
    shares = Counter(p.n_trained(50) for p in paths)
    assert {n: c / len(paths) for n, c in shares.items()} == pytest.approx({3: 0.225, 4: 0.5, 5: 0.275}, abs=0.05)
    assert {p.stop for p in paths} == set(range(30, 50))
    assert paths == [tuner.path(u) for u in range(len(paths))]
    assert not any(p.through_input for p in paths)


def test_without_early_stop_all_k_train_and_the_rollout_ends():
    _, paths = drawn(updates=50, m=0)
    assert {(p.stop, p.n_trained(50)) for p in paths} == {(None, 5)}


def test_spread_over_the_executed_steps_all_k_train():
    _, paths = drawn(updates=300, span="executed")
    assert {p.n_trained(50) for p in paths} == {5}
    assert {p.stop for p in paths} == set(range(30, 50))


def test_the_papers_fractions_follow_the_number_of_steps():
    tuner, paths = drawn(n_steps=20, updates=200)
    assert (tuner.K, tuner.m) == (2, 8)
    assert {p.stop for p in paths} == set(range(12, 20))


def test_a_first_draw_example():
    assert draw_t_min(1, torch.Generator().manual_seed(0)) == 1


def test_more_trained_steps_than_steps_is_refused():
    with pytest.raises(UserError, match="at most 10"):
        drawn(n_steps=10, updates=0, K=11)
