"""ReFL: Reward Feedback Learning (Xu et al., arXiv 2304.05977), section 4 and algorithm 1.

Symbols: T sampler steps; i the step that trains, in execution order; x0_hat the clean latent that step i predicts; phi
the reward map; g the loss scale (the paper's lambda); L_pre the pre-training loss.

    i ~ U{T - window .. T - 1};   x_T .. x_i without gradient
    L = g mean phi(r(decode(x0_hat(x_i, eps_theta(x_i))), c)) + pretrain_weight L_pre

Only one U-Net call trains, late enough for x0_hat to look like an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from bench.core.afford import Need
from bench.core.budget import Charge
from bench.core.contract import Context, Patch, Phase, Report, Setup, setting
from bench.core.types import SamplerSpec
from bench.diffusion.denoising import denoising_loss
from bench.diffusion.generate import sample_latents
from bench.diffusion.rollout import Path
from bench.diffusion.samplers import Noise
from tuners.online import OnlineConfig, OnlineTuner, of_steps
from tuners.pool import draw_cost


@dataclass(frozen=True)
class ReFLConfig(OnlineConfig):
    """ReFL's own settings."""

    window: int = setting(
        0, unit="steps", source="DRTune §4.1", low=0, help="the trained step is one of the last so many; 0 is share x T"
    )  # fmt: skip
    share: float = setting(
        0.2, unit="of T", source="DRTune §4.1: the last 10 of 50; ReFL's code: the last 10 of 40", low=0.0, high=1.0,
        help="the same as a share of the sampler's steps",
    )  # fmt: skip
    guidance: float = setting(
        -1.0, unit="", source="ReFL's code trains without guidance (1)", low=-1.0,
        help="classifier-free guidance of the training rollout; -1 is the suite's",
    )  # fmt: skip
    pretrain_weight: float = setting(
        0.0, unit="", source="ReFL eq. 7: 1", low=0.0, help="weight of L_pre on base-model images; 0 leaves it out"
    )  # fmt: skip
    pretrain_pool: int = setting(
        64, unit="images", source="ours", low=1, help="base-model images for L_pre, drawn and charged before tuning"
    )  # fmt: skip


class ReFL(OnlineTuner):
    """Trains one random late step through its predicted clean image (Xu et al. 2023)."""

    name = "refl"
    version = 1
    draws = "refl"
    paper = "Xu et al., ImageReward: Learning and Evaluating Human Preferences, arXiv 2304.05977"
    equations = "algorithm 1, eq. 6-7"
    deviations: ClassVar[tuple[str, ...]] = (
        "LoRA instead of the full U-Net, as in DRTune's comparison",
        "L_pre and the reward loss are summed into one update; the SDXL code steps the optimiser for each",
        "L_pre on images of the base model: suites bring prompts, not caption-image pairs; off by default, as in the "
        "released SD1.4 code (eq. 7: weight 1)",
        "refl-official's hinge at 2 is for ImageReward's scale: a reward that starts above it, as tiny-pick does at "
        "some 24, gives no gradient and the run ends as the base model; set hinge_at above what is to be reached",
        "guidance in the training rollout and loss -r instead of a hinge, as for every tuner here; refl-official has "
        "the code's steps, guidance, hinge and clipping, yet the common learning rate (the code: 1e-5 on the full "
        "U-Net) and no moving average",
    )
    Config = ReFLConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "refl-10": {},
        "refl-20": {"share": 0.4},
        "refl-official": {
            "share": 0.25, "guidance": 1.0, "reward_map": "hinge", "hinge_at": 2.0, "loss_scale": 1e-3, "clip": 1.0,
        },
    }  # fmt: skip

    def __init__(self, config: ReFLConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        self.window = _window(config, self.sampler.n_steps)
        self.pool: list[tuple[str, torch.Tensor]] = []
        """(prompt, clean latent (C, h, w)) of the base model, for L_pre."""

    @classmethod
    def rollout_spec(cls, config: Any, suite: SamplerSpec) -> SamplerSpec:
        return replace(suite, guidance=config.guidance) if config.guidance >= 0 else suite

    @classmethod
    def first_update(cls, config: Any, setup: Setup) -> list[Need]:
        update = super().first_update(config, setup)
        if not config.pretrain_weight:
            return update
        n = config.pretrain_pool
        pool = Need(
            f"L_pre's pool of {n} images", draw_cost(setup.train_sampler, n), "pretrain_pool is at most {room}", n
        )
        return [pool, *update]

    @classmethod
    def step_problems(cls, config: Any, n_steps: int) -> list[str]:
        if config.window > n_steps:
            return [f"window = {config.window} with {n_steps} sampler steps: at most {n_steps}"]
        return super().step_problems(config, n_steps)

    @classmethod
    def draw_path(cls, config: Any, T: int, rng: torch.Generator) -> Path:
        i = int(torch.randint(T - _window(config, T), T, (), generator=rng))
        return Path(train=frozenset({i}), stop=i)

    @classmethod
    def update_cost(cls, config: Any, sampler: SamplerSpec, path: Path, n_samples: int) -> Charge:
        n = n_samples if config.pretrain_weight else 0
        pretraining = Charge({"denoiser_fwd": n, "denoiser_bwd": n, "denoiser_u": 3 * n})
        return super().update_cost(config, sampler, path, n_samples) + pretraining

    # -- the optional pre-training term

    def phases(self) -> list[Phase]:
        if not self.config.pretrain_weight:
            return super().phases()
        filled = Phase("pool", self.fill_pool, lambda: len(self.pool) >= self.config.pretrain_pool, self.pool_cost)
        return [filled, *super().phases()]

    def fill_pool(self) -> Report:
        """One batch of the base model's own images for training prompts."""
        ctx, lo, n = self.ctx, len(self.pool), self._next_images()
        texts = [p.text for p in ctx.prompts(0, lo + n)[lo:]]
        model, mine = ctx.model, ctx.share(n)
        x0 = torch.zeros((n, *model.latent_shape(ctx.sampler.resolution)), dtype=model.dtype, device=model.device)
        with model.with_patch(Patch(adapter=False)):
            for start in range(mine.start, mine.stop, ctx.micro_batch):
                part = range(start, min(start + ctx.micro_batch, mine.stop))
                noise = Noise([ctx.seed("refl-pool", sample=lo + k) for k in part])
                x0[part] = sample_latents(model, [texts[k] for k in part], noise, ctx.sampler)
        ctx.all_reduce([x0])  # each image was made by one process and is zero in all others
        self.pool += zip(texts, x0.cpu(), strict=True)
        return Report({"pool": len(self.pool)}, n_steps=0)

    def _next_images(self) -> int:
        n: int = min(self.ctx.global_batch, self.config.pretrain_pool - len(self.pool))
        return n

    def pool_cost(self) -> Charge:
        return draw_cost(self.ctx.sampler, self._next_images())

    def accumulate(self, path: Path) -> dict[str, float]:
        scalars = super().accumulate(path)
        if self.config.pretrain_weight:
            scalars["pretrain_loss"] = self.accumulate_pretraining()
        return scalars

    def accumulate_pretraining(self) -> float:
        """Adds the gradient of pretrain_weight L_pre on ``global_batch`` members of the pool; returns L_pre."""
        ctx, B = self.ctx, self.ctx.global_batch
        rng = ctx.rng("refl-pretraining", update=self.update)
        members = [self.pool[k] for k in torch.randint(len(self.pool), (B,), generator=rng).tolist()]
        x0 = torch.stack([x for _, x in members]).to(ctx.model.device)
        t = torch.randint(int(ctx.model.scheduler_config["num_train_timesteps"]), (B,), generator=rng)
        eps = torch.randn(x0.shape, generator=rng).to(x0)
        total = 0.0
        mine = ctx.share(B)
        for lo in range(0, len(mine), ctx.micro_batch):
            part = slice(mine.start + lo, min(mine.start + lo + ctx.micro_batch, mine.stop))
            texts = [text for text, _ in members[part]]
            loss = denoising_loss(ctx.model, x0[part], texts, t[part], eps[part]).sum()
            (self.config.pretrain_weight / B * loss).backward()
            total += loss.item() / len(mine)
        return total

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "pool": list(self.pool)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.pool = [(text, x0) for text, x0 in state["pool"]]


def _window(config: ReFLConfig, T: int) -> int:
    return config.window or of_steps(T, config.share)
