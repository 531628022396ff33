"""The autoencoder of the tiny Stable Diffusion: 64x64 pictures to 8x8 latents of 12 channels, and back.

Trained end to end, an autoencoder of this size needs hours on a CPU before it even tells colours apart. So the latent
code is chosen instead of learned: principal components of 8x8 patches, each over the square root of its standard
deviation (half-way to whitening, so that what matters most for the picture also stands out most from the noise of
diffusion). The encoder learns the posterior of that code, the decoder to invert it; both converge in minutes, and the
U-Net may train on the exact code at the same time.

Symbols: x picture (B, 3, 64, 64) in [-1, 1]; z latent code (B, 12, 8, 8), not yet multiplied by the scaling factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from bench.tiny.loop import Draw, Plan, device, draw, fit
from bench.tiny.render import render
from bench.tiny.world import sample_split

PLAN = Plan("vae", steps=6000, batch=8, lr=1.5e-3, warmup=200, ema=0.98)
LATENT_CHANNELS = 12
PATCH = 8
ENCODER_EVERY = 3
"""Every third update also trains the encoder, the easier half."""
NOISE = 0.06
"""Standard deviation of noise on the decoder's input, so that it forgives a sampler's small errors."""


@dataclass(frozen=True)
class Code:
    """The linear map from patches to latents: z = (x - mean) @ basis."""

    mean: torch.Tensor
    """(192,) mean patch, channel-first order."""
    basis: torch.Tensor
    """(192, 12)."""
    scale: float
    """Standard deviation of z over everything; 1 / scale is the `scaling_factor`."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, 64, 64) in [-1, 1] to (B, 12, 8, 8)."""
        patches = F.pixel_unshuffle(x, PATCH).permute(0, 2, 3, 1)
        return ((patches - self.mean) @ self.basis).permute(0, 3, 1, 2)


@lru_cache(maxsize=1)
def code() -> Code:
    """The code of this world, from 3000 random pictures; the same numbers on every call."""
    x = pictures(draw("code", 0), 3000).cpu() * 2 - 1
    patches = F.pixel_unshuffle(x, PATCH).permute(0, 2, 3, 1).reshape(-1, 3 * PATCH * PATCH).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    top = values.flip(0)[:LATENT_CHANNELS]
    vectors = vectors.flip(1)[:, :LATENT_CHANNELS]
    vectors = vectors * torch.sign(
        vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    )  # eigenvectors have no sign
    basis = vectors / top.pow(0.25)
    scale = float(top.sqrt().mean().sqrt())
    return Code(mean.float().to(device()), basis.float().to(device()), scale)


def build() -> AutoencoderKL:
    """An untrained autoencoder; most of its cost is at 64x64, so that level is the thinnest."""
    torch.manual_seed(11)
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=round(1 / code().scale, 4),
    )
    return vae


def pictures(draw: Draw, n: int) -> torch.Tensor:
    """Random renders outside the held-out part: (n, 3, 64, 64) float32 in [0, 1]."""
    images = np.stack([render(sample_split(draw.np, held=False)) for _ in range(n)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).to(device())


def loss_of(vae: AutoencoderKL, draw: Draw, batch: int) -> torch.Tensor:
    """Pixels, edges and colours of the decoder; likelihood of the code under the encoder's posterior."""
    x = (pictures(draw, batch) * 2 - 1).contiguous(memory_format=torch.channels_last)
    z = code().encode(x)
    noise = torch.randn(z.shape, generator=draw.torch).to(x.device)
    x_hat = vae.decode((z + NOISE * noise).contiguous(memory_format=torch.channels_last)).sample
    edges = F.l1_loss(x_hat.diff(dim=2), x.diff(dim=2)) + F.l1_loss(x_hat.diff(dim=3), x.diff(dim=3))
    loss = F.l1_loss(x_hat, x) + 0.5 * edges + 2 * F.mse_loss(x_hat, x)
    if draw.step % ENCODER_EVERY == 0:
        posterior = vae.encode(x).latent_dist
        surprise = (posterior.mean - z) ** 2 / posterior.var + posterior.logvar
        loss = loss + 0.05 * surprise.mean() + F.smooth_l1_loss(posterior.mean, z)
    return loss


def train(work: Path, plan: Plan = PLAN) -> AutoencoderKL:
    """Train, or finish training, the autoencoder."""
    vae = build().to(device(), memory_format=torch.channels_last)
    fit(plan, vae, lambda draw: loss_of(vae, draw, plan.batch), work)
    return vae
