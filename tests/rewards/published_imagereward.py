"""ImageReward's published file layout with random weights, and its forward pass written from the papers' definitions on
the published names: nothing of transformers or of ``rewards`` is in it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

SIDE, PATCH, WIDTH, HEADS, LAYERS = 32, 8, 128, 2, 2
TEXT_WIDTH, TEXT_HEADS, TEXT_LAYERS, WORDS = 24, 3, 2, 16
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "square", "##s", "and")
HEAD = (TEXT_WIDTH, 20, 12, 8, 4, 1)
HEAD_PLACES = (0, 2, 4, 6, 7)
"""Places of the linear layers among the dropouts."""

State = dict[str, torch.Tensor]


def random_state(seed: int = 0) -> State:
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.3, shift: float = 0.0) -> torch.Tensor:
        return shift + scale * torch.randn(shape, generator=rng)

    state: State = {}

    def linear(name: str, n_in: int, n_out: int) -> None:
        state[f"{name}.weight"] = draw(n_out, n_in, scale=1.5 / math.sqrt(n_in))
        state[f"{name}.bias"] = draw(n_out)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(width, shift=1.0), draw(width)

    v = "blip.visual_encoder"
    state[f"{v}.cls_token"] = draw(1, 1, WIDTH)
    state[f"{v}.pos_embed"] = draw(1, (SIDE // PATCH) ** 2 + 1, WIDTH)
    state[f"{v}.patch_embed.proj.weight"] = draw(WIDTH, 3, PATCH, PATCH, scale=0.1)
    state[f"{v}.patch_embed.proj.bias"] = draw(WIDTH)
    for k in range(LAYERS):
        norm(f"{v}.blocks.{k}.norm1", WIDTH)
        linear(f"{v}.blocks.{k}.attn.qkv", WIDTH, 3 * WIDTH)
        linear(f"{v}.blocks.{k}.attn.proj", WIDTH, WIDTH)
        norm(f"{v}.blocks.{k}.norm2", WIDTH)
        linear(f"{v}.blocks.{k}.mlp.fc1", WIDTH, 2 * WIDTH)
        linear(f"{v}.blocks.{k}.mlp.fc2", 2 * WIDTH, WIDTH)
    norm(f"{v}.norm", WIDTH)
    t = "blip.text_encoder"
    state[f"{t}.embeddings.position_ids"] = torch.arange(40)[None]
    state[f"{t}.embeddings.word_embeddings.weight"] = draw(WORDS, TEXT_WIDTH, scale=1.0)
    state[f"{t}.embeddings.position_embeddings.weight"] = draw(40, TEXT_WIDTH)
    norm(f"{t}.embeddings.LayerNorm", TEXT_WIDTH)
    for k in range(TEXT_LAYERS):
        layer = f"{t}.encoder.layer.{k}"
        for kind, width in (("attention", TEXT_WIDTH), ("crossattention", WIDTH)):
            linear(f"{layer}.{kind}.self.query", TEXT_WIDTH, TEXT_WIDTH)
            linear(f"{layer}.{kind}.self.key", width, TEXT_WIDTH)
            linear(f"{layer}.{kind}.self.value", width, TEXT_WIDTH)
            linear(f"{layer}.{kind}.output.dense", TEXT_WIDTH, TEXT_WIDTH)
            norm(f"{layer}.{kind}.output.LayerNorm", TEXT_WIDTH)
        linear(f"{layer}.intermediate.dense", TEXT_WIDTH, 48)
        linear(f"{layer}.output.dense", 48, TEXT_WIDTH)
        norm(f"{layer}.output.LayerNorm", TEXT_WIDTH)
    linear("blip.vision_proj", WIDTH, 8)
    linear("blip.text_proj", TEXT_WIDTH, 8)
    for place, n_in, n_out in zip(HEAD_PLACES, HEAD, HEAD[1:], strict=False):
        linear(f"mlp.layers.{place}", n_in, n_out)
    return state


def save(folder: Path, state: State) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps({
        "architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": TEXT_WIDTH, "layer_norm_eps": 1e-12,
        "num_attention_heads": TEXT_HEADS, "num_hidden_layers": TEXT_LAYERS, "vocab_size": 12, "encoder_width": 24,
        "add_cross_attention": True, "pad_token_id": 0, "model_type": "bert",
    }))  # fmt: skip
    return folder


def save_vocabulary(folder: Path) -> Path:
    """As bert-base-uncased has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return folder


def forward(state: State, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """r (B,) of normalised pixels (B, 3, SIDE, SIDE) and token ids (B, 35) with their mask."""
    seen = _vision(state, pixels)
    h = _text(state, ids, mask, seen)[:, 0]
    for place in HEAD_PLACES:
        h = F.linear(h, state[f"mlp.layers.{place}.weight"], state[f"mlp.layers.{place}.bias"])
    return (h[:, 0] - 0.16717362830052426) / 1.0333394966054072


def _lin(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state: State, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None) -> torch.Tensor:
    """softmax(Q K' / sqrt(d)) V for each head; tokens with mask 0 are not attended to."""
    b, n, width = q.shape
    d = width // heads
    q, k, v = (x.view(b, -1, heads, d).transpose(1, 2) for x in (q, k, v))
    logits = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(d)
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None] == 0, -torch.inf)
    return torch.einsum("bhqk,bhkd->bhqd", logits.softmax(-1), v).transpose(1, 2).reshape(b, n, width)


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def _vision(state: State, pixels: torch.Tensor) -> torch.Tensor:
    v = "blip.visual_encoder"
    b, n = len(pixels), SIDE // PATCH
    patches = pixels.view(b, 3, n, PATCH, n, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(b, n * n, -1)
    x = patches @ state[f"{v}.patch_embed.proj.weight"].flatten(1).T + state[f"{v}.patch_embed.proj.bias"]
    x = torch.cat([state[f"{v}.cls_token"].expand(b, 1, WIDTH), x], 1) + state[f"{v}.pos_embed"]
    for k in range(LAYERS):
        block = f"{v}.blocks.{k}"
        qkv = _lin(state, f"{block}.attn.qkv", _norm(state, f"{block}.norm1", x, 1e-6))
        x = x + _lin(state, f"{block}.attn.proj", _attend(*qkv.split(WIDTH, -1), HEADS, None))
        y = _gelu(_lin(state, f"{block}.mlp.fc1", _norm(state, f"{block}.norm2", x, 1e-6)))
        x = x + _lin(state, f"{block}.mlp.fc2", y)
    return _norm(state, f"{v}.norm", x, 1e-6)


def _text(state: State, ids: torch.Tensor, mask: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    t, eps = "blip.text_encoder", 1e-12
    words = state[f"{t}.embeddings.word_embeddings.weight"][ids]
    places = state[f"{t}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = _norm(state, f"{t}.embeddings.LayerNorm", words + places, eps)
    for k in range(TEXT_LAYERS):
        layer = f"{t}.encoder.layer.{k}"
        for kind, over, hide in (("attention", None, mask), ("crossattention", seen, None)):
            q = _lin(state, f"{layer}.{kind}.self.query", x)
            at = x if over is None else over
            key, value = (_lin(state, f"{layer}.{kind}.self.{part}", at) for part in ("key", "value"))
            met = _lin(state, f"{layer}.{kind}.output.dense", _attend(q, key, value, TEXT_HEADS, hide))
            x = _norm(state, f"{layer}.{kind}.output.LayerNorm", x + met, eps)
        y = _lin(state, f"{layer}.output.dense", _gelu(_lin(state, f"{layer}.intermediate.dense", x)))
        x = _norm(state, f"{layer}.output.LayerNorm", x + y, eps)
    return x
