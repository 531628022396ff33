"""What a tuner sees of a run, as the harness implements it (``bench.core.contract.Context``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bench.core.budget import Ledger
from bench.core.contract import Reward
from bench.core.seeds import derive_seed
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.meters import Meters
from bench.diffusion.models import BaseModel
from bench.diffusion.processes import Processes
from bench.diffusion.shuffle import Shuffle


class TuningContext:
    """Training prompts, metered model and rewards, named random draws. Evaluation prompts are not in it.

    Args:
        rewards: a reward by canonical expression.
        seed: root of every draw of this run.
        processes: that tune together; None is this one alone.
    """

    def __init__(
        self, *, model: BaseModel, train_prompts: Sequence[Prompt], sampler: SamplerSpec, global_batch: int,
        micro_batch: int, rewards: Callable[[str], Reward], default_reward: str, meters: Meters, ledger: Ledger,
        seed: int, work_dir: Path, processes: Processes | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.sampler = sampler
        self.global_batch = global_batch
        self._processes = processes or Processes()
        self.micro_batch = min(micro_batch, max(1, global_batch // self._processes.size))
        self.budget = ledger.budget
        self.work_dir = work_dir
        self._train_prompts = tuple(train_prompts)
        self._order = Shuffle(len(self._train_prompts), lambda epoch: self.rng("prompt-order", epoch=epoch))
        self._rewards = rewards
        self._default_reward = default_reward
        self._meters = meters
        self._ledger = ledger
        self._seed = seed
        self._loaded: dict[str, Reward] = {}

    def share(self, n: int) -> range:
        return self._processes.share(n)

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        self._processes.all_reduce(tensors)

    def prompts(self, update: int, n: int) -> Sequence[Prompt]:
        """Positions update*n .. update*n + n - 1 of an endless sequence of shuffled epochs."""
        return [self._train_prompts[self._order(position)] for position in range(update * n, update * n + n)]

    def reward(self, name: str | None = None) -> Reward:
        name = name or self._default_reward
        if name not in self._loaded:
            self._loaded[name] = self._meters.metered_reward(self._rewards(name))
        return self._loaded[name]

    def own_reward(self, reward: Reward) -> Reward:
        return self._meters.metered_reward(reward)

    def charge_flops(self, name: str, rows: int, one_row: Callable[[], object]) -> None:
        self._meters.on_network(name, rows, one_row)

    def remaining(self) -> Mapping[str, float]:
        return self._ledger.remaining()

    def seed(self, purpose: str, **axes: int | str) -> int:
        return derive_seed(self._seed, purpose, **axes)

    def rng(self, purpose: str, **axes: int | str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed(purpose, **axes))
