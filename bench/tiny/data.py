"""Batches for the models that look at pictures: renders, damaged pictures, and near misses of scenes and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from bench.tiny.language import Facts
from bench.tiny.loop import Draw, device
from bench.tiny.render import render
from bench.tiny.world import (
    BACKGROUNDS,
    COLOURS,
    LIGHTS,
    MAX_OBJECTS,
    OPPOSITE,
    RADIUS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Obj,
    Scene,
    place,
    relation,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL  # its name alone: loading it takes longer than torch, and tuners draw from here


def as_images(scenes: Sequence[Scene]) -> torch.Tensor:
    """Renders as (B, 3, 64, 64) float32 in [0, 1]."""
    pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
    return pixels.permute(0, 3, 1, 2).float().div(255).to(device()).contiguous()


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: torch.Tensor, noise: float = 0.0, draw: Draw | None = None) -> torch.Tensor:
    """Pictures through the autoencoder and back, (B, 3, 64, 64) in [0, 1]; `noise` is the deviation of noise on z."""
    z = vae.encode(images * 2 - 1).latent_dist.mean
    if noise and draw is not None:
        z = z + noise * torch.randn(z.shape, generator=draw.torch).to(z.device)
    decoded: torch.Tensor = vae.decode(z).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def damage(images: torch.Tensor, draw: Draw, strength: float = 1.0) -> torch.Tensor:
    """Mild faults of generated pictures, for robustness: noise, softness, a tint. Same shape and range.

    Each picture gets its own random amount; `strength` 1 leaves everything recognisable.
    """
    n = len(images)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=draw.torch).to(images.device)

    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = uniform(n, 1, 1, 1) * (uniform(n, 1, 1, 1) < 0.5)
    out = images + mix * (soft - images)
    tint = 1 + strength * 0.10 * (uniform(n, 3, 1, 1) * 2 - 1)
    lift = strength * 0.05 * (uniform(n, 3, 1, 1) * 2 - 1)
    coarse = F.interpolate(torch.randn((n, 3, 8, 8), generator=draw.torch).to(images.device), size=64, mode="bilinear")
    fine = torch.randn(images.shape, generator=draw.torch).to(images.device)
    grain = strength * (0.04 * uniform(n, 1, 1, 1) * fine + 0.04 * uniform(n, 1, 1, 1) * coarse)
    return (out * tint + lift + grain).clamp(0, 1)


def spoil(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Faults a judge should mark down: heavy blur, noise, a colour cast, smear or washed-out contrast; one each."""
    out = images.clone()
    for i in range(len(images)):
        x = images[i : i + 1]
        amount = float(draw.np.uniform(0.4, 1.0))
        fault = int(draw.np.integers(5))
        if fault == 0:
            small = F.avg_pool2d(x, 4)
            y = x + amount * (F.interpolate(small, size=64, mode="bilinear") - x)
        elif fault == 1:
            y = x + 0.25 * amount * torch.randn(x.shape, generator=draw.torch).to(x.device)
        elif fault == 2:
            cast = torch.from_numpy(draw.np.uniform(-0.45, 0.45, size=(1, 3, 1, 1)) * amount).float().to(x.device)
            y = x + cast
        elif fault == 3:
            shift = int(draw.np.integers(4, 10))
            dims = int(draw.np.integers(2, 4))
            y = (x + torch.roll(x, shift, dims) + torch.roll(x, 2 * shift, dims)) / 3
        else:
            y = x + 0.75 * amount * (x.mean(dim=(2, 3), keepdim=True) - x)
        out[i] = y.clamp(0, 1)[0]
    return out


# ---------------------------------------------------------------------------------------------------- near misses


def other_value(valid: Sequence[str], value: str, rng: np.random.Generator) -> str:
    """A random other one of the valid values."""
    others = [v for v in valid if v != value]
    return others[int(rng.integers(len(others)))]


def near_miss(scene: Scene, facts: Facts, rng: np.random.Generator, *, hard: float = 0.0) -> Scene:
    """A scene like this one in which one thing that the caption states is wrong.

    A stated colour, shape, texture, size, count, relation, background, light or style is changed; in a scene of two
    groups also the binding (colours swapped). `hard` is the chance to leave out what is easy to see: a colour, the
    background, the light or the style.
    """
    groups = list(scene.groups())
    options: list[str] = []
    for index, thing in enumerate(facts.things):
        options += [f"{name} {index}" for name in ("colour", "shape") for _ in range(2) if getattr(thing, name)]
        options += [f"{name} {index}" for name in ("size", "texture") if getattr(thing, name)]
        options += ["count 0"] if len(facts.things) == 1 and thing.count is not None else []
    options += [name for name in ("background", "light", "style") if getattr(facts, name) is not None]
    if facts.relation is not None:
        options += ["relation"] * 3
    if len(groups) == 2 and all(t.colour and t.shape for t in facts.things):
        (first, _), (second, _) = groups
        if first.colour != second.colour and first.shape != second.shape:
            options += ["swap"] * 3
    if hard and rng.random() < hard:
        options = [o for o in options if not o.startswith(("colour", "background", "light", "style"))] or options
    what, _, rest = options[int(rng.integers(len(options)))].partition(" ") if options else ("style", "", "")
    if what in ("background", "light", "style"):
        valid: tuple[str, ...] = {"background": BACKGROUNDS, "light": LIGHTS, "style": STYLES}[what]
        change: dict[str, Any] = {what: other_value(valid, getattr(scene, what), rng)}
        return replace(scene, **change)
    if what == "relation":
        a, b = (groups[0][0], groups[1][0])
        where = relation(scene.objects[0], scene.objects[1]) or "above"
        wrong = OPPOSITE[where] if rng.random() < 0.6 else other_value(tuple(OPPOSITE), where, rng)
        return replace(scene, objects=place([(a, 1), (b, 1)], rng, wrong))
    if what == "swap":
        (ka, _), (kb, _) = groups
        swapped = {ka: kb.colour, kb: ka.colour}
        return replace(scene, objects=tuple(replace(o, colour=swapped[o.kind]) for o in scene.objects))
    if what == "count":
        kind, items = groups[0]
        number = int(rng.choice([n for n in range(1, MAX_OBJECTS + 1) if n != len(items)]))
        return replace(scene, objects=place([(kind, number)], rng))
    # the caption may list the groups in another order than the scene: find the group that the thing fits
    thing = facts.things[int(rest)]
    kind = next((k for k, _ in groups if thing.fits(k)), groups[0][0])
    valid = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "texture": TEXTURES}[what]
    value = other_value(valid, getattr(kind, what), rng)
    change = {what: value}
    changed = tuple(replace(o, **change) if o.kind == kind else o for o in scene.objects)
    if what == "size" and len(scene.objects) > 1:  # a larger object may need more room
        pairs = [(replace(k, size=value) if k == kind else k, len(items)) for k, items in groups]
        stands = relation(scene.objects[0], scene.objects[1]) if len(scene.objects) == 2 else None
        return replace(scene, objects=place(pairs, rng, stands))
    return replace(scene, objects=tuple(_inside(o) for o in changed))


def _inside(item: Obj) -> Obj:
    r = RADIUS[item.size]
    return replace(item, x=int(np.clip(item.x, r, 64 - r)), y=int(np.clip(item.y, r, 64 - r)))


# ---------------------------------------------------------------------------------------------------- labels

GRID = 8
"""Cells on a side; the centres of two objects never share a cell of 8 px."""


def labels(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """What a scene parser should say.

    Returns:
        `there` (B, 8, 8) float, 1 in the cell of each object's centre; `dx`, `dy` (B, 8, 8) float, the centre within
        its cell in [0, 1); `shape`, `colour`, `size`, `texture` (B, 8, 8) int64, -1 where nothing is; `background`,
        `light`, `style` (B,) int64.
    """
    n = len(scenes)
    dense = {name: np.full((n, GRID, GRID), -1, dtype=np.int64) for name in ("shape", "colour", "size", "texture")}
    there, dx, dy = (np.zeros((n, GRID, GRID), dtype=np.float32) for _ in range(3))
    valid = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
    for i, scene in enumerate(scenes):
        for item in scene.objects:
            row, column = min(item.y // 8, 7), min(item.x // 8, 7)
            there[i, row, column] = 1
            dx[i, row, column], dy[i, row, column] = item.x / 8 - column, item.y / 8 - row
            for name, grid in dense.items():
                grid[i, row, column] = valid[name].index(getattr(item, name))
    whole = {
        "background": np.asarray([BACKGROUNDS.index(s.background) for s in scenes]),
        "light": np.asarray([LIGHTS.index(s.light) for s in scenes]),
        "style": np.asarray([STYLES.index(s.style) for s in scenes]),
    }
    out = {"there": there, "dx": dx, "dy": dy, **dense, **whole}
    return {name: torch.from_numpy(value).to(device()) for name, value in out.items()}
