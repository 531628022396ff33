"""What the path-gradient tuners share: rollouts of the current model, reward map, accumulation to the global batch.
Which steps train and where a rollout ends is each tuner's own file."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.core.budget import Charge
from bench.core.contract import Context, Phase, Report, setting
from bench.diffusion.rollout import Path, accumulate_gradients, rollout_cost
from bench.diffusion.samplers import Noise, build_sampler
from tuners.adapting import AdapterConfig, AdapterTuner


@dataclass(frozen=True)
class OnlineConfig(AdapterConfig):
    """Settings common to the path-gradient tuners."""

    reward_map: str = setting(
        "linear", unit="", source="DRTune alg. 1 / ReFL's code", choices=("linear", "hinge"),
        help="loss of a reward r: -r, or ReLU(c - r), which stops pushing once r reaches c",
    )  # fmt: skip
    hinge_at: float = setting(
        2.0, unit="reward", source="ReFL's code (ImageReward's scale)", help="c of the hinge; depends on the reward"
    )  # fmt: skip


def map_reward(r: torch.Tensor, reward_map: str, hinge_at: float) -> torch.Tensor:
    """Loss per sample (B,) of rewards r (B,), higher being better: ``linear`` -r, ``hinge`` ReLU(c - r)."""
    return -r if reward_map == "linear" else torch.relu(hinge_at - r)


class OnlineTuner(AdapterTuner):
    """A tuner that samples with the current model and ascends the reward's gradient through the sampler."""

    needs: ClassVar[frozenset[str]] = frozenset({"differentiable-reward"})
    loss_scale: float = 1.0
    """Factor on the mapped reward; Adam ignores it unless another loss joins the update."""

    def __init__(self, config: Any, ctx: Context) -> None:
        super().__init__(config, ctx)
        self.sampler = build_sampler(ctx.model, ctx.sampler)

    @abstractmethod
    def path(self, update: int) -> Path:
        """Which steps train in an update, and where its rollouts end: one draw for the whole batch."""

    def phases(self) -> list[Phase]:
        return [Phase("tune", self.unit, done=lambda: False, next_cost=self.next_cost)]

    def next_cost(self) -> Charge:
        return rollout_cost(self.sampler, self.path(self.update), self.ctx.global_batch) + Charge({"steps": 1})

    def unit(self) -> Report:
        """One optimiser step on ``global_batch`` rollouts."""
        scalars = self.accumulate(self.path(self.update))
        return Report({**scalars, **self.step()})

    def accumulate(self, path: Path) -> dict[str, float]:
        """Adds the gradient of mean_B loss(r(x_out)), micro-batch by micro-batch; returns what to log."""
        ctx = self.ctx
        texts = [p.text for p in ctx.prompts(self.update, ctx.global_batch)]
        seeds = [ctx.seed("rollout", update=self.update, sample=k) for k in range(len(texts))]
        reward = ctx.reward()
        rewards: list[float] = []
        saturated = 0.0
        mine = ctx.share(len(texts))
        for lo in range(0, len(mine), ctx.micro_batch):
            part = mine[lo : lo + ctx.micro_batch]
            batch = [texts[k] for k in part]

            def loss(images: torch.Tensor, batch: list[str] = batch) -> torch.Tensor:
                r = reward.score(images, batch)
                rewards.extend(r.detach().tolist())
                mapped = map_reward(r, self.config.reward_map, self.config.hinge_at)
                return self.loss_scale * mapped.sum() / ctx.global_batch

            outcome = accumulate_gradients(
                ctx.model, self.sampler, path, batch, Noise([seeds[k] for k in part]), loss, ctx.sampler.resolution,
            )  # fmt: skip
            saturated += outcome.saturated * len(part) / len(mine)
        return {
            "reward": sum(rewards) / len(rewards), "saturated": saturated,
            "n_executed": path.n_executed(self.sampler.n_steps), "n_trained": path.n_trained(self.sampler.n_steps),
        }  # fmt: skip
