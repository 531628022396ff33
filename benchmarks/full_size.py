"""Pipelines of published size with random weights: what a GPU is measured on where no weights are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bench.diffusion.models import BaseModel, quiet
from bench.diffusion.random_tiny import clip_tokenizer
from bench.diffusion.sources import find_source

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_BIG_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
              "projection_dim": 1280}  # fmt: skip
SD15_UNET: Mapping[str, Any] = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # fmt: skip
SDXL_UNET: Mapping[str, Any] = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


def full_size(name: str, device: str, dtype: torch.dtype) -> BaseModel:
    """``sd15`` (860 M parameters in the U-Net) or ``sdxl`` (2.6 B) with fresh weights, which draw nothing."""
    import diffusers
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with quiet(), torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        parts: dict[str, Any] = {
            "text_encoder": CLIPTextModel(_clip(CLIP_L)), "tokenizer": clip_tokenizer(77),
            "unet": diffusers.UNet2DConditionModel(**(SD15_UNET if name == "sd15" else SDXL_UNET)),
            "vae": diffusers.AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
            ),
            "scheduler": diffusers.DDIMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                set_alpha_to_one=False, steps_offset=1,
            ),
        }  # fmt: skip
        if name == "sdxl":
            parts |= {
                "text_encoder_2": CLIPTextModelWithProjection(_clip(CLIP_BIG_G)),
                "tokenizer_2": clip_tokenizer(77),
            }
            pipeline: Any = diffusers.StableDiffusionXLPipeline(**parts)
        else:
            pipeline = diffusers.StableDiffusionPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
    return BaseModel(pipeline, find_source(name), device=device, dtype=dtype)


def _clip(shape: Mapping[str, Any]) -> Any:
    from transformers import CLIPTextConfig

    tokenizer = clip_tokenizer(77)
    return CLIPTextConfig(**shape, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
                          eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
