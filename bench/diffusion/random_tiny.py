"""Random pipelines of Stable Diffusion's, SDXL's and SD3's classes, a few thousand weights each: for contract checks
and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.diffusion.models import BaseModel, quiet
from bench.diffusion.sources import ModelSource

_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789,."
_TOKENS = 16
_WIDTH = 16
"""Of a text encoder's hidden states."""


def random_pipeline(
    seed: int = 0, dtype: torch.dtype = torch.float32, *, base: str = "sd", t5: bool = False,
    prediction_type: str = "epsilon", **scheduler: Any,
) -> BaseModel:  # fmt: skip
    """An untrained model with 8x8 latents and 16x16 images, the same for the same seed.

    Args:
        base: ``sd``, ``sdxl`` or ``sd3`` (``BASES``).
        t5: with SD3's third text encoder.
        scheduler: overrides of the base's scheduler config.
    """
    name = f"random-{seed}" if base == "sd" else f"random-{base}-{seed}"
    source = ModelSource(name, "", pinned=f"seed-{seed}", tuning_defaults={"lr": 1e-3, "rank": 2})
    with quiet():
        return BaseModel(_build(seed, base, t5, {"prediction_type": prediction_type, **scheduler}), source, dtype=dtype)


def save_random_pipeline(folder: Path, seed: int = 0, *, base: str = "sd", t5: bool = False) -> None:
    """Writes the random pipeline in the layout that ``load_model`` reads."""
    with quiet():
        _build(seed, base, t5, {}).save_pretrained(str(folder))


def _build(seed: int, base: str, t5: bool, scheduler: Mapping[str, Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if base == "sd3":
            return _sd3(t5, {k: v for k, v in scheduler.items() if k != "prediction_type"})
        return BASES[base](scheduler)


def _sd(scheduler: Mapping[str, Any]) -> Any:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    text_encoder = CLIPTextModel(_clip_config(layers=1))
    unet, vae = _unet(cross_attention_dim=_WIDTH), _vae()
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=clip_tokenizer(), unet=unet, scheduler=_ddim(scheduler),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sdxl(scheduler: Mapping[str, Any]) -> Any:
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    time_dim = 8
    return StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_clip_config(layers=2)), tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(layers=2, projection_dim=20)),
        tokenizer_2=clip_tokenizer(), scheduler=_ddim(scheduler), force_zeros_for_empty_prompt=True,
        unet=_unet(
            cross_attention_dim=2 * _WIDTH, addition_embed_type="text_time", addition_time_embed_dim=time_dim,
            projection_class_embeddings_input_dim=6 * time_dim + 20,
        ),
    )  # fmt: skip


def _sd3(t5: bool, scheduler: Mapping[str, Any]) -> Any:
    """As SD3.5 medium: normed queries and keys, and a second attention over the image in the first block."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

    clips = [CLIPTextModelWithProjection(_clip_config(layers=2, projection_dim=12)) for _ in range(2)]
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=2 * _WIDTH + 8, caption_projection_dim=16,
        pooled_projection_dim=24, pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    vae = _vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False)
    encoder = tokenizer = None
    if t5:
        tokenizer = _t5_tokenizer()
        encoder = T5EncoderModel(T5Config(
            vocab_size=len(tokenizer), d_model=2 * _WIDTH + 8, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
        ))  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}), vae=vae,
        text_encoder=clips[0], tokenizer=clip_tokenizer(), text_encoder_2=clips[1], tokenizer_2=clip_tokenizer(),
        text_encoder_3=encoder, tokenizer_3=tokenizer,
    )  # fmt: skip


BASES: Mapping[str, Callable[..., Any]] = {"sd": _sd, "sdxl": _sdxl, "sd3": _sd3}


def _clip_vocabulary() -> dict[str, int]:
    symbols = [*_CHARACTERS, *(f"{c}</w>" for c in _CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    return {s: i for i, s in enumerate(symbols)}


def clip_tokenizer(n_tokens: int = _TOKENS) -> Any:
    """CLIP's class with a vocabulary of single characters."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=n_tokens)


def _clip_config(*, layers: int, **more: Any) -> Any:
    from transformers import CLIPTextConfig

    vocab = _clip_vocabulary()
    return CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=_WIDTH, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=_TOKENS, bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"], pad_token_id=vocab["<|endoftext|>"], **more,
    )  # fmt: skip


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*special, ("▁", -2.0), *((c, -3.0) for c in _CHARACTERS)], extra_ids=0)


def _unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), mid_block_type="UNetMidBlock2DCrossAttn",
        attention_head_dim=2, norm_num_groups=4, **more,
    )  # fmt: skip


def _vae(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, layers_per_block=1, norm_num_groups=4,
        sample_size=16, mid_block_add_attention=False, **more,
    )  # fmt: skip


def _ddim(scheduler: Mapping[str, Any]) -> Any:
    from diffusers import DDIMScheduler

    config: dict[str, Any] = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon",
    }  # fmt: skip
    return DDIMScheduler(**{**config, **scheduler})
