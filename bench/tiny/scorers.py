"""CLIP, a preference scorer in PickScore's form, and a judge nobody trains against: three small `CLIPModel`s.

- clip: contrastive over pictures and captions (Radford et al., 2021), each batch with a near miss for every caption.
- pick: PickScore's loss (Kirstain et al., 2023, Eq. 2-3), -log softmax over (winner, loser) of exp(tau) cos(x, y),
  started from clip.
- judge: the same loss and a contrastive term from scratch, with another width, another seed and its own pairs.

Contrastive learning alone is slow on a CPU; as the world knows the truth, the picture tower also names the scene
through a linear head that is thrown away afterwards.

Symbols: x pictures (B, 3, 64, 64) float32 in [0, 1]; y token ids (B, 32).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from bench.tiny import vae as autoencoder
from bench.tiny.data import as_images, damage, near_miss, round_trip, spoil
from bench.tiny.language import Facts, caption_matches, describe_for_training
from bench.tiny.loop import Draw, Plan, device, fit
from bench.tiny.sd import text_config
from bench.tiny.tokens import END_ID, token_ids
from bench.tiny.world import (
    BACKGROUNDS,
    COLOURS,
    LIGHTS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Scene,
    sample_split,
    scene_held_out,
)

MEAN = (0.5, 0.5, 0.5)
"""Pictures enter as (x - MEAN) / STD, per channel."""
STD = (0.5, 0.5, 0.5)


HARD = 0.75
"""Share of near misses, in training only, that leave out the changes which are easy to see."""

DECODED_ONE_IN = 8
"""Share of preference pairs that are decoded latents; the decoder is the dearest part of a batch."""


@dataclass(frozen=True)
class Tower:
    """Size and seed of one scorer."""

    seed: int
    width: int
    layers: int
    patch: int
    text_width: int
    text_layers: int


CLIP_TOWER = Tower(seed=31, width=96, layers=3, patch=8, text_width=64, text_layers=2)
JUDGE_TOWER = Tower(seed=51, width=80, layers=3, patch=8, text_width=48, text_layers=2)

CLIP_PLAN = Plan("clip", steps=3600, batch=40, lr=1.5e-3, warmup=100, weight_decay=1e-3, ema=0.97)
PICK_PLAN = Plan("pick", steps=10_800, batch=24, lr=1e-3, warmup=50, weight_decay=1e-3, ema=0.95)
JUDGE_PLAN = Plan("judge", steps=3900, batch=16, lr=1.5e-3, warmup=100, weight_decay=1e-3, ema=0.97)


def build(tower: Tower) -> CLIPModel:
    """An untrained CLIP."""
    torch.manual_seed(tower.seed)
    text = text_config(tower.text_width, layers=tower.text_layers, heads=4).to_dict()
    vision = {
        "hidden_size": tower.width, "intermediate_size": 2 * tower.width, "num_hidden_layers": tower.layers,
        "num_attention_heads": 4, "image_size": 64, "patch_size": tower.patch, "projection_dim": 96,
    }  # fmt: skip
    model = CLIPModel(
        CLIPConfig(
            text_config={**text, "eos_token_id": END_ID, "projection_dim": 96}, vision_config=vision, projection_dim=96
        )
    )
    with torch.no_grad():
        # CLIP's initialisation is meant for long training of wide towers; small ones start faster from unit scale
        model.vision_model.embeddings.patch_embedding.weight.normal_(0, 1 / np.sqrt(3 * tower.patch**2))
        model.vision_model.embeddings.position_embedding.weight.normal_(0, 0.3)
        model.logit_scale.fill_(float(np.log(1 / 0.07)))
    return model


def pixel_values(images: torch.Tensor) -> torch.Tensor:
    """Normalise pictures for the vision tower, resizing where they are not 64x64; differentiable.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
    """
    if images.shape[-2:] != (64, 64):
        images = F.interpolate(images, size=(64, 64), mode="bicubic", antialias=True, align_corners=False)
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


def embed_images(model: CLIPModel, images: torch.Tensor) -> torch.Tensor:
    """(B, 96) unit vectors of pictures in [0, 1]."""
    pooled = model.vision_model(pixel_values=pixel_values(images)).pooler_output
    return F.normalize(model.visual_projection(pooled), dim=-1)


def embed_texts(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """(B, 96) unit vectors of token ids."""
    pooled = model.text_model(input_ids=ids).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


def scores(model: CLIPModel, images: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
    """exp(tau) cos(x, y) of each picture with its own text: (B,). PickScore's form; differentiable in `images`."""
    ids = token_ids(list(texts)).to(images.device)
    cos = (embed_images(model, images) * embed_texts(model, ids)).sum(-1)
    scaled: torch.Tensor = model.logit_scale.exp() * cos
    return scaled


# ---------------------------------------------------------------------------------------------------- lessons

_PAIRS = [(colour, shape) for colour in COLOURS for shape in SHAPES]


class Taught(nn.Module):
    """A scorer with a linear head that names what is in the picture."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        parts = len(_PAIRS) + len(BACKGROUNDS) + len(LIGHTS) + len(STYLES) + len(SIZES) + len(TEXTURES) + 4
        # 4x4 places, for each the colour and shape of the object there
        self.places = len(COLOURS) + len(SHAPES)
        self.head = nn.Linear(clip.config.vision_config.hidden_size, parts)
        self.place_head = nn.Linear(clip.config.vision_config.hidden_size, self.places)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, 96) unit vectors, (B, parts) logits of the whole and (B, 64, places) logits of each patch."""
        out = self.clip.vision_model(pixel_values=pixel_values(images))
        vectors = F.normalize(self.clip.visual_projection(out.pooler_output), dim=-1)
        return vectors, self.head(out.pooler_output), self.place_head(out.last_hidden_state[:, 1:])


def _whole(scenes: Sequence[Scene]) -> torch.Tensor:
    """(B, parts) float, 1 for what is there."""
    rows = []
    for scene in scenes:
        has = {(o.colour, o.shape) for o in scene.objects}
        row = [float(pair in has) for pair in _PAIRS]
        for valid, values in (
            (BACKGROUNDS, {scene.background}), (LIGHTS, {scene.light}), (STYLES, {scene.style}),
            (SIZES, {o.size for o in scene.objects}), (TEXTURES, {o.texture for o in scene.objects}),
        ):  # fmt: skip
            row += [float(v in values) for v in valid]
        row += [float(len(scene.objects) == n) for n in range(1, 5)]
        rows.append(row)
    return torch.tensor(rows, device=device())


def _by_patch(scenes: Sequence[Scene], patch: int) -> torch.Tensor:
    """(B, patches, places) float, 1 for the colour and the shape of an object centred within 9 px of the patch."""
    side = 64 // patch
    out = np.zeros((len(scenes), side, side, len(COLOURS) + len(SHAPES)), dtype=np.float32)
    centres = (np.arange(side) + 0.5) * patch
    for i, scene in enumerate(scenes):
        for item in scene.objects:
            near = (np.abs(centres - item.y) < 8)[:, None] & (np.abs(centres - item.x) < 8)[None, :]
            out[i, near, COLOURS.index(item.colour)] = 1
            out[i, near, len(COLOURS) + SHAPES.index(item.shape)] = 1
    return torch.from_numpy(out.reshape(len(scenes), side * side, -1)).to(device())


def lesson(whole: torch.Tensor, places: torch.Tensor, scenes: Sequence[Scene], patch: int) -> torch.Tensor:
    """Loss of the thrown-away head."""
    return 4 * F.binary_cross_entropy_with_logits(whole, _whole(scenes)) + 4 * F.binary_cross_entropy_with_logits(
        places, _by_patch(scenes, patch)
    )


# ---------------------------------------------------------------------------------------------------- losses


@dataclass(frozen=True)
class Pairs:
    """Scenes, each beside a near miss of it; texts and facts first of the scenes, then of the misses."""

    scenes: list[Scene]
    misses: list[Scene]
    texts: list[str]
    also_true: torch.Tensor
    """(2n, 2n) bool: text i is true of the other scene j of its pair as well, so j is no negative of i."""


def sample_pairs(draw: Draw, n: int) -> Pairs:
    """Scenes and near misses, none of the held-out part, with a detailed caption each."""
    rng = draw.np
    scenes = [sample_split(rng, held=False) for _ in range(n)]
    captions = [describe_for_training(scene, rng, detail=0.7) for scene in scenes]
    misses = [missed(scene, caption.facts, rng) for scene, caption in zip(scenes, captions, strict=True)]
    captions += [describe_for_training(miss, rng, detail=0.7) for miss in misses]
    also_true = torch.zeros((2 * n, 2 * n), dtype=torch.bool)
    for i, other in enumerate(misses + scenes):
        also_true[i, (i + n) % (2 * n)] = caption_matches(other, captions[i].facts)
    return Pairs(scenes, misses, [caption.text for caption in captions], also_true.to(device()))


def missed(scene: Scene, facts: Facts, rng: np.random.Generator) -> Scene:
    """A near miss of which the caption is false and which is not held out."""
    for _ in range(20):
        miss = near_miss(scene, facts, rng, hard=HARD)
        if not scene_held_out(miss) and not caption_matches(miss, facts):
            return miss
    return sample_split(rng, held=False)


def contrast(model: CLIPModel, u: torch.Tensor, texts: Sequence[str], also_true: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of pictures (B, 96) and their texts; each near miss is a hard negative both ways."""
    v = embed_texts(model, token_ids(list(texts)).to(u.device))
    logits = (model.logit_scale.exp().clamp(max=100) * v @ u.T).masked_fill(also_true, -1e4)
    target = torch.arange(len(u), device=u.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def clip_loss(model: Taught, draw: Draw, batch: int) -> torch.Tensor:
    """Contrast over `batch` pictures, half of them near misses of the others, plus the lesson."""
    pairs = sample_pairs(draw, batch // 2)
    shown = [*pairs.scenes, *pairs.misses]
    images = as_images(shown)
    images[::2] = damage(images[::2], draw)
    u, whole, places = model(images)
    patch = model.clip.config.vision_config.patch_size
    return contrast(model.clip, u, pairs.texts, pairs.also_true) + lesson(whole, places, shown, patch)


def preference_loss(model: Taught, vae: AutoencoderKL | None, draw: Draw, batch: int) -> torch.Tensor:
    """PickScore's loss on (winner, loser), with contrast over the whole batch and the lesson.

    Losers are near misses; a quarter of the winners also compete with a spoiled copy of themselves. One pair in
    `DECODED_ONE_IN` passes through the autoencoder, both pictures alike.
    """
    n = batch
    pairs = sample_pairs(draw, n)
    shown = [*pairs.scenes, *pairs.misses]
    images = as_images(shown)
    if vae is not None:
        some = torch.arange(max(n // DECODED_ONE_IN, 1))
        part = torch.cat([some, n + some])
        images[part] = round_trip(vae, images[part], float(draw.np.uniform(0, 0.2)), draw)
    spoiled = spoil(images[: n // 4], draw)
    if draw.np.random() < 0.5:
        images = damage(images, draw)
    u, whole, places = model(torch.cat([images, spoiled]))
    v = embed_texts(model.clip, token_ids(pairs.texts[:n]).to(images.device))
    scale = model.clip.logit_scale.exp().clamp(max=100)
    win, lose = scale * (v * u[:n]).sum(-1), scale * (v * u[n : 2 * n]).sum(-1)
    worse = scale * (v[: n // 4] * u[2 * n :]).sum(-1)
    preference = F.softplus(lose - win).mean() + 0.5 * F.softplus(worse - win[: n // 4]).mean()
    patch = model.clip.config.vision_config.patch_size
    taught = lesson(whole[: 2 * n], places[: 2 * n], shown, patch)
    return preference + 0.5 * contrast(model.clip, u[: 2 * n], pairs.texts, pairs.also_true) + 2 * taught


# ---------------------------------------------------------------------------------------------------- stages


def _decoder(work: Path) -> AutoencoderKL:
    return autoencoder.train(work).eval().requires_grad_(False)


def train_clip(work: Path, plan: Plan = CLIP_PLAN) -> CLIPModel:
    """Train, or finish training, tiny-clip."""
    model = Taught(build(CLIP_TOWER)).to(device())
    fit(plan, model, lambda draw: clip_loss(model, draw, plan.batch), work)
    return model.clip


def train_pick(work: Path, plan: Plan = PICK_PLAN) -> CLIPModel:
    """Train, or finish training, tiny-pick from the trained tiny-clip."""
    model = Taught(train_clip(work)).to(device())
    vae = _decoder(work)
    fit(plan, model, lambda draw: preference_loss(model, vae, draw, plan.batch), work)
    return model.clip


def train_judge(work: Path, plan: Plan = JUDGE_PLAN) -> CLIPModel:
    """Train, or finish training, tiny-judge from nothing."""
    model = Taught(build(JUDGE_TOWER)).to(device())
    vae = _decoder(work)
    fit(plan, model, lambda draw: preference_loss(model, vae, draw, plan.batch), work)
    return model.clip
