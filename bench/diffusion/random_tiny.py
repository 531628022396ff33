"""A random pipeline of Stable Diffusion's classes, a few thousand weights: for contract checks and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.diffusion.models import BaseModel, quiet
from bench.diffusion.sources import ModelSource


def random_pipeline(
    seed: int = 0, dtype: torch.dtype = torch.float32, *, prediction_type: str = "epsilon", **scheduler: Any
) -> BaseModel:
    """An untrained model with 8x8 latents and 16x16 images, the same for the same seed.

    Args:
        scheduler: overrides of Stable Diffusion's scheduler config.
    """
    source = ModelSource(f"random-{seed}", "", pinned=f"seed-{seed}", tuning_defaults={"lr": 1e-3, "rank": 2})
    with quiet():
        return BaseModel(_build(seed, prediction_type, scheduler), source, dtype=dtype)


def save_random_pipeline(folder: Path, seed: int = 0) -> None:
    """Writes the random pipeline in the layout that ``load_model`` reads."""
    with quiet():
        _build(seed, "epsilon", {}).save_pretrained(str(folder))


def _build(seed: int, prediction_type: str, scheduler: dict[str, Any]) -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    symbols = [
        *"abcdefghijklmnopqrstuvwxyz0123456789,.",
        *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz0123456789,."),
    ]
    vocab = {s: i for i, s in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocab),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=vocab["<|startoftext|>"],
                eos_token_id=vocab["<|endoftext|>"],
                pad_token_id=vocab["<|endoftext|>"],
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, layers_per_block=1, norm_num_groups=4,
            sample_size=16, mid_block_add_attention=False,
        )  # fmt: skip
    config: dict[str, Any] = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": prediction_type,
    }  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(**{**config, **scheduler}),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
