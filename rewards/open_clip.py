"""CLIP models stored under open_clip's names, as transformers' ``CLIPModel``: a renaming of tensors, no arithmetic.

open_clip keeps the three projections of an attention in one matrix and its two output projections transposed. Sizes are
read off the tensors; what cannot be, the width of a head, is that of ViT-H/14 by default. Pooling is at the highest
token id, the end token, and the activation is the exact GELU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from bench.core.errors import UserError
from bench.diffusion.models import quiet

Tensors = Mapping[str, torch.Tensor]

VISION_HEAD = 80
TEXT_HEAD = 64

_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_INSIDE = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_IGNORED = ("attn_mask", "visual.attn_mask")
"""Buffers that older versions stored."""


def renamed(tensors: Tensors) -> dict[str, torch.Tensor]:
    """open_clip's state dict under ``CLIPModel``'s names.

    Raises:
        UserError: a name that no CLIP of this layout has.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name in _IGNORED:
            continue
        block = _BLOCK.fullmatch(name)
        if block:
            tower = "vision_model" if block[1] else "text_model"
            found.update(_in_block(f"{tower}.encoder.layers.{block[2]}", block[3], name, tensor))
            continue
        stem, _, kind = name.rpartition(".")
        if name in _TRANSPOSED:
            found[_TRANSPOSED[name]] = tensor.T.contiguous()
        elif name in _NAMES:
            found[_NAMES[name]] = tensor
        elif stem in _NAMES:
            found[f"{_NAMES[stem]}.{kind}"] = tensor
        else:
            raise _foreign(name)
    return found


def _in_block(layer: str, inside: str, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if inside in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = inside.rpartition("_")[2]
        q, k, v = tensor.chunk(3)
        return {f"{layer}.self_attn.{p}_proj.{kind}": part.contiguous() for p, part in (("q", q), ("k", k), ("v", v))}
    stem, _, kind = inside.rpartition(".")
    if stem not in _INSIDE:
        raise _foreign(name)
    return {f"{layer}.{_INSIDE[stem]}.{kind}": tensor}


def _foreign(name: str) -> UserError:
    return UserError(f"a CLIP of open_clip's layout has no tensor {name!r}",
                     valid="a state dict of open_clip's CLIP class with a vision transformer")  # fmt: skip


def config_of(tensors: Tensors, *, vision_head: int = VISION_HEAD, text_head: int = TEXT_HEAD) -> Any:
    """The ``CLIPConfig`` of a state dict under open_clip's names.

    Raises:
        UserError: a tensor that gives a size is missing, or sizes that do not fit.
    """
    from transformers import CLIPConfig

    try:
        n_vocab, text_width = tensors["token_embedding.weight"].shape
        vision_width, _, patch, _ = tensors["visual.conv1.weight"].shape
        n_cells = tensors["visual.positional_embedding"].shape[0] - 1
        text = {
            "hidden_size": text_width, "intermediate_size": tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_attention_heads": text_width // text_head, "vocab_size": n_vocab,
            "max_position_embeddings": tensors["positional_embedding"].shape[0], "bos_token_id": n_vocab - 2,
            "eos_token_id": n_vocab - 1, "pad_token_id": 0, "num_hidden_layers": _n_blocks(tensors, ""),
        }  # fmt: skip
        vision = {
            "hidden_size": vision_width, "num_attention_heads": vision_width // vision_head, "patch_size": patch,
            "intermediate_size": tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "image_size": patch * round(n_cells**0.5), "num_hidden_layers": _n_blocks(tensors, "visual."),
        }  # fmt: skip
        n_joint = tensors["text_projection"].shape[1]
    except (KeyError, ValueError, IndexError) as err:
        raise UserError(f"no CLIP of open_clip's layout: {type(err).__name__}: {err}",
                        valid="a state dict of open_clip's CLIP class with a vision transformer") from err  # fmt: skip
    if vision_width % vision_head or text_width % text_head or round(n_cells**0.5) ** 2 != n_cells:
        raise UserError(f"a CLIP of widths {vision_width} and {text_width} with {n_cells} cells is none of ViT-H/14's",
                        valid=f"heads of {vision_head} and {text_head}, a square of cells")  # fmt: skip
    both = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}
    return CLIPConfig(text_config={**text, **both}, vision_config={**vision, **both}, projection_dim=n_joint)


def _n_blocks(tensors: Tensors, tower: str) -> int:
    found = (_BLOCK.fullmatch(name) for name in tensors)
    return 1 + max(int(block[2]) for block in found if block and (block[1] or "") == tower)


def clip_model(tensors: Tensors, *, vision_head: int = VISION_HEAD, text_head: int = TEXT_HEAD) -> Any:
    """A ``CLIPModel`` in float32 with these weights.

    Raises:
        UserError: see ``renamed`` and ``config_of``; or tensors are absent, or of another shape than the others imply.
    """
    from transformers import CLIPModel

    config = config_of(tensors, vision_head=vision_head, text_head=text_head)
    state = {name: tensor.float() for name, tensor in renamed(tensors).items()}
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model, info = CLIPModel.from_pretrained(
                None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
            )
    except (RuntimeError, ValueError) as err:
        reason = next((line for line in str(err).splitlines() if line.strip()), type(err).__name__)
        raise UserError(f"the tensors of this CLIP do not fit each other: {reason}") from err
    if wrong := sorted(info["missing_keys"]) + sorted(info["unexpected_keys"]):
        raise UserError(f"{len(wrong)} tensors of this CLIP are absent or too many, such as {wrong[0]}")
    return model
