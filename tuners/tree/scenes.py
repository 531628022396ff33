"""Feedback pairs of the tiny world from exact scene graphs: the "AI" half of the paper's pipeline with nothing unsure.

A pair is a pure function of (dimension, number, seed). The winner is a scene drawn as its caption says. What the loser
gets wrong, and nothing else:

    style     the scene in another style than the prompt's (the paper's style-word substitution)
    content   a near miss: one stated shape, colour, count, relation or binding is wrong; or, re-captioned as in the
              paper, the winner's own image under a caption of such a near miss
    color     a colour cast, or faded colours
    lighting  under- or over-exposed, or one side in the dark
    detail    blurred, noisy or coarse
    layout    objects cut off by the frame, or piled on each other

Half of the pairs carry the mild faults of generated images, both members the same ones. No scene, and no near miss, is
of the part of the world that evaluation prompts are taken from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from bench.tiny.data import damage, near_miss, other_value
from bench.tiny.language import Caption, Facts, caption_matches, describe_for_training
from bench.tiny.loop import Draw
from bench.tiny.render import render
from bench.tiny.world import (
    CANVAS,
    RADIUS,
    STYLES,
    Scene,
    sample_split,
    scene_held_out,
)
from bench.trees.pairs import Pair

_DETAIL = 0.7
"""How much captions say: as much as those that the tiny scorers were trained on."""


def scene_pair(dimension: str, seed: int) -> Pair:
    """The pair of one dimension that ``seed`` draws, 64 px images."""
    draw = Draw(0, np.random.default_rng(seed), torch.Generator().manual_seed(seed % 2**63))
    made = {"style": _style, "content": _content, "layout": _layout}.get(dimension)
    pair = made(draw) if made else _spoiled(dimension, draw)
    if draw.np.random() < 0.5:
        faults = int(draw.np.integers(2**62))
        pair = replace(pair, winner=_damaged(pair.winner, faults), loser=_damaged(pair.loser, faults))
    return pair


def draw_scene(scene: Scene) -> torch.Tensor:
    """(3, 64, 64) uint8."""
    return torch.from_numpy(render(scene)).permute(2, 0, 1).contiguous()


def _damaged(image: torch.Tensor, seed: int) -> torch.Tensor:
    draw = Draw(0, np.random.default_rng(0), torch.Generator().manual_seed(seed))
    return _bytes(damage(image[None].float() / 255, draw)[0])


def _bytes(image: torch.Tensor) -> torch.Tensor:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


# -- semantic: the scene and what is said of it disagree


def _described(rng: np.random.Generator, wanted: Callable[[Facts], bool]) -> tuple[Scene, Caption]:
    while True:
        scene = sample_split(rng, held=False)
        caption = describe_for_training(scene, rng, detail=_DETAIL)
        if wanted(caption.facts):
            return scene, caption


def _style(draw: Draw) -> Pair:
    rng = draw.np
    # three of four styles are rare in the world: drawn evenly here, so that each is a winner as often
    scene = replace(sample_split(rng, held=False), style=STYLES[int(rng.integers(len(STYLES)))])
    caption = describe_for_training(scene, rng, detail=_DETAIL)
    while caption.facts.style is None:
        caption = describe_for_training(scene, rng, detail=_DETAIL)
    other = replace(scene, style=other_value(STYLES, scene.style, rng))
    return Pair("style", "substitute", draw_scene(scene), caption.text, draw_scene(other), caption.text)


def _content(draw: Draw) -> Pair:
    rng = draw.np
    while True:
        scene, caption = _described(rng, lambda facts: True)
        miss = near_miss(scene, caption.facts, rng)
        same_setting = (miss.light, miss.style) == (scene.light, scene.style)  # those are other leaves' matter
        if not same_setting or scene_held_out(miss) or caption_matches(miss, caption.facts):
            continue
        if rng.random() < 0.5:
            return Pair("content", "near-miss", draw_scene(scene), caption.text, draw_scene(miss), caption.text)
        wrong = describe_for_training(miss, rng, detail=_DETAIL)
        if not caption_matches(scene, wrong.facts):
            image = draw_scene(scene)
            return Pair("content", "recaption", image, caption.text, image, wrong.text)


# -- aesthetic: the picture is spoiled, whatever was asked for


def _spoiled(dimension: str, draw: Draw) -> Pair:
    scene, caption = _described(draw.np, lambda facts: True)
    winner = draw_scene(scene)
    spoil = {"color": _off_color, "lighting": _ill_lit, "detail": _without_detail}[dimension]
    loser = _bytes(spoil(winner[None].float() / 255, draw)[0])
    return Pair(dimension, "spoil", winner, caption.text, loser, caption.text)


def _off_color(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A cast of one hue, or colours faded towards grey, at equal luminance."""
    grey = x.mean(1, keepdim=True)
    if draw.np.random() < 0.5:
        return grey + (1 - float(draw.np.uniform(0.4, 0.9))) * (x - grey)
    cast: torch.Tensor = torch.from_numpy(draw.np.normal(size=(1, 3, 1, 1))).float()
    cast = cast - cast.mean()
    cast = cast * (float(draw.np.uniform(0.12, 0.3)) / cast.square().sum().sqrt())
    return x + cast


def _ill_lit(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    kind = int(draw.np.integers(3))
    amount = float(draw.np.uniform(0.35, 0.8))
    if kind == 0:
        return x * (1 - amount)
    if kind == 1:
        return 1 - (1 - x) * (1 - amount)
    angle = float(draw.np.uniform(0, 2 * np.pi))
    line = torch.linspace(-1, 1, CANVAS)
    side = (math.cos(angle) * line[None, :] + math.sin(angle) * line[:, None]).clamp(-1, 1)
    return x * (1 - 1.2 * amount * (side + 1) / 2)


def _without_detail(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    kind = int(draw.np.integers(3))
    amount = float(draw.np.uniform(0.5, 1.0))
    if kind == 0:
        return x + 0.2 * amount * torch.randn(x.shape, generator=draw.torch)
    small = F.avg_pool2d(x, 4)
    coarse = F.interpolate(small, size=CANVAS, mode="bilinear" if kind == 1 else "nearest")
    return x + amount * (coarse - x)


def _layout(draw: Draw) -> Pair:
    """The same objects: all within the frame and apart, or shifted until one is cut, or piled up."""
    rng = draw.np
    scene, caption = _described(rng, lambda facts: True)
    objects = scene.objects
    if len(objects) > 1 and rng.random() < 0.5:
        anchor = objects[int(rng.integers(len(objects)))]
        near = float(rng.uniform(0.0, 0.3))
        moved = tuple(
            replace(o, x=round(anchor.x + near * (o.x - anchor.x)), y=round(anchor.y + near * (o.y - anchor.y)))
            for o in objects
        )
    else:
        # all move together, so that relations stay as stated: the outermost object ends up across the edge
        dx, dy = ((1, 0), (-1, 0), (0, 1), (0, -1))[int(rng.integers(4))]
        edge = max(dx * o.x + dy * o.y for o in objects)
        target = CANVAS if dx + dy > 0 else 0
        outer = max(objects, key=lambda o: dx * o.x + dy * o.y)
        shift = target + float(rng.uniform(-0.3, 0.2)) * RADIUS[outer.size] - edge
        moved = tuple(replace(o, x=round(o.x + dx * shift), y=round(o.y + dy * shift)) for o in objects)
    loser = replace(scene, objects=moved)
    return Pair("layout", "spoil", draw_scene(scene), caption.text, draw_scene(loser), caption.text)
