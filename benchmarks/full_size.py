"""Models of published size with random weights: what a GPU is measured on where no weights are.

``python -m benchmarks.full_size FOLDER`` writes SD1.5 and the reward HPS v2.1 in the layouts of their repositories, as
``TUNEBENCH_MODELS`` wants them; with ``TUNEBENCH_OTHER_WEIGHTS=hps-v2.1`` a run takes them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    return BaseModel(pipeline_of(name, device), find_source(name), device=device, dtype=dtype)


def pipeline_of(name: str, device: str) -> Any:
    """The same as diffusers' pipeline, in float32."""
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
            return diffusers.StableDiffusionXLPipeline(**parts)
        return diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )


PATCH, JOINT = 14, 1024
"""Of ViT-H/14: pixels of a patch, and numbers of the features that image and text are compared by."""


def open_clip_vit_h14(
    device: str, *, vision: tuple[int, int] = (1280, 32), text: tuple[int, int] = (1024, 24)
) -> dict[str, torch.Tensor]:
    """A state dict of ViT-H/14 under open_clip's names, in half precision: (width, blocks) of both towers.

    Spread as open_clip initialises, by width and depth, so that features stay of order one through all blocks.
    """
    rng = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, std: float) -> torch.Tensor:
        return (std * torch.randn(*shape, generator=rng, device=device)).half().cpu()

    state = {"logit_scale": torch.tensor(4.6052).half()}

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(width).half(), torch.zeros(width).half()

    def tower(prefix: str, width: int, n_blocks: int) -> None:
        into, out = width**-0.5, width**-0.5 * (2 * n_blocks) ** -0.5
        for i in range(n_blocks):
            block = f"{prefix}transformer.resblocks.{i}"
            for name, shape, std in (
                ("attn.in_proj", (3 * width, width), into), ("attn.out_proj", (width, width), out),
                ("mlp.c_fc", (4 * width, width), (2 * width) ** -0.5), ("mlp.c_proj", (width, 4 * width), out),
            ):  # fmt: skip
                joint_name = "_" if name == "attn.in_proj" else "."
                state[f"{block}.{name}{joint_name}weight"] = draw(*shape, std=std)
                state[f"{block}.{name}{joint_name}bias"] = torch.zeros(shape[0]).half()
            norm(f"{block}.ln_1", width)
            norm(f"{block}.ln_2", width)

    width, n_blocks = vision
    state["visual.class_embedding"] = draw(width, std=width**-0.5)
    state["visual.positional_embedding"] = draw((224 // PATCH) ** 2 + 1, width, std=width**-0.5)
    state["visual.conv1.weight"] = draw(width, 3, PATCH, PATCH, std=(3 * PATCH**2) ** -0.5)
    state["visual.proj"] = draw(width, JOINT, std=width**-0.5)
    tower("visual.", width, n_blocks)
    norm("visual.ln_pre", width)
    norm("visual.ln_post", width)
    width, n_blocks = text
    state["token_embedding.weight"] = draw(len(clip_tokenizer(77)), width, std=0.02)
    state["positional_embedding"] = draw(77, width, std=0.01)
    state["text_projection"] = draw(width, JOINT, std=width**-0.5)
    tower("", width, n_blocks)
    norm("ln_final", width)
    return state


def save_hps(folder: Path, device: str, **sizes: Any) -> None:
    """HPS v2.1's checkpoint and ViT-H/14's tokeniser, each in the folder of its repository."""
    from transformers import CLIPImageProcessorPil

    processor, hps = folder / "CLIP-ViT-H-14-laion2B-s32B-b79K", folder / "HPSv2"
    hps.mkdir(parents=True, exist_ok=True)
    tokenizer = clip_tokenizer(77)
    tokenizer.save_pretrained(processor)
    for name, content in (("vocab.json", json.dumps(tokenizer.get_vocab())), ("merges.txt", "#version: 0.2\n")):
        (processor / name).write_text(content)
    side = {"height": 224, "width": 224}
    CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=side).save_pretrained(processor)
    torch.save({"state_dict": open_clip_vit_h14(device, **sizes)}, hps / "HPS_v2.1_compressed.pt")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda", help="draws the weights")
    args = parser.parse_args(argv)
    with quiet():
        pipeline_of("sd15", args.device).to(dtype=torch.float16).save_pretrained(args.folder / "stable-diffusion-v1-5")
    save_hps(args.folder, args.device)


def _clip(shape: Mapping[str, Any]) -> Any:
    from transformers import CLIPTextConfig

    tokenizer = clip_tokenizer(77)
    return CLIPTextConfig(**shape, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
                          eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)  # fmt: skip


if __name__ == "__main__":
    main()
