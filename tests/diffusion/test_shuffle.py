"""The seeded shuffles behind prompts, pairs and winners: every number once an epoch, and the draws of recorded runs."""

import pytest
import torch

from bench.core.contract import make_config
from bench.diffusion.shuffle import Shuffle
from tests.tuners.world import context
from tuners.hgdpo import HGDPO
from tuners.raft import RAFT


def seeded(epoch):
    return torch.Generator().manual_seed(epoch)


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_an_epoch_holds_every_number_once_and_no_two_are_alike(n):
    shuffle = Shuffle(n, seeded)
    epochs = [tuple(shuffle(e * n + place) for place in range(n)) for e in range(6)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len(set(epochs)) > 1 or n <= 2


def test_a_number_depends_on_its_position_alone():
    """Forwards, backwards and far ahead: what a resumed run asks for first is of no matter."""
    forwards = [Shuffle(5, seeded)(k) for k in range(40)]
    shuffle = Shuffle(5, seeded)
    assert [shuffle(k) for k in reversed(range(40))] == forwards[::-1]
    assert [shuffle(k) for k in (39, 0, 17, 4, 5)] == [forwards[k] for k in (39, 0, 17, 4, 5)]


def test_a_run_draws_each_epoch_once_and_keeps_two_at_most():
    drawn = []

    def rng(epoch):
        drawn.append(epoch)
        return seeded(epoch)

    shuffle = Shuffle(3, rng)
    for k in range(30):
        shuffle(k)
        assert len(shuffle._epochs) <= 2
    assert drawn == list(range(10))


# -- golden: what runs drew before these three shared a helper


def test_the_prompts_of_recorded_runs():
    ctx = context(global_batch=4)
    assert [[p.id for p in ctx.prompts(u, 4)] for u in range(4)] == [
        ["5", "4", "0", "3"],
        ["1", "2", "2", "5"],
        ["0", "4", "3", "1"],
        ["4", "0", "1", "2"],
    ]


def test_hgdpos_pairs_of_recorded_runs():
    tuner = HGDPO(make_config(HGDPO, {"D": 5, "N": 2}), context(global_batch=4))
    tuner.pool.scores = torch.tensor([[1.0, 0.0]] * 5)
    batches = [[3, 0, 1, 2], [4, 3, 2, 0], [1, 4, 0, 3], [2, 1, 4, 1]]
    assert [[d for d, _, _ in tuner.batch(u)] for u in range(4)] == batches


def test_rafts_winners_of_recorded_runs():
    tuner = RAFT(make_config(RAFT, {"prompts": 3, "k": 2, "updates": 2}), context(global_batch=4))
    drawn = []
    for round_ in (0, 1):
        winners = [(str(k), torch.zeros(4, 8, 8)) for k in range(3)]
        tuner.load_state_dict({**tuner.state_dict(), "round": round_, "winners": winners, "trained": 0})
        for tuner.trained in (0, 1):
            drawn.append("".join(tuner.draw(k)[0] for k in range(4)))
    assert drawn == ["2010", "1212", "2011", "2020"]
