"""What the path-gradient tuners share: adapter, AdamW, clipping, accumulation to the global batch, resume. Which steps
train and where a rollout ends is each tuner's own file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.core.budget import Charge
from bench.core.contract import Context, Phase, Report, Tuner, setting
from bench.core.errors import Diverged
from bench.diffusion import adapters
from bench.diffusion.rollout import Path, accumulate_gradients, rollout_cost
from bench.diffusion.samplers import Noise, build_sampler

_PROTOCOL = "DRTune §4.1 (common protocol)"


@dataclass(frozen=True)
class OnlineConfig:
    """Settings common to the path-gradient tuners; the defaults are DRTune's protocol, the same for all of them."""

    lr: float = setting(
        0.0, unit="1/step", source=_PROTOCOL, low=0.0,
        help="learning rate of AdamW, constant; 0 takes the base model's (2e-5 for SD1.5)",
    )  # fmt: skip
    rank: int = setting(
        0, unit="", source=_PROTOCOL, low=0, help="LoRA rank; 0 takes the base model's (128 for SD1.5)"
    )  # fmt: skip
    alpha: float = setting(
        0.0, unit="", source="not stated: alpha = rank", low=0.0, help="LoRA alpha; 0 takes the rank"
    )
    beta1: float = setting(0.9, unit="", source=_PROTOCOL, low=0.0, high=1.0, help="AdamW's first moment decay")
    beta2: float = setting(0.999, unit="", source=_PROTOCOL, low=0.0, high=1.0, help="AdamW's second moment decay")
    weight_decay: float = setting(0.01, unit="", source="AdamW's default", low=0.0, help="AdamW's decoupled decay")
    clip: float = setting(
        0.1, unit="L2 norm", source=_PROTOCOL, low=0.0, help="gradient norm above which an update is scaled down"
    )  # fmt: skip
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


class OnlineTuner(Tuner):
    """A tuner that samples with the current model and ascends the reward's gradient through the sampler."""

    needs: ClassVar[frozenset[str]] = frozenset({"differentiable-reward"})
    loss_scale: float = 1.0
    """Factor on the mapped reward; Adam ignores it unless another loss joins the update."""

    def __init__(self, config: Any, ctx: Context) -> None:
        super().__init__(config, ctx)
        defaults = ctx.model.source.tuning_defaults
        rank = config.rank or int(defaults["rank"])
        self.parameters = ctx.model.attach_adapter(
            rank=rank, alpha=config.alpha or rank, generator=ctx.rng("adapter-init")
        )
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr or float(defaults["lr"]), betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )  # fmt: skip
        self.sampler = build_sampler(ctx.model, ctx.sampler)
        self.update = 0

    @abstractmethod
    def path(self, update: int) -> Path:
        """Which steps train in an update, and where its rollouts end: one draw for the whole batch."""

    def phases(self) -> list[Phase]:
        return [Phase("tune", self.unit, done=lambda: False, next_cost=self.next_cost)]

    def next_cost(self) -> Charge:
        return rollout_cost(self.sampler, self.path(self.update), self.ctx.global_batch) + Charge({"steps": 1})

    def unit(self) -> Report:
        """One optimiser step on ``global_batch`` rollouts."""
        self.optimizer.zero_grad(set_to_none=True)
        scalars = self.accumulate(self.path(self.update))
        # the norm before clipping is logged: clips of different papers are not comparable without it
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip).item()
        if not torch.isfinite(torch.tensor(norm)):
            raise Diverged(f"the gradient norm of update {self.update} is {norm}")
        self.optimizer.step()
        self.update += 1
        return Report({**scalars, "grad_norm": norm, "clipped": float(norm > self.config.clip)})

    def accumulate(self, path: Path) -> dict[str, float]:
        """Adds the gradient of mean_B loss(r(x_out)), micro-batch by micro-batch; returns what to log."""
        ctx = self.ctx
        prompts = ctx.prompts(self.update, ctx.global_batch)
        texts = [p.text for p in prompts]
        seeds = [ctx.seed("rollout", update=self.update, sample=k) for k in range(len(prompts))]
        reward = ctx.reward()
        rewards: list[float] = []
        saturated = 0.0
        for lo in range(0, len(prompts), ctx.micro_batch):
            batch = texts[lo : lo + ctx.micro_batch]

            def loss(images: torch.Tensor, batch: list[str] = batch) -> torch.Tensor:
                r = reward.score(images, batch)
                rewards.extend(r.detach().tolist())
                mapped = map_reward(r, self.config.reward_map, self.config.hinge_at)
                return self.loss_scale * mapped.sum() / ctx.global_batch

            outcome = accumulate_gradients(
                ctx.model, self.sampler, path, batch, Noise(seeds[lo : lo + ctx.micro_batch]), loss,
                ctx.sampler.resolution,
            )  # fmt: skip
            saturated += outcome.saturated * len(batch) / len(texts)
        return {
            "reward": sum(rewards) / len(rewards), "saturated": saturated,
            "n_executed": path.n_executed(self.sampler.n_steps), "n_trained": path.n_trained(self.sampler.n_steps),
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {
            "update": self.update,
            "adapter": adapters.adapter_state(self.ctx.model.unet),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.update = int(state["update"])
        adapters.load_adapter_state(self.ctx.model.unet, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
