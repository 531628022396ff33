"""A folder as ``TUNEBENCH_MODELS`` names one: the published rewards' file layouts, a few weights, random numbers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch

SIDE = 224
"""What the published networks see; their preprocessing is part of what is tested."""
PATCH = 56
MAX_TOKENS = 77
SYMBOLS = "abcdefghijklmnopqrstuvwxyz0123456789,.:'-()!"
JOINT = 24

NOT_THE_PUBLISHED = "hps-v2.1,clip-l14,aesthetic-v2"
"""Assets whose published digests are known, which these files do not have."""


def vocabulary() -> dict[str, int]:
    symbols = [*SYMBOLS, *(f"{s}</w>" for s in SYMBOLS), "<|startoftext|>", "<|endoftext|>"]
    return {symbol: i for i, symbol in enumerate(symbols)}


def save_models(root: Path, seed: int = 0) -> Path:
    """Every model that the rewards of this room need."""
    save_processor(root / "CLIP-ViT-H-14-laion2B-s32B-b79K")
    save_clip(root / "CLIP-ViT-H-14-laion2B-s32B-b79K", seed + 1)
    save_clip(root / "PickScore_v1", seed + 2)
    save_processor(root / "clip-vit-large-patch14")
    save_clip(root / "clip-vit-large-patch14", seed + 3)
    (root / "HPSv2").mkdir()
    for name, k in (("HPS_v2_compressed.pt", 4), ("HPS_v2.1_compressed.pt", 5)):
        # as published: half precision, other things beside the weights
        state = {key: tensor.half() for key, tensor in open_clip_state(seed + k).items()}
        torch.save({"epoch": 3, "state_dict": state}, root / "HPSv2" / name)
    (root / "laion-aesthetic-v2").mkdir()
    torch.save(head_state(seed + 6), root / "laion-aesthetic-v2" / "sac+logos+ava1-l14-linearMSE.pth")
    return root


def save_processor(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS).save_pretrained(
        folder
    )
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )


def save_clip(folder: Path, seed: int) -> None:
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    n = len(vocabulary())
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": n, "max_position_embeddings": MAX_TOKENS, "bos_token_id": n - 2,
                     "eos_token_id": n - 1, "pad_token_id": n - 1},
        vision_config={**tower, "image_size": SIDE, "patch_size": PATCH}, projection_dim=JOINT,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)


def open_clip_state(
    seed: int, *, vision_width: int = 160, text_width: int = 128, n_layers: int = 2, patch: int = PATCH,
    side: int = SIDE, n_tokens: int = MAX_TOKENS,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """A state dict under open_clip's names: two heads in each tower, of the widths of ViT-H/14's."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.5 * torch.randn(*shape, generator=rng) * shape[-1] ** -0.5

    def norm(width: int) -> dict[str, torch.Tensor]:
        return {"weight": 1 + draw(width), "bias": draw(width)}

    def block(name: str, width: int) -> dict[str, torch.Tensor]:
        inner = 2 * width
        tensors = {"attn.in_proj_weight": draw(3 * width, width), "attn.in_proj_bias": draw(3 * width),
                   "attn.out_proj.weight": draw(width, width), "attn.out_proj.bias": draw(width),
                   "mlp.c_fc.weight": draw(inner, width), "mlp.c_fc.bias": draw(inner),
                   "mlp.c_proj.weight": draw(width, inner), "mlp.c_proj.bias": draw(width)}  # fmt: skip
        for ln in ("ln_1", "ln_2"):
            tensors |= {f"{ln}.{key}": value for key, value in norm(width).items()}
        return {f"{name}.{key}": value for key, value in tensors.items()}

    state = {
        "positional_embedding": draw(n_tokens, text_width), "text_projection": draw(text_width, JOINT),
        "logit_scale": torch.tensor(4.6052), "visual.class_embedding": draw(vision_width),
        "visual.positional_embedding": draw((side // patch) ** 2 + 1, vision_width),
        "visual.proj": draw(vision_width, JOINT), "visual.conv1.weight": draw(vision_width, 3, patch, patch),
        "token_embedding.weight": draw(len(vocabulary()), text_width) * text_width**0.5,
    }  # fmt: skip
    for name, width in (("visual.ln_pre", vision_width), ("visual.ln_post", vision_width), ("ln_final", text_width)):
        state |= {f"{name}.{key}": value for key, value in norm(width).items()}
    for i in range(n_layers):
        state |= block(f"visual.transformer.resblocks.{i}", vision_width)
        state |= block(f"transformer.resblocks.{i}", text_width)
    return state


def head_state(seed: int, n_in: int = JOINT) -> dict[str, torch.Tensor]:
    """The aesthetic head's layout: five linear layers, dropout at the numbers between."""
    rng = torch.Generator().manual_seed(seed)
    sizes = [n_in, 32, 16, 8, 4, 1]
    state = {}
    for number, (a, b) in zip((0, 2, 4, 6, 7), itertools.pairwise(sizes), strict=True):
        state[f"layers.{number}.weight"] = torch.randn(b, a, generator=rng)
        state[f"layers.{number}.bias"] = torch.randn(b, generator=rng)
    return state
