"""AlignProp (Prabhudesai et al., arXiv 2310.03739; code mihirp1998/AlignProp, MIT).

Symbols: T sampler steps, i = 0..T-1 their execution index; S the trained ones. The paper truncates back-propagation at
one random step of each update; its released code draws the truncation again at every step, which trains a random
subset instead. Gradient passes through x and the U-Net's input of trained steps, and through x alone across gaps.

    subset    (released 2023; TRL)   j_i ~ U{0..T} for each i;  S = {i : j_i <= i}, so i is kept with p = (i+1)/(T+1)
    suffix    (paper)                K ~ U{0..T};               S = {T-K .. T-1}
    gaussian  (released 2024)        j = floor(N(0.84 T, (0.1 T)^2)), again until 1 <= j < T;  S = {j .. T-1}
    fixed     (released 2024; TRL)   j;                         S = {j .. T-1}, which is DRaFT-(T-j)

    L = -r(x_0, c)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.core.contract import setting
from bench.diffusion.rollout import Path
from tuners.online import OnlineConfig, OnlineTuner, last_steps


@dataclass(frozen=True)
class AlignPropConfig(OnlineConfig):
    """AlignProp's own settings."""

    mode: str = setting(
        "subset", unit="", source="code 2023 (subset), paper (suffix), code 2024 (gaussian, fixed)",
        choices=("subset", "suffix", "gaussian", "fixed"), help="how the trained steps are drawn",
    )  # fmt: skip
    j: int = setting(
        -1, unit="step", source="code 2024, TRL: 49 of 0..49", low=-1,
        help="first trained step of mode fixed, counted from 0; -1 is the last step alone",
    )  # fmt: skip
    centre: float = setting(
        0.84, unit="of T", source="code 2024: 42 of 50", low=0.0, high=1.0, help="mean of mode gaussian's first step"
    )
    spread: float = setting(
        0.1, unit="of T", source="code 2024: 5 of 50", low=0.0, high=1.0, help="its standard deviation"
    )
    stop_gradient: bool = setting(
        False, unit="", source="DRTune §4.2, Fig. 6", help="sg at the U-Net's input, as DRTune proposes for AlignProp"
    )


class AlignProp(OnlineTuner):
    """Back-propagates through a random part of sampling, more often late than early (Prabhudesai et al. 2023)."""

    name = "alignprop"
    version = 1
    draws = "alignprop"
    paper = "Prabhudesai et al., Aligning Text-to-Image Diffusion Models with Reward Backpropagation, arXiv 2310.03739"
    equations = "randomised truncated back-propagation"
    deviations = (
        "the default is the released code's subset (what DRTune compares with), not the paper's suffix",
        "x_0 is x0_hat of the last step, so that mode fixed is DRaFT-(T-j); DDPM's and Euler's last latent equals it",
        "the suite's sampler and guidance instead of DDIM with eta 1 and guidance 5",
        "images reach the reward in [0, 1]: the code of 2024 denormalises them twice",
        "where nothing is drawn (K = 0) the update has no gradient, costs its rollout, and only Adam's momentum and "
        "decay move the weights; the released code fails there",
        "no preset has the codes' optimiser (learning rate 1e-3, rank 4, clipping at 5 or 1): all tuners share one",
        "loss -r; the released 0.01 mean |r - 10| and 0.01 mean (1 - r) are reward_map and loss_scale",
    )
    Config = AlignPropConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "alignprop": {},
        "alignprop-suffix": {"mode": "suffix"},
        "alignprop-gaussian": {"mode": "gaussian"},
        "alignprop-fixed": {"mode": "fixed"},
        "alignprop-sg": {"stop_gradient": True},
    }

    @classmethod
    def step_problems(cls, config: Any, n_steps: int) -> list[str]:
        problems = super().step_problems(config, n_steps)
        if config.mode == "fixed" and config.j >= n_steps:
            problems.append(f"j = {config.j} with {n_steps} sampler steps: at most {n_steps - 1}")
        if config.mode == "gaussian" and (n_steps < 2 or not _reachable(config, n_steps)):
            problems.append(
                f"mode gaussian draws its first step from 1..{n_steps - 1}, which centre = {config.centre} and "
                f"spread = {config.spread} of {n_steps} sampler steps do not reach: 0.84 and 0.1 with at least 2 steps"
            )
        return problems

    @classmethod
    def draw_path(cls, config: Any, T: int, rng: torch.Generator) -> Path:
        if config.mode == "subset":
            train = draw_subset(T, rng)
        elif config.mode == "suffix":
            train = last_steps(T, int(torch.randint(0, T + 1, (), generator=rng)))
        elif config.mode == "gaussian":
            train = last_steps(T, T - draw_gaussian(T, config.centre * T, config.spread * T, rng))
        else:
            train = last_steps(T, 1 if config.j < 0 else T - config.j)
        return Path(train, stop=T - 1, through_input=not config.stop_gradient)


def draw_subset(T: int, rng: torch.Generator) -> frozenset[int]:
    """Step i trains where its own draw of U{0..T} is at most i."""
    j = torch.randint(0, T + 1, (T,), generator=rng)
    return frozenset(i for i in range(T) if j[i] <= i)


def draw_gaussian(T: int, mean: float, std: float, rng: torch.Generator) -> int:
    """floor(N(mean, std^2)), drawn again until it lies in 1..T-1."""
    while True:
        j = int(mean + std * torch.randn((), generator=rng).item())
        if 1 <= j < T:
            return j


def _reachable(config: AlignPropConfig, T: int) -> bool:
    """Whether mode gaussian draws a step of 1..T-1 within three standard deviations."""
    mean, std = config.centre * T, config.spread * T
    return mean + 3 * std >= 1 and mean - 3 * std < T
