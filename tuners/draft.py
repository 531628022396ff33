"""DRaFT: Direct Reward Fine-Tuning (Clark et al., arXiv 2309.17400): DRaFT, DRaFT-K and DRaFT-LV; DRaFT+ is
NeMo-Aligner's. There is no code of the authors; the formulas are those of the papers that compare with it.

Symbols: T sampler steps, i their execution index; K trained steps, the last ones; n re-noisings of the finished latent;
alpha_1, sigma_1 the noise level of the last step; sg stop gradient; eps_ref the base model's prediction.

    S = {T-K .. T-1};   x_i without gradient for i < T-K, with gradient through x and the U-Net's input after that
    x_0 = x0_hat(x_{T-1}, eps_hat_{T-1})
    x0_hat^(k) = x0_hat(x_1^(k), eps_theta(x_1^(k))),   x_1^(k) = alpha_1 sg(x_0) + sigma_1 eps^(k),   k = 1..n     (LV)
    L = -1/(n+1) [ r(x_0, c) + sum_k r(x0_hat^(k), c) ]
        + kl mean_{i in S} mean (eps_hat_i - eps_ref_i)^2                                                       (DRaFT+)

K = T is full back-propagation. The low variance of LV comes from n more draws of the last step's noise at the price of
one U-Net call each, instead of a rollout each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.core.budget import Charge
from bench.core.contract import Context, setting
from bench.core.types import SamplerSpec
from bench.diffusion.rollout import Outcome, Path, accumulate_at, noised
from tuners.online import OnlineConfig, OnlineTuner, last_steps, of_steps


@dataclass(frozen=True)
class DRaFTConfig(OnlineConfig):
    """DRaFT's own settings."""

    K: int = setting(
        0, unit="steps", source="DRaFT-K; DRTune §4.1: 10 of 50", low=0,
        help="the last K steps train; 0 is share x T, so that draft-10 is a fifth of the steps whatever their number",
    )  # fmt: skip
    share: float = setting(
        0.2, unit="of T", source="DRTune §4.1: 10 of 50", low=0.0, high=1.0,
        help="K as a share of the sampler's steps; 1 is DRaFT-T, full back-propagation",
    )  # fmt: skip
    n: int = setting(
        0, unit="noises", source="DRaFT-LV: 2", low=0,
        help="re-noisings of the finished latent at the last step's noise level; each costs a U-Net call and a decode",
    )  # fmt: skip
    stop_gradient: bool = setting(
        False, unit="", source="DRTune §4.2, Fig. 6-7", help="sg at the U-Net's input, as DRTune proposes for DRaFT-T"
    )


class DRaFT(OnlineTuner):
    """Back-propagates through the last K steps of sampling; DRaFT-LV re-noises the last one (Clark et al. 2023)."""

    name = "draft"
    version = 1
    draws = "draft"
    paper = "Clark et al., Directly Fine-Tuning Diffusion Models on Differentiable Rewards, arXiv 2309.17400"
    equations = "DRaFT-K, DRaFT-LV; DRaFT+: NeMo-Aligner"
    deviations = (
        "x_0 is x0_hat of the last step, as in NeMo-Aligner: DDIM's own last latent keeps sigma_0 eps_hat where its "
        "alpha does not end at 1, which shrinks DRaFT-1's gradient to 0.29 of it",
        "the suite's sampler instead of DDIM with eta 0: all tuners of a comparison share one",
        "no preset has the paper's optimiser (learning rate 4e-4, rank 8, decay 0.1): all tuners share one; the "
        "reach of the last step depends on the schedule's spacing, which the model's scheduler config sets",
        "DRaFT-LV averages its n + 1 gradients, it does not add them: Adam ignores the factor and clipping should not "
        "see it",
        "DRaFT-LV re-noises the latent, not the decoded image",
        "DRaFT+: eps_ref is held fixed, as in NeMo-Aligner, also where gradient passes through x; its annealed "
        "guidance at inference is left out, as every tuner is sampled alike",
    )
    Config = DRaFTConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "draft-1": {"K": 1},
        "draft-10": {},
        "draft-lv": {"K": 1, "n": 2},
        "draft-t": {"share": 1.0},
        "draft-t-sg": {"share": 1.0, "stop_gradient": True},
        "draft+": {"K": 1, "kl": 1.0},
    }

    def __init__(self, config: DRaFTConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        self.loss_scale /= config.n + 1

    @classmethod
    def step_problems(cls, config: Any, n_steps: int) -> list[str]:
        problems = super().step_problems(config, n_steps)
        if n_steps < config.K:
            problems.append(f"K = {config.K} with {n_steps} sampler steps: at most {n_steps}")
        return problems

    @classmethod
    def draw_path(cls, config: Any, T: int, rng: torch.Generator) -> Path:
        return Path(last_steps(T, _k_steps(config, T)), stop=T - 1, through_input=not config.stop_gradient)

    @classmethod
    def smaller(cls, config: Any, T: int) -> str:
        return "a smaller K" if _k_steps(config, T) > 1 else "a smaller n" if config.n else ""

    @classmethod
    def update_cost(cls, config: Any, sampler: SamplerSpec, path: Path, n_samples: int) -> Charge:
        images = config.n * n_samples
        rows = sampler.branches * images
        return super().update_cost(config, sampler, path, n_samples) + Charge({
            "denoiser_fwd": rows, "denoiser_bwd": rows, "denoiser_u": 3 * rows, "images": images,
            "reward_calls": images,
        })  # fmt: skip

    def accumulate_part(self, path: Path, part: Sequence[int], texts: Sequence[str], rewards: list[float]) -> Outcome:
        outcome = super().accumulate_part(path, part, texts, rewards)
        ctx, last, x_0 = self.ctx, self.sampler.n_steps - 1, outcome.x_out
        # logged is the reward of finished samples alone, as for every other tuner
        loss = self.loss(ctx.reward(), texts, [])
        for k in range(1, self.config.n + 1):
            draws = [ctx.rng("draft-lv", update=self.update, sample=sample, k=k) for sample in part]
            eps = torch.stack([torch.randn(x_0.shape[1:], generator=rng) for rng in draws]).to(x_0)
            accumulate_at(ctx.model, self.sampler, last, noised(self.sampler, last, x_0, eps), texts, loss)
        return outcome


def _k_steps(config: DRaFTConfig, T: int) -> int:
    return config.K or of_steps(T, config.share)
