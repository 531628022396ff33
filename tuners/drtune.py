"""DRTune: Deep Reward Tuning (Wu et al., arXiv 2405.00760), section 3 and algorithm 1.

Symbols: T sampler steps; t = T..1 the paper's reverse index, i = T - t ours; K trained steps, d = floor(T/K) their
stride, t_train their set (S here); t_min where sampling stops early, drawn from 1..m; sg stop gradient.

    for t = T .. t_min:   eps_hat_t = eps_theta(sg(x_t)),  sg(eps_hat_t) where t is not in t_train           (eq. 4)
    L = -r(x0_hat(x_tmin, eps_hat_tmin), c)                                                         (algorithm 1)

so dL/dtheta = sum over t in t_train of kappa_t J_t^T dL/dx_out with J_t = d eps_hat_t/d theta at a fixed input: cheap
(|t_train| re-runs, one alive at a time), and it does not explode, as no U-Net is differentiated by its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.core.contract import Context, setting
from bench.core.errors import UserError
from bench.diffusion.rollout import Path
from tuners.online import OnlineConfig, OnlineTuner


@dataclass(frozen=True)
class DRTuneConfig(OnlineConfig):
    """DRTune's own settings."""

    K: int = setting(
        0, unit="steps", source="§4.1: K = 5 of T = 50", low=0, help="trained steps a rollout; 0 is the paper's 0.1 T"
    )  # fmt: skip
    m: int = setting(
        -1, unit="steps", source="§4.4, Fig. 9: m = 20 of T = 50", low=-1,
        help="the rollout stops at a random one of its last m steps; -1 is the paper's 0.4 T, 0 never stops early",
    )  # fmt: skip
    span: str = setting(
        "full", unit="", source="algorithm 1 / FlowBP", choices=("full", "executed"),
        help="spread the K steps over all T, where those after the stop are lost, or over the executed ones",
    )  # fmt: skip


class DRTune(OnlineTuner):
    """Stops gradient at the U-Net's input, trains K evenly spaced steps, stops the rollout early (Wu et al. 2024)."""

    name = "drtune"
    version = 1
    paper = "Wu et al., Deep Reward Supervisions for Tuning Text-to-Image Diffusion Models, arXiv 2405.00760"
    equations = "eq. 4, algorithm 1"
    deviations = (
        "the first trained step is drawn from 1..T-(K-1)d: the printed range 1..T-Kd is empty whenever K divides T",
        "the loss is -r: the last line of algorithm 1 descends on the reward",
        "K steps, not the K+1 of the text",
        "defined in noise-prediction space: other models' predictions are converted with the detached latent",
    )
    Config = DRTuneConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "drtune": {},
        "drtune-noes": {"m": 0},
        "drtune-executed": {"span": "executed"},
    }

    def __init__(self, config: DRTuneConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        T = self.sampler.n_steps
        self.K = config.K or max(1, round(0.1 * T))
        self.m = round(0.4 * T) if config.m < 0 else config.m
        if self.K > T or self.m > T:
            raise UserError(f"drtune: K = {self.K}, m = {self.m} with {T} sampler steps", valid=f"at most {T}")

    def path(self, update: int) -> Path:
        T = self.sampler.n_steps
        rng = self.ctx.rng("drtune", update=update)
        s = T - draw_t_min(self.m, rng) if self.m else None
        length = T if self.config.span == "full" or s is None else s + 1
        return Path(train=draw_t_train(length, min(self.K, length), rng), stop=s)


def draw_t_min(m: int, rng: torch.Generator) -> int:
    """t_min ~ U{1..m}, the reverse index at which the rollout stops."""
    return int(torch.randint(1, m + 1, (), generator=rng))


def draw_t_train(T: int, K: int, rng: torch.Generator) -> frozenset[int]:
    """S = {s + k d, k = 0..K-1} with d = floor(T/K) and s ~ U{1..T-(K-1)d}, as execution indices i = T - t.

    >>> sorted(draw_t_train(50, 5, torch.Generator().manual_seed(0)))
    [9, 19, 29, 39, 49]
    """
    d = T // K
    s = int(torch.randint(1, T - (K - 1) * d + 1, (), generator=rng))
    return frozenset(T - (s + k * d) for k in range(K))
