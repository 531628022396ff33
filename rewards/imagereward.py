"""ImageReward v1 (Xu et al., arXiv 2304.05977), read from its published checkpoint without its package.

BLIP with a ViT-L/16 at 224 px; a 12-layer text encoder that attends to the image; a head on the first token's state h:

    r = (MLP(h) - 0.16717...) / 1.03333...,      MLP: 768 - 1024 - 128 - 64 - 16 - 1 without activations

so that the whole head is one affine map. The prompt is 35 WordPiece tokens, padded or cut, and its first token stays
[CLS]. ``ImageReward.pt`` has BLIP's original names; they are renamed to those of transformers' BLIP, whose vision tower
takes LayerNorm's eps of 1e-6 here.
"""

from __future__ import annotations

import functools
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.assets import need
from bench.assets.files import check_whole, sha256_of
from bench.core.contract import Reward
from bench.core.errors import UserError
from bench.core.identity import plain
from bench.diffusion.models import quiet
from bench.diffusion.pretrained import load_tokenizer, reading
from rewards.check import check_images
from rewards.checkpoints import read_checkpoint
from rewards.clip import Preprocess
from rewards.preprocess import CLIP_MEAN, CLIP_STD

WEIGHTS, CONFIG = "ImageReward.pt", "med_config.json"
MEAN, SD = 0.16717362830052426, 1.0333394966054072
"""Of the head's output over the authors' validation pairs: what the published score is standardised by."""
N_TOKENS = 35
HEAD_WIDTH = 64
"""Channels of an attention head, in every ViT that BLIP comes with; a checkpoint does not tell."""
VISION_EPS = 1e-6
VALID = f"{WEIGHTS} and {CONFIG} of zai-org/ImageReward"

State = Mapping[str, torch.Tensor]

_VISION_NAMES = (
    (r"cls_token", "embeddings.class_embedding"),
    (r"pos_embed", "embeddings.position_embedding"),
    (r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embedding.\1"),
    (r"norm\.(weight|bias)", r"post_layernorm.\1"),
    (r"blocks\.(\d+)\.norm([12])\.(weight|bias)", r"encoder.layers.\1.layer_norm\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"encoder.layers.\1.self_attn.qkv.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"encoder.layers.\1.self_attn.projection.\2"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"encoder.layers.\1.mlp.\2.\3"),
)
"""timm's names in a ViT → transformers'."""


def imagereward(device: str = "cpu") -> ImageReward:
    """ImageReward v1: human preference for an image given its prompt, on BLIP (Xu et al., NeurIPS 2023)."""
    return ImageReward(need("imagereward"), need("bert-base-uncased"), device)


class ImageReward(Reward):
    """Human preference for an image given its prompt, standardised as published; higher is better.

    Args:
        folder: ``ImageReward.pt`` and ``med_config.json``.
        vocabulary: folder of BERT's tokenizer, ``bert-base-uncased``.

    Raises:
        UserError: a file is missing, damaged, of another layout, or a pickle that would run code.
    """

    name = "imagereward"
    family = "BLIP"
    licence = "Apache-2.0"
    unit = "standard deviations"
    input_px = 224
    cost_gmac = 68.9

    def __init__(self, folder: Path, vocabulary: Path, device: str = "cpu") -> None:
        for name in (WEIGHTS, CONFIG):
            if not (folder / name).is_file():
                raise UserError(f"the weights of reward {self.name!r} are missing: no {name} in {folder}", valid=VALID)
            check_whole(folder / name)
        self.device = torch.device(device)
        self.weights_sha256 = sha256_of(folder / WEIGHTS)
        self._folder, self._vocabulary = folder, vocabulary

    @functools.cached_property
    def model(self) -> _Model:
        """Both towers and the head, frozen, on the device."""
        return _load(self._folder).to(self.device)

    @functools.cached_property
    def tokenizer(self) -> Any:
        from transformers import BertTokenizerFast

        with reading(self._vocabulary):
            found = load_tokenizer(self._vocabulary, BertTokenizerFast)
        n_words = int(self.model.text.config.vocab_size)
        if len(found) > n_words or found.cls_token_id is None:
            raise UserError(f"the vocabulary in {self._vocabulary} has {len(found)} words, the text encoder {n_words}",
                            valid="the vocab.txt of bert-base-uncased")  # fmt: skip
        return found

    def prepare(self) -> None:
        _ = self.model, self.tokenizer

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        model = self.model
        side = int(model.vision.config.image_size)
        pixels = Preprocess(side, side, CLIP_MEAN, CLIP_STD)(images.to(self.device, model.weight.dtype))
        seen = model.vision(pixel_values=pixels).last_hidden_state
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=N_TOKENS, return_tensors="pt"
        ).to(self.device)
        read = model.text(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=self.device),
        )  # fmt: skip
        raw: torch.Tensor = read.last_hidden_state[:, 0] @ model.weight + model.bias
        return (raw - MEAN) / SD

    def n_truncated(self, prompts: Iterable[str]) -> int:
        """Distinct prompts that are longer than 35 tokens; their end was cut."""
        return sum(len(self.tokenizer(p, verbose=False).input_ids) > N_TOKENS for p in set(prompts))

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "preprocess": {"mean": plain(CLIP_MEAN), "std": plain(CLIP_STD)},
                "n_tokens": N_TOKENS}  # fmt: skip


class _Model(torch.nn.Module):
    """Vision tower, text tower, and the head as one affine map."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, vision: Any, text: Any, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.vision, self.text = vision, text
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)


def _load(folder: Path) -> _Model:
    from transformers.models.blip.modeling_blip import BlipTextModel, BlipVisionModel

    config, state = _read(folder)
    vision_state, text_state = vision_weights(state), text_weights(state)
    with reading(folder / WEIGHTS), quiet(), torch.random.fork_rng(devices=[]):
        vision: Any = BlipVisionModel(vision_config(vision_state))
        text: Any = BlipTextModel(text_config(text_state, config), add_pooling_layer=False)
        vision.load_state_dict(vision_state)
        text.load_state_dict(text_state)
        weight, bias = folded_head(state)
    if weight.numel() != text.config.hidden_size:
        raise UserError(f"{folder / WEIGHTS}: the head reads {weight.numel()} features, the text encoder gives "
                        f"{text.config.hidden_size}", valid=VALID)  # fmt: skip
    return _Model(vision, text, weight, bias).eval().requires_grad_(False)


# -- the published layout


def vision_weights(state: State) -> dict[str, torch.Tensor]:
    """The vision tower under transformers' names. Raises UserError for a name that a ViT does not have."""
    return {_vision_name(key.removeprefix("blip.visual_encoder.")): value for key, value in state.items()
            if key.startswith("blip.visual_encoder.")}  # fmt: skip


def text_weights(state: State) -> dict[str, torch.Tensor]:
    """The text tower, whose names agree; position ids are counted anew."""
    prefix = "blip.text_encoder."
    return {key.removeprefix(prefix): value for key, value in state.items()
            if key.startswith(prefix) and not key.endswith("position_ids")}  # fmt: skip


def _vision_name(name: str) -> str:
    for pattern, other in _VISION_NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, other, name)
    raise UserError(f"{WEIGHTS} has a weight visual_encoder.{name}, which no ViT of BLIP has", valid=VALID)


def vision_config(weights: State) -> Any:
    """The vision tower's shape, read off its renamed weights."""
    from transformers import BlipVisionConfig

    patch = weights["embeddings.patch_embedding.weight"]
    side = math.isqrt(weights["embeddings.position_embedding"].shape[1] - 1) * patch.shape[-1]
    return BlipVisionConfig(
        hidden_size=patch.shape[0], num_hidden_layers=_n_layers(weights, r"encoder\.layers\.(\d+)\."),
        num_attention_heads=max(1, patch.shape[0] // HEAD_WIDTH), patch_size=patch.shape[-1], image_size=side,
        intermediate_size=weights["encoder.layers.0.mlp.fc1.weight"].shape[0], layer_norm_eps=VISION_EPS,
        hidden_act="gelu",
    )  # fmt: skip


def text_config(weights: State, config: Mapping[str, Any]) -> Any:
    """The text tower's shape, from ``med_config.json`` and, where both tell, from the weights: BLIP changes the
    vocabulary and the width of what is attended to after it has read the file."""
    from transformers import BlipTextConfig

    words = weights["embeddings.word_embeddings.weight"]
    return BlipTextConfig(
        vocab_size=words.shape[0], hidden_size=words.shape[1],
        encoder_hidden_size=weights["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=weights["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_n_layers(weights, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=int(config["num_attention_heads"]),
        max_position_embeddings=weights["embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=float(config["layer_norm_eps"]), hidden_act=str(config["hidden_act"]), pad_token_id=0,
    )  # fmt: skip


def folded_head(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """(w, c) with MLP(h) = h w + c: the linear layers have nothing between them. Multiplied in float64."""
    layers = sorted(int(key.split(".")[2]) for key in state if re.fullmatch(r"mlp\.layers\.\d+\.weight", key))
    if not layers:
        raise UserError(f"{WEIGHTS} has no weights mlp.layers.N.weight", valid=VALID)
    weight: torch.Tensor | None = None
    bias = torch.zeros(1, dtype=torch.float64)
    for k in layers:
        a, b = (state[f"mlp.layers.{k}.{part}"].double() for part in ("weight", "bias"))
        weight, bias = (a, b) if weight is None else (a @ weight, a @ bias + b)
    assert weight is not None
    return weight[0].float(), bias[0].float()


def _n_layers(weights: State, pattern: str) -> int:
    return 1 + max(int(found[1]) for key in weights if (found := re.match(pattern, key)))


def _read(folder: Path) -> tuple[Mapping[str, Any], State]:
    """(``med_config.json``, the state dict). Nothing in the pickle is run but what tensors need."""
    with reading(folder / CONFIG):
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    with warnings.catch_warnings(action="ignore"):  # the loader's own are about what it then refuses
        state = read_checkpoint(folder / WEIGHTS, "imagereward")
    tensors = all(isinstance(v, torch.Tensor) for v in state.values())
    if not tensors or not any(key.startswith("blip.visual_encoder.") for key in state):
        raise UserError(f"{folder / WEIGHTS} holds no ImageReward: weights are expected under blip.visual_encoder., "
                        "blip.text_encoder. and mlp.layers.", valid=VALID)  # fmt: skip
    if not isinstance(config, dict) or not {"num_attention_heads", "layer_norm_eps", "hidden_act"} <= config.keys():
        raise UserError(f"{folder / CONFIG} lacks num_attention_heads, layer_norm_eps or hidden_act", valid=VALID)
    return config, {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
