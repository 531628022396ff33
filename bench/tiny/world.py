"""Scenes of the tiny world and how they are drawn at random: what exists, where it is, and in which light and style.

A scene holds one to four objects in one or two *groups*: objects of a group share shape, colour, size and texture, and
no two groups share both colour and shape. Positions are whole pixels of the 64x64 canvas, y downwards.

Part of the world is never trained on: see `held_out`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CANVAS = 64
"""Side of the canvas in pixels."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("grass", "sand", "sky", "street", "room")
LIGHTS = ("day", "night")
STYLES = ("photo", "anime", "concept-art", "painting")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

RADIUS = {"small": 9, "large": 14}
"""Half the width of an object in pixels; even the small ones survive an autoencoder of factor 8."""

MAX_OBJECTS = 4
HELD_OUT_ONE_IN = 8

_TEXTURE_P = (0.76, 0.12, 0.12)
_STYLE_P = (0.70, 0.10, 0.10, 0.10)
_LIGHT_P = (0.75, 0.25)
_GROUPINGS: tuple[tuple[int, ...], ...] = ((1,), (2,), (3,), (4,), (1, 1), (2, 1))
_GROUPING_P = (0.26, 0.08, 0.06, 0.06, 0.46, 0.08)


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What an object looks like, wherever it stands."""

    shape: str
    colour: str
    size: str = "large"
    texture: str = "plain"

    def __post_init__(self) -> None:
        _check_kind(self)


@dataclass(frozen=True, slots=True)
class Obj:
    """One object: its looks and the pixel of its centre."""

    shape: str
    colour: str
    size: str
    texture: str
    x: int
    y: int

    @property
    def kind(self) -> Kind:
        """The looks without the place."""
        return Kind(self.shape, self.colour, self.size, self.texture)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything there is to know about a picture."""

    objects: tuple[Obj, ...]
    background: str = "street"
    light: str = "day"
    style: str = "photo"

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise ValueError(f"a scene holds 1 to {MAX_OBJECTS} objects, got {len(self.objects)}")
        for item in self.objects:
            _check_kind(item)
        _check("background", self.background, BACKGROUNDS)
        _check("light", self.light, LIGHTS)
        _check("style", self.style, STYLES)

    def groups(self) -> tuple[tuple[Kind, tuple[Obj, ...]], ...]:
        """Objects of equal looks together, in order of first appearance."""
        found: dict[Kind, list[Obj]] = {}
        for item in self.objects:
            found.setdefault(item.kind, []).append(item)
        return tuple((kind, tuple(items)) for kind, items in found.items())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `scene_from_json` gives back an equal scene."""
        return {
            "objects": [asdict(item) for item in self.objects],
            "background": self.background,
            "light": self.light,
            "style": self.style,
        }


def scene_from_json(data: Mapping[str, Any]) -> Scene:
    """Inverse of `Scene.to_json`."""
    objects = tuple(Obj(**item) for item in data["objects"])
    return Scene(objects, data["background"], data["light"], data["style"])


def relation(a: Obj, b: Obj) -> str | None:
    """Where `a` stands as seen from `b`, or None where neither axis clearly dominates (by 4 px, and 6 px apart)."""
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < 6 or abs(abs(dx) - abs(dy)) < 4:
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


# ---------------------------------------------------------------------------------------------------- held-out rule


def held_out(groups: Iterable[tuple[int, str | None, str | None]]) -> bool:
    """Whether a combination of (count, colour, shape) groups, order aside, is kept away from all training.

    One combination in `HELD_OUT_ONE_IN`, by hash. Attributes and their single pairs are all trained on somewhere; what
    is new in a held-out scene is the combination. None stands for an attribute that a caption leaves open.
    """
    text = ";".join(sorted(f"{count} {colour or '-'} {shape or '-'}" for count, colour, shape in groups))
    return hashlib.sha256(f"tiny-world/1:{text}".encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def scene_held_out(scene: Scene) -> bool:
    """`held_out` for the groups of a scene."""
    return held_out((len(items), kind.colour, kind.shape) for kind, items in scene.groups())


# ---------------------------------------------------------------------------------------------------- sampling


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene, held out or not."""
    counts = _GROUPINGS[_draw(rng, _GROUPING_P)]
    kinds: list[Kind] = []
    for _ in counts:
        kind = sample_kind(rng)
        while any((kind.colour, kind.shape) == (k.colour, k.shape) for k in kinds):
            kind = sample_kind(rng)
        kinds.append(kind)
    return Scene(
        place(list(zip(kinds, counts, strict=True)), rng),
        BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        LIGHTS[_draw(rng, _LIGHT_P)],
        STYLES[_draw(rng, _STYLE_P)],
    )


def sample_kind(rng: np.random.Generator) -> Kind:
    """Random looks of an object."""
    return Kind(
        SHAPES[int(rng.integers(len(SHAPES)))],
        COLOURS[int(rng.integers(len(COLOURS)))],
        SIZES[int(rng.integers(len(SIZES)))],
        TEXTURES[_draw(rng, _TEXTURE_P)],
    )


def sample_split(rng: np.random.Generator, *, held: bool) -> Scene:
    """A random scene from the held-out part of the world, or from the rest."""
    while True:
        scene = sample_scene(rng)
        if scene_held_out(scene) == held:
            return scene


def place(
    groups: Sequence[tuple[Kind, int]], rng: np.random.Generator, relation_01: str | None = None
) -> tuple[Obj, ...]:
    """Put the objects of (looks, count) groups on the canvas so that none overlap or leave it.

    With `relation_01` the first object stands so as seen from the second; it asks for two single objects. Where there
    are more than three objects all are drawn small, where there are three at most the single one is large.
    """
    kinds = [kind for kind, count in groups for _ in range(count)]
    if relation_01 is not None and len(kinds) != 2:
        raise ValueError(f"a relation needs exactly two objects, got {len(kinds)}")
    if not 1 <= len(kinds) <= MAX_OBJECTS:
        raise ValueError(f"a scene holds 1 to {MAX_OBJECTS} objects, got {len(kinds)}")
    if len(kinds) == 1:
        r = RADIUS[kinds[0].size] + 2
        return (_at(kinds[0], int(rng.integers(r, CANVAS - r + 1)), int(rng.integers(r, CANVAS - r + 1))),)
    if len(kinds) == 2:
        where = relation_01 or RELATIONS[int(rng.integers(len(RELATIONS)))]
        return _place_pair(kinds[0], kinds[1], where, rng)
    return _place_grid(groups, rng)


def _place_pair(a: Kind, b: Kind, where: str, rng: np.random.Generator) -> tuple[Obj, ...]:
    ra, rb = RADIUS[a.size] + 2, RADIUS[b.size] + 2
    if where in ("right of", "below"):
        second, first = _place_pair(b, a, OPPOSITE[where], rng)
        return first, second
    near = int(rng.integers(ra, CANVAS - ra - 2 * rb + 1))
    far = int(rng.integers(near + ra + rb, CANVAS - rb + 1))
    middle = int(rng.integers(max(ra, rb), CANVAS - max(ra, rb) + 1))
    sides = [int(np.clip(middle + rng.integers(-6, 7), r, CANVAS - r)) for r in (ra, rb)]
    if where == "left of":
        return _at(a, near, sides[0]), _at(b, far, sides[1])
    return _at(a, sides[0], near), _at(b, sides[1], far)


def _place_grid(groups: Sequence[tuple[Kind, int]], rng: np.random.Generator) -> tuple[Obj, ...]:
    total = sum(count for _, count in groups)
    cells = rng.permutation(4)[:total]
    objects: list[Obj] = []
    for kind, count in groups:
        small = Kind(kind.shape, kind.colour, "small" if count > 1 or total == MAX_OBJECTS else kind.size, kind.texture)
        for _ in range(count):
            row, column = divmod(int(cells[len(objects)]), 2)
            jx, jy = (int(v) for v in rng.integers(-3, 4, size=2))
            objects.append(_at(small, 17 + 30 * column + jx, 17 + 30 * row + jy))
    return tuple(objects)


def _at(kind: Kind, x: int, y: int) -> Obj:
    return Obj(kind.shape, kind.colour, kind.size, kind.texture, x, y)


def _draw(rng: np.random.Generator, weights: Sequence[float]) -> int:
    return int(np.searchsorted(np.cumsum(weights), rng.random() * sum(weights), side="right"))


def _check_kind(item: Kind | Obj) -> None:
    _check("shape", item.shape, SHAPES)
    _check("colour", item.colour, COLOURS)
    _check("size", item.size, SIZES)
    _check("texture", item.texture, TEXTURES)


def _check(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f"unknown {name} {value!r}; valid: {', '.join(valid)}")
