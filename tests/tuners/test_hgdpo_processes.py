"""Ranking tuners in two processes: each draws, scores and trains its share, and both end where one alone ends."""

import threading

import pytest
import torch

from bench.core.contract import make_config
from bench.diffusion.processes import Processes
from bench.diffusion.random_tiny import random_pipeline
from tuners.hgdpo import HGDPO
from tuners.raft import RAFT

from .world import Red, context


class Played(Processes):
    """Two processes played by two threads: a sum is a meeting."""

    size = 2

    def __init__(self, rank, slots, barrier):
        self.rank, self._slots, self._barrier = rank, slots, barrier

    def sum_flat(self, flat):
        self._slots[self.rank] = flat.clone()
        self._barrier.wait(60)
        total = self._slots[0] + self._slots[1]
        self._barrier.wait(60)
        flat.copy_(total)


class Counted(Red):
    def __init__(self):
        self.n = 0

    def measure(self, images, prompts):
        self.n += len(prompts)
        return super().measure(images, prompts)


def run(model, cls, settings, n_units, work_dir, processes=None):
    """(final state, images that this process scored)"""
    reward = Counted()
    ctx = context(
        model=model, work_dir=work_dir, processes=processes, global_batch=4, micro_batch=2,
        rewards=lambda name: reward,
    )  # fmt: skip
    tuner = cls(make_config(cls, settings), ctx)
    for _ in range(n_units):
        next(p for p in tuner.phases() if not p.done()).unit()
    return tuner.state_dict(), reward.n


CASES = [
    pytest.param(HGDPO, {"D": 2, "N": 4, "lr": 1e-3}, 2 + 2 + 2, id="hgdpo"),
    pytest.param(RAFT, {"prompts": 2, "k": 4, "updates": 2, "lr": 1e-3}, 2 + 2, id="raft"),
]


@pytest.mark.parametrize(("cls", "settings", "n_units"), CASES)
def test_two_processes_do_half_each_and_end_where_one_ends(tmp_path, cls, settings, n_units):
    models = [random_pipeline(0) for _ in range(3)]  # here: building draws from the global generator, threads share it
    alone, n_scored = run(models[2], cls, settings, n_units, tmp_path / "alone")
    slots, barrier, ends = {}, threading.Barrier(2), {}

    def play(rank):
        ends[rank] = run(models[rank], cls, settings, n_units, tmp_path / "both", Played(rank, slots, barrier))

    threads = [threading.Thread(target=play, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    (first, n_first), (second, n_second) = ends[0], ends[1]
    # beside its half, each process's meter measures the reward once on a row of its own
    assert n_first == n_second == (n_scored - 1) // 2 + 1
    for name, value in first["adapter"].items():
        assert torch.equal(value, second["adapter"][name])
        assert torch.allclose(value, alone["adapter"][name], atol=2e-5)
