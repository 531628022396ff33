"""The forward process and losses on it: noisy latents, predictions without guidance, the pre-training objective
(Ho et al., arXiv 2006.11239, eq. 14), and the reverse step's coefficient that compares two predictions.

Symbols as in ``bench.diffusion.samplers``, on the training grid t = 0 .. N-1: alpha_t = sqrt(abar_t),
sigma_t = sqrt(1 - abar_t). What is predicted, and what its error is taken to, is eps; for a flow model it is the
velocity v = eps - x_0, and alpha_t = 1 - s_t, sigma_t = s_t on the scheduler's own grid (Esser et al., arXiv
2403.03206, eq. 14 with uniform weights).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.diffusion.models import BaseModel
from bench.diffusion.samplers import is_flow


def noise_levels(model: BaseModel) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, sigma), each (N,) over the training timesteps: x_t = alpha_t x_0 + sigma_t eps."""
    if is_flow(model.scheduler_config):
        sigma = _flow_sigmas(model).to(model.device, model.dtype)
        return 1 - sigma, sigma
    abar = _alphas_cumprod(model).to(model.device, model.dtype)
    return abar.sqrt(), (1 - abar).sqrt()


def diffuse(model: BaseModel, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """x_t = alpha_t x_0 + sigma_t eps, (B, C, h, w), for timesteps t (B,) int64."""
    alpha, sigma = _at(model, t)
    return alpha * x0 + sigma * eps


def target(model: BaseModel, x0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """What ``predict`` should say of ``diffuse(model, x0, t, eps)``, (B, C, h, w): eps, or a flow model's eps - x_0."""
    return eps - x0 if is_flow(model.scheduler_config) else eps


def predict(model: BaseModel, x_t: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    """eps_theta(x_t, c, t) without guidance, (B, C, h, w), whatever the U-Net was trained to predict; v_theta of a flow
    model.

    Args:
        x_t: noisy latents (B, C, h, w).
        t: training timesteps (B,) int64.
        cond: text conditions (B, L, D).
    """
    if is_flow(model.scheduler_config):
        # the network is told s_t on a scale of N, where a diffusion model is told t itself
        levels = noise_levels(model)[1]
        return model.denoiser(x_t, levels[t.to(model.device)] * len(levels), cond)
    out = model.denoiser(x_t, t, cond)
    if model.prediction_type == "epsilon":
        return out
    alpha, sigma = _at(model, t)
    return alpha * out + sigma * x_t if model.prediction_type == "v_prediction" else (x_t - alpha * out) / sigma


def squared_error(wanted: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """m = mean of (eps - eps_hat)^2 over C, h, w: (B,). A mean, as in Diffusion-DPO's code: its beta has this scale."""
    return (wanted - predicted).square().mean((1, 2, 3))


def denoising_loss(
    model: BaseModel, x0: torch.Tensor, texts: Sequence[str], t: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of each sample's prediction, (B,), without guidance.

    Args:
        x0: clean latents (B, C, h, w).
        t: training timesteps (B,) int64.
        eps: the noise to add (B, C, h, w).
    """
    predicted = predict(model, diffuse(model, x0, t, eps), t, model.encode_prompts(texts))
    return squared_error(target(model, x0, eps), predicted)


def ancestral_coefficients(model: BaseModel) -> torch.Tensor:
    """b_t of DDPM's step t -> t-1 on the training grid, x_{t-1} = a_t x_t + b_t eps_hat + noise; (N,).

        b_t = -alpha_{t-1} (1 - abar_t / abar_{t-1}) / (sigma_t alpha_t),  abar_{-1} = 1

    so that with shared noise two predictions for one x_t lead to latents that differ by b_t (eps_hat - eps_hat')
    (Ho et al., eq. 11, solved for eps). In float64 until the end: 1 - abar_t / abar_{t-1} cancels. A flow model's step
    on its training grid is Euler's, x_{t-1} = x_t + (s_{t-1} - s_t) v_hat with s_{-1} = 0: b_t = s_{t-1} - s_t.
    """
    if is_flow(model.scheduler_config):
        sigma = _flow_sigmas(model)
        b = torch.cat([torch.zeros(1, dtype=torch.float64), sigma[:-1]]) - sigma
        return b.to(model.device, model.dtype)
    abar = _alphas_cumprod(model).double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    b = -before.sqrt() * (1 - abar / before) / ((1 - abar) * abar).sqrt()
    return b.to(model.device, model.dtype)


def _alphas_cumprod(model: BaseModel) -> torch.Tensor:
    from diffusers import DDPMScheduler

    known = DDPMScheduler._get_init_keys(DDPMScheduler)
    config = {k: v for k, v in model.scheduler_config.items() if k in known}
    abar: torch.Tensor = DDPMScheduler.from_config(config).alphas_cumprod
    return abar


def _flow_sigmas(model: BaseModel) -> torch.Tensor:
    """s_t, rising, (N,) float64."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    known = FlowMatchEulerDiscreteScheduler._get_init_keys(FlowMatchEulerDiscreteScheduler)
    config = {k: v for k, v in model.scheduler_config.items() if k in known}
    sigmas: torch.Tensor = FlowMatchEulerDiscreteScheduler.from_config(config).sigmas
    return sigmas.flip(0).double()


def _at(model: BaseModel, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha_t, sigma_t), each (B, 1, 1, 1)."""
    alpha, sigma = (level[t.to(model.device)].view(-1, 1, 1, 1) for level in noise_levels(model))
    return alpha, sigma
