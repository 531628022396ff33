"""The forward process and losses on it: noisy latents, noise predictions without guidance, the pre-training objective
(Ho et al., arXiv 2006.11239, eq. 14), and the reverse step's coefficient that compares two predictions.

Symbols as in ``bench.diffusion.samplers``, on the training grid t = 0 .. N-1: alpha_t = sqrt(abar_t),
sigma_t = sqrt(1 - abar_t).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.diffusion.models import BaseModel


def noise_levels(model: BaseModel) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, sigma), each (N,) over the training timesteps: x_t = alpha_t x_0 + sigma_t eps."""
    abar = _alphas_cumprod(model).to(model.device, model.dtype)
    return abar.sqrt(), (1 - abar).sqrt()


def diffuse(model: BaseModel, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """x_t = alpha_t x_0 + sigma_t eps, (B, C, h, w), for timesteps t (B,) int64."""
    alpha, sigma = _at(model, t)
    return alpha * x0 + sigma * eps


def predict_noise(model: BaseModel, x_t: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    """eps_theta(x_t, c, t) without guidance, (B, C, h, w), whatever the U-Net was trained to predict.

    Args:
        x_t: noisy latents (B, C, h, w).
        t: training timesteps (B,) int64.
        cond: text conditions (B, L, D).
    """
    out = model.denoiser(x_t, t, cond)
    if model.prediction_type == "epsilon":
        return out
    alpha, sigma = _at(model, t)
    return alpha * out + sigma * x_t if model.prediction_type == "v_prediction" else (x_t - alpha * out) / sigma


def noise_error(eps: torch.Tensor, eps_hat: torch.Tensor) -> torch.Tensor:
    """m = mean of (eps - eps_hat)^2 over C, h, w: (B,). A mean, as in Diffusion-DPO's code: its beta has this scale."""
    return (eps - eps_hat).square().mean((1, 2, 3))


def denoising_loss(
    model: BaseModel, x0: torch.Tensor, texts: Sequence[str], t: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """Mean squared noise error of each sample, (B,), without guidance.

    Args:
        x0: clean latents (B, C, h, w).
        t: training timesteps (B,) int64.
        eps: the noise to predict (B, C, h, w).
    """
    return noise_error(eps, predict_noise(model, diffuse(model, x0, t, eps), t, model.encode_prompts(texts)))


def ancestral_coefficients(model: BaseModel) -> torch.Tensor:
    """b_t of DDPM's step t -> t-1 on the training grid, x_{t-1} = a_t x_t + b_t eps_hat + noise; (N,).

        b_t = -alpha_{t-1} (1 - abar_t / abar_{t-1}) / (sigma_t alpha_t),  abar_{-1} = 1

    so that with shared noise two predictions for one x_t lead to latents that differ by b_t (eps_hat - eps_hat')
    (Ho et al., eq. 11, solved for eps). In float64 until the end: 1 - abar_t / abar_{t-1} cancels.
    """
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


def _at(model: BaseModel, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha_t, sigma_t), each (B, 1, 1, 1)."""
    alpha, sigma = (level[t.to(model.device)].view(-1, 1, 1, 1) for level in noise_levels(model))
    return alpha, sigma
