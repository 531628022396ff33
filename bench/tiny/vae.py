"""The autoencoder of the tiny Stable Diffusion: 64x64 pictures to 8x8 latents of 8 channels.

At this size blur is the enemy, so the loss is L1 on pixels + L1 on finite differences (edges) + L1 at half resolution,
with a small KL term. Symbols: x picture (B, 3, 64, 64) in [-1, 1]; z latent (B, 8, 8, 8).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from bench.tiny.loop import Draw, Plan, device, fit
from bench.tiny.render import render
from bench.tiny.world import sample_split

PLAN = Plan("vae", steps=9000, batch=8, lr=2e-3, warmup=200, ema=0.98)
KL_WEIGHT = 2e-4
LATENT_CHANNELS = 8


def build() -> AutoencoderKL:
    """An untrained autoencoder; most of its cost is at 64x64, so that level is the thinnest."""
    torch.manual_seed(11)
    return AutoencoderKL(
        block_out_channels=(16, 16, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def pictures(draw: Draw, n: int) -> torch.Tensor:
    """Random renders outside the held-out part: (n, 3, 64, 64) float32 in [0, 1]."""
    images = np.stack([render(sample_split(draw.np, held=False)) for _ in range(n)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).to(device())


def loss_of(vae: AutoencoderKL, draw: Draw, batch: int) -> torch.Tensor:
    """Reconstruction + edges + KL of one batch."""
    x = (pictures(draw, batch) * 2 - 1).contiguous(memory_format=torch.channels_last)
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=draw.torch).to(x.device)
    x_hat = vae.decode(posterior.mean + posterior.std * noise).sample
    edges = sum(
        F.l1_loss(x_hat.diff(dim=d), x.diff(dim=d)) for d in (2, 3)
    )
    coarse = F.l1_loss(F.avg_pool2d(x_hat, 4), F.avg_pool2d(x, 4))
    return F.l1_loss(x_hat, x) + edges + coarse + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()


def train(work: Path, plan: Plan = PLAN) -> AutoencoderKL:
    """Train, or finish training, the autoencoder; then measure its scaling factor (1 / standard deviation of z)."""
    vae = build().to(device(), memory_format=torch.channels_last)
    fit(plan, vae, lambda draw: loss_of(vae, draw, plan.batch), work)
    return vae
