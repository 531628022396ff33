"""The pre-training objective (Ho et al., arXiv 2006.11239, eq. 14), for tuners that keep it as a regulariser."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.diffusion.models import BaseModel


def noise_levels(model: BaseModel) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, sigma), each (N,) over the training timesteps: x_t = alpha_t x_0 + sigma_t eps."""
    from diffusers import DDPMScheduler

    known = DDPMScheduler._get_init_keys(DDPMScheduler)
    config = {k: v for k, v in model.scheduler_config.items() if k in known}
    abar: torch.Tensor = DDPMScheduler.from_config(config).alphas_cumprod.to(model.device, model.dtype)
    return abar.sqrt(), (1 - abar).sqrt()


def denoising_loss(
    model: BaseModel, x0: torch.Tensor, texts: Sequence[str], t: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """Mean squared noise error of each sample, (B,), without guidance.

    Args:
        x0: clean latents (B, C, h, w).
        t: training timesteps (B,) int64.
        eps: the noise to predict (B, C, h, w).
    """
    alpha, sigma = (level[t.to(model.device)].view(-1, 1, 1, 1) for level in noise_levels(model))
    x_t = alpha * x0 + sigma * eps
    out = model.denoiser(x_t, t, model.encode_prompts(texts))
    if model.prediction_type == "v_prediction":
        out = alpha * out + sigma * x_t
    elif model.prediction_type == "sample":
        out = (x_t - alpha * out) / sigma
    return (eps - out).square().mean((1, 2, 3))
