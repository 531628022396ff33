"""What the path-gradient tuners share: rollouts of the current model, reward map, accumulation to the global batch.
Which steps train and where a rollout ends is each tuner's own file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.core.afford import Need
from bench.core.budget import Charge
from bench.core.contract import Context, Phase, Report, Reward, Setup, setting
from bench.core.errors import UserError
from bench.core.seeds import derive_seed
from bench.core.types import SamplerSpec
from bench.diffusion.rollout import Loss, Outcome, Path, accumulate_gradients, rollout_cost
from bench.diffusion.samplers import Noise, build_sampler
from tuners.adapting import AdapterConfig, AdapterTuner


@dataclass(frozen=True)
class OnlineConfig(AdapterConfig):
    """Settings common to the path-gradient tuners."""

    reward_map: str = setting(
        "linear", unit="", source="DRTune alg. 1 / ReFL's code / AlignProp's code",
        choices=("linear", "hinge", "distance"),
        help="loss of a reward r: -r; ReLU(c - r), which stops pushing once r reaches c; or |c - r|, which pulls back",
    )  # fmt: skip
    hinge_at: float = setting(
        2.0, unit="reward", source="ReFL's code (ImageReward's scale); AlignProp's code: 10 (aesthetic score)",
        help="c of hinge and distance, on the reward's scale: a reward that starts above c gives a hinge no gradient",
    )  # fmt: skip
    loss_scale: float = setting(
        1.0, unit="", source="ReFL's code: 1e-3; AlignProp's code: 0.01", low=0.0,
        help="factor g on the reward loss; with no other loss it moves only the clipping threshold and Adam's epsilon",
    )  # fmt: skip
    kl: float = setting(
        0.0, unit="", source="DRaFT+ (NeMo-Aligner): 1.0", low=0.0,
        help="weight of the mean squared distance of trained predictions to the base model's; costs its evaluation",
    )  # fmt: skip


def map_reward(r: torch.Tensor, reward_map: str, hinge_at: float) -> torch.Tensor:
    """Loss per sample (B,) of rewards r (B,), higher being better: ``linear`` -r, ``hinge`` ReLU(c - r), ``distance``
    |c - r|."""
    if reward_map == "linear":
        return -r
    return torch.relu(hinge_at - r) if reward_map == "hinge" else (hinge_at - r).abs()


def of_steps(n_steps: int, share: float) -> int:
    """A share of a rollout's steps, at least one: what papers state for 50 steps serves any number of them."""
    return max(1, round(share * n_steps))


def last_steps(n_steps: int, K: int) -> frozenset[int]:
    """{T-K .. T-1}, as execution indices."""
    return frozenset(range(n_steps - K, n_steps))


class OnlineTuner(AdapterTuner):
    """A tuner that samples with the current model and ascends the reward's gradient through the sampler."""

    needs: ClassVar[frozenset[str]] = frozenset({"differentiable-reward"})
    draws: ClassVar[str]
    """Purpose of the draws of ``draw_path``, one generator an update."""

    def __init__(self, config: Any, ctx: Context) -> None:
        super().__init__(config, ctx)
        self.sampler = build_sampler(ctx.model, self.rollout_spec(config, ctx.sampler))
        if problems := self.step_problems(config, self.sampler.n_steps):
            raise UserError(f"{self.name}: {problems[0]}")
        self.loss_scale: float = config.loss_scale
        """Factor on the mapped reward; Adam ignores it unless another loss joins the update."""

    @classmethod
    def problems(cls, config: Any, setup: Setup) -> list[str]:
        problems = super().problems(config, setup)
        return problems + cls.step_problems(config, setup.train_sampler.n_steps)

    @classmethod
    def step_problems(cls, config: Any, n_steps: int) -> list[str]:
        """What does not fit a rollout of so many steps, each as one sentence with what is valid."""
        return []

    @classmethod
    def rollout_spec(cls, config: Any, suite: SamplerSpec) -> SamplerSpec:
        """How it samples while training: as the suite does, or with a guidance of its own."""
        return suite

    @classmethod
    @abstractmethod
    def draw_path(cls, config: Any, T: int, rng: torch.Generator) -> Path:
        """Which of T steps train in an update, and where its rollouts end: one draw for the whole batch. It depends on
        its arguments alone, so that a plan knows what the first update costs."""

    def path(self, update: int) -> Path:
        """The path of one update."""
        return self.draw_path(self.config, self.sampler.n_steps, self.ctx.rng(self.draws, update=update))

    @classmethod
    def update_cost(cls, config: Any, sampler: SamplerSpec, path: Path, n_samples: int) -> Charge:
        """Exactly what one update of ``n_samples`` rollouts costs."""
        return rollout_cost(sampler, path, n_samples, config.kl) + Charge({"steps": 1})

    @classmethod
    def first_update(cls, config: Any, setup: Setup) -> list[Need]:
        sampler = cls.rollout_spec(config, setup.train_sampler)
        rng = torch.Generator().manual_seed(derive_seed(setup.seed, cls.draws, update=0))
        path = cls.draw_path(config, sampler.n_steps, rng)
        return [Need(
            f"an update of {setup.global_batch} rollouts",
            cls.update_cost(config, sampler, path, setup.global_batch), cls.smaller(config, sampler.n_steps),
        )]  # fmt: skip

    @classmethod
    def smaller(cls, config: Any, T: int) -> str:
        """The setting that makes an update cost less, such as ``a smaller K``; "" where none does."""
        return ""

    def phases(self) -> list[Phase]:
        return [Phase("tune", self.unit, done=lambda: False, next_cost=self.next_cost)]

    def next_cost(self) -> Charge:
        path = self.path(self.update)
        return self.update_cost(self.config, self.sampler.spec, path, self.ctx.global_batch)

    def unit(self) -> Report:
        """One optimiser step on ``global_batch`` rollouts."""
        scalars = self.accumulate(self.path(self.update))
        return Report({**scalars, **self.step()})

    def accumulate(self, path: Path) -> dict[str, float]:
        """Adds the gradient of mean_B g phi(r(x_out)) + kl L_kl, micro-batch by micro-batch; returns what to log."""
        ctx = self.ctx
        texts = [p.text for p in ctx.prompts(self.update, ctx.global_batch)]
        rewards: list[float] = []
        saturated = penalty = 0.0
        mine = ctx.share(len(texts))
        for lo in range(0, len(mine), ctx.micro_batch):
            part = mine[lo : lo + ctx.micro_batch]
            outcome = self.accumulate_part(path, part, [texts[k] for k in part], rewards)
            saturated += outcome.saturated * len(part) / len(mine)
            penalty += outcome.kl / len(mine)
        return {
            "reward": sum(rewards) / len(rewards), "saturated": saturated,
            "n_executed": path.n_executed(self.sampler.n_steps), "n_trained": path.n_trained(self.sampler.n_steps),
            **({"kl": penalty} if self.config.kl else {}),
        }  # fmt: skip

    def accumulate_part(self, path: Path, part: Sequence[int], texts: Sequence[str], rewards: list[float]) -> Outcome:
        """The same for the samples ``part`` of the update, with these texts; their rewards are appended."""
        ctx = self.ctx
        noise = Noise([ctx.seed("rollout", update=self.update, sample=k) for k in part])
        return accumulate_gradients(
            ctx.model, self.sampler, path, texts, noise, self.loss(self.tuned_for(), texts, rewards),
            ctx.sampler.resolution, self.config.kl / ctx.global_batch,
        )  # fmt: skip

    def tuned_for(self) -> Reward:
        """The reward whose gradient counts: the run's."""
        return self.ctx.reward()

    def loss(self, reward: Reward, texts: Sequence[str], rewards: list[float]) -> Loss:
        """g phi(r) of images for these texts, divided by the global batch; appends the rewards as it scores."""

        def loss(images: torch.Tensor) -> torch.Tensor:
            r = reward.score(images, texts)
            rewards.extend(r.detach().tolist())
            mapped = map_reward(r, self.config.reward_map, self.config.hinge_at)
            return self.loss_scale * mapped.sum() / self.ctx.global_batch

        return loss
