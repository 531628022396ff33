"""The tiny Stable Diffusion: U-Net and text encoder trained together on the latent code, Ho et al. (2020), Eq. 14.

Symbols: z_0 scaled latent (B, 12, 8, 8); eps noise; alpha_bar cumulative signal power; c text embedding (B, 32, 96).
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from bench.tiny import vae
from bench.tiny.language import describe_for_training
from bench.tiny.loop import Draw, Plan, device, fit
from bench.tiny.render import render
from bench.tiny.tokens import END_ID, MAX_LENGTH, START_ID, token_ids, vocabulary_size
from bench.tiny.world import sample_split

PLAN = Plan("sd", steps=6600, batch=32, lr=1e-3, warmup=200, ema=0.98)
WIDTH = 96
EMPTY_P = 0.10
"""Share of empty prompts, for classifier-free guidance."""
UNKNOWN_P = 0.05
"""Share of prompts with a word from outside the vocabulary, so that the unknown token learns to mean nothing."""
MIN_SNR = 20.0
"""Loss weight min(SNR, 20) / SNR, Hang et al. (2023): spends less on the last details, more on the layout."""


class Denoiser(nn.Module):
    """U-Net and text encoder as one module to train and save."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(21)
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=vae.LATENT_CHANNELS,
            out_channels=vae.LATENT_CHANNELS,
            block_out_channels=(64, 128),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,  # number of heads, as in SD 1.5's configuration of this name
            norm_num_groups=16,
        )
        self.text_encoder = CLIPTextModel(text_config(WIDTH, layers=3, heads=4))


def text_config(width: int, *, layers: int, heads: int) -> CLIPTextConfig:
    """Configuration of a text tower over the shared tokenizer."""
    return CLIPTextConfig(
        vocab_size=vocabulary_size(),
        hidden_size=width,
        intermediate_size=3 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
        attn_implementation="sdpa",
    )


def scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.5."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def batch_of(draw: Draw, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled latents (n, 12, 8, 8) of random scenes and the token ids (n, 32) of their captions."""
    scenes = [sample_split(draw.np, held=False) for _ in range(n)]
    images = torch.stack([torch.from_numpy(render(scene)) for scene in scenes])
    x = images.permute(0, 3, 1, 2).float().div(127.5).sub(1).to(device())
    texts = []
    for scene in scenes:
        text = describe_for_training(scene, draw.np).text
        if draw.np.random() < EMPTY_P:
            text = ""
        elif draw.np.random() < UNKNOWN_P:
            parts = text.split()
            parts.insert(int(draw.np.integers(len(parts) + 1)), "somehow")
            text = " ".join(parts)
        texts.append(text)
    return vae.code().encode(x) / vae.code().scale, token_ids(texts).to(x.device)


def loss_of(model: Denoiser, alpha_bar: torch.Tensor, draw: Draw, batch: int) -> torch.Tensor:
    """Weighted error of the predicted noise."""
    z_0, ids = batch_of(draw, batch)
    t = torch.randint(0, 1000, (batch,), generator=draw.torch).to(z_0.device)
    eps = torch.randn(z_0.shape, generator=draw.torch).to(z_0.device)
    a = alpha_bar[t].view(-1, 1, 1, 1)
    z_t = a.sqrt() * z_0 + (1 - a).sqrt() * eps
    c = model.text_encoder(ids).last_hidden_state
    eps_hat = model.unet(z_t.contiguous(memory_format=torch.channels_last), t, c).sample
    snr = alpha_bar[t] / (1 - alpha_bar[t])
    weight = snr.clamp(max=MIN_SNR) / snr
    loss: torch.Tensor = (weight * (eps_hat - eps).square().mean(dim=(1, 2, 3))).mean()
    return loss


def train(work: Path, plan: Plan = PLAN) -> Denoiser:
    """Train, or finish training, the U-Net and the text encoder."""
    model = Denoiser().to(device())
    model.unet.to(memory_format=torch.channels_last)
    alpha_bar = scheduler().alphas_cumprod.to(device())
    fit(plan, model, lambda draw: loss_of(model, alpha_bar, draw, plan.batch), work)
    return model
