"""DRTune: Deep Reward Tuning (Wu et al., arXiv 2405.00760), section 3 and algorithm 1.

Symbols: T sampler steps; t = T..1 the paper's reverse index, i = T - t ours; K trained steps, d = floor(T/K) their
stride, t_train their set (S here); t_min where sampling stops early, drawn from 1..m; sg stop gradient.

    for t = T .. t_min:   eps_hat_t = eps_theta(sg(x_t)),  sg(eps_hat_t) where t is not in t_train           (eq. 3)
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
from bench.diffusion.rollout import Path
from tuners.online import OnlineConfig, OnlineTuner, of_steps


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
    steps: str = setting(
        "spaced", unit="", source="§3.2: equally spaced steps converge faster than random ones",
        choices=("spaced", "random"), help="which K steps train: equally spaced ones, or any K",
    )  # fmt: skip
    stop_gradient: bool = setting(
        True, unit="", source="eq. 3; §4.2", help="sg at the U-Net's input; false differentiates the U-Nets by x_t too"
    )
    span: str = setting(
        "full", unit="", source="algorithm 1 / FlowBP", choices=("full", "executed"),
        help="spread the K steps over all T, where those after the stop are lost, or over the executed ones",
    )  # fmt: skip


class DRTune(OnlineTuner):
    """Stops gradient at the U-Net's input, trains K evenly spaced steps, stops the rollout early (Wu et al. 2024)."""

    name = "drtune"
    version = 1
    draws = "drtune"
    paper = "Wu et al., Deep Reward Supervisions for Tuning Text-to-Image Diffusion Models, arXiv 2405.00760"
    equations = "eq. 3, algorithm 1"
    deviations = (
        "the first trained step is drawn from 1..T-(K-1)d: the printed range 1..T-Kd is empty whenever K divides T",
        "the loss is -r: the last line of algorithm 1 descends on the reward",
        "K steps, not the K+1 of the text",
        "stops early as algorithm 1 and Fig. 9 do (m = 0.4 T); §4.1 says that it does not: preset drtune-noes",
        "defined in noise-prediction space: other models' predictions are converted with the detached latent",
    )
    Config = DRTuneConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "drtune": {},
        "drtune-noes": {"m": 0},
        "drtune-executed": {"span": "executed"},
        "drtune-randomk": {"steps": "random"},
        "drtune-nosg": {"stop_gradient": False},
    }

    def __init__(self, config: DRTuneConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        self.K, self.m = _resolved(config, self.sampler.n_steps)

    @classmethod
    def step_problems(cls, config: Any, n_steps: int) -> list[str]:
        problems = super().step_problems(config, n_steps)
        K, m = _resolved(config, n_steps)
        if n_steps < K:
            problems.append(f"K = {K} with {n_steps} sampler steps: at most {n_steps}")
        if m >= n_steps:
            problems.append(f"m = {m} with {n_steps} sampler steps: at most {n_steps - 1}, or nothing is sampled")
        return problems

    @classmethod
    def draw_path(cls, config: Any, T: int, rng: torch.Generator) -> Path:
        K, m = _resolved(config, T)
        s = T - draw_t_min(m, rng) if m else None
        length = T if config.span == "full" or s is None else s + 1
        draw = draw_t_train if config.steps == "spaced" else draw_any
        return Path(draw(length, min(K, length), rng), s, through_input=not config.stop_gradient)

    @classmethod
    def smaller(cls, config: Any, T: int) -> str:
        return "a smaller K" if _resolved(config, T)[0] > 1 else ""


def _resolved(config: DRTuneConfig, T: int) -> tuple[int, int]:
    return config.K or of_steps(T, 0.1), round(0.4 * T) if config.m < 0 else config.m


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


def draw_any(T: int, K: int, rng: torch.Generator) -> frozenset[int]:
    """Any K of the T steps, all sets alike: the paper's comparison with its equally spaced ones."""
    return frozenset(torch.randperm(T, generator=rng)[:K].tolist())
