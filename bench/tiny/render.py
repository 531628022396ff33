"""Pictures of scenes: anti-aliased, deterministic, about as fast as pasting a few small masks.

Masks are drawn once at four times the resolution and kept; a picture is a stored backdrop, pasted masks and, for the
painting style, a stored brush pattern. Backdrop and brush patterns repeat every 8 px, the cell of the autoencoder.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bench.tiny.world import CANVAS, RADIUS, Obj, Scene

_OVERSAMPLE = 4

OBJECT_RGB = {
    "red": (222, 30, 34),
    "orange": (246, 140, 24),
    "yellow": (246, 222, 40),
    "green": (24, 140, 52),
    "blue": (36, 72, 214),
    "purple": (142, 44, 168),
    "black": (18, 18, 20),
    "white": (250, 250, 250),
}
BACKDROP_RGB = {
    "grass": (150, 206, 118),
    "sand": (226, 202, 152),
    "sky": (160, 208, 244),
    "street": (142, 142, 146),
    "room": (244, 184, 196),
}
_NIGHT = (0.40, 0.42, 0.56)
"""Factor on red, green and blue of a backdrop at night; objects keep 85 % of their light."""


def render(scene: Scene, size: int = CANVAS) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: what to draw.
        size: side of the picture in pixels; the scene is scaled to it.

    Returns:
        (size, size, 3) uint8, RGB. The same scene gives the same bytes.
    """
    image = _backdrop(scene.background, scene.light, scene.style, size).copy()
    for item in scene.objects:
        _draw_object(image, item, scene, size)
    pixels = np.asarray(image)
    if scene.style == "painting":
        pixels = np.clip(pixels.astype(np.float32) * _brush(size), 0, 255).astype(np.uint8)
    return pixels.copy() if not pixels.flags.writeable else pixels


def _draw_object(image: Image.Image, item: Obj, scene: Scene, size: int) -> None:
    scale = size / CANVAS
    radius = RADIUS[item.size]
    mask = _shape_mask(item.shape, radius, 0.0, size)
    corner = (round(item.x * scale) - mask.width // 2, round(item.y * scale) - mask.height // 2)
    if scene.style == "photo":
        drop = max(1, round(2 * scale))
        image.paste((20, 20, 30), (corner[0] + drop, corner[1] + drop), _shadow_mask(item.shape, radius, size))
    if scene.style == "anime":
        image.paste((0, 0, 0), corner, _shape_mask(item.shape, radius, 2.0, size))
    image.paste(_lit(OBJECT_RGB[item.colour], scene.light), corner, mask)
    if item.texture != "plain":
        ink = _lit(_ink(item.colour), scene.light)
        image.paste(ink, corner, _texture_mask(item.shape, radius, item.texture, size))
    if scene.style == "concept-art":
        image.paste((255, 244, 214), corner, _shine_mask(item.shape, radius, size))


def _lit(rgb: tuple[int, int, int], light: str) -> tuple[int, int, int]:
    factor = 1.0 if light == "day" else 0.85
    return (round(rgb[0] * factor), round(rgb[1] * factor), round(rgb[2] * factor))


def _ink(colour: str) -> tuple[int, int, int]:
    """Colour of stripes and dots: light on dark colours, dark on light ones."""
    base = OBJECT_RGB[colour]
    target = 40 if colour in ("white", "yellow", "orange") else 255
    return (_mix(base[0], target), _mix(base[1], target), _mix(base[2], target))


def _mix(value: int, target: int) -> int:
    return round(0.25 * value + 0.75 * target)


# ---------------------------------------------------------------------------------------------------- masks


@lru_cache(maxsize=512)
def _shape_mask(shape: str, radius: int, grow: float, size: int) -> Image.Image:
    """Coverage mask of a shape, `grow` px wider on every side; all masks of a radius share one frame."""
    scale = size / CANVAS
    half = math.ceil((radius + 4) * scale)
    big = Image.new("L", (2 * half * _OVERSAMPLE, 2 * half * _OVERSAMPLE), 0)
    _draw_shape(
        ImageDraw.Draw(big), shape, half * _OVERSAMPLE, radius * scale * _OVERSAMPLE, grow * scale * _OVERSAMPLE
    )
    return big.resize((2 * half, 2 * half), Image.Resampling.BOX)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, c: float, r: float, grow: float) -> None:
    if shape in ("circle", "ring"):
        outer = r + grow
        draw.ellipse((c - outer, c - outer, c + outer, c + outer), fill=255)
        if shape == "ring":
            inner = 0.50 * r - grow
            draw.ellipse((c - inner, c - inner, c + inner, c + inner), fill=0)
        return
    corners = [(c + r * u, c + r * v) for u, v in _CORNERS[shape]]
    draw.polygon(corners, fill=255)
    if grow:
        closed = [*corners, corners[0], corners[1]]
        draw.line(closed, fill=255, width=round(2 * grow), joint="curve")


def _star() -> tuple[tuple[float, float], ...]:
    radii = (1.1, 0.48)
    turns = [(radii[k % 2], math.pi * k / 5) for k in range(10)]
    return tuple((r * math.sin(t), -r * math.cos(t) + 0.05) for r, t in turns)


_ARM = 0.36
_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0.0, -1.0), (1.08, 0.88), (-1.08, 0.88)),
    "star": _star(),
    "cross": (
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ),
}  # fmt: skip


@lru_cache(maxsize=512)
def _texture_mask(shape: str, radius: int, texture: str, size: int) -> Image.Image:
    mask = _shape_mask(shape, radius, 0.0, size)
    scale = size / CANVAS * _OVERSAMPLE
    side = mask.width * _OVERSAMPLE
    big = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(big)
    middle = side / 2
    if texture == "striped":
        for k in range(-4, 5):
            y = middle + 7 * k * scale
            draw.rectangle((0, y - 1.5 * scale, side, y + 1.5 * scale), fill=255)
    else:
        r = 1.9 * scale
        for row in range(-4, 5):
            for column in range(-4, 5):
                x, y = middle + (column + 0.5 * (row % 2)) * 7 * scale, middle + 6 * row * scale
                draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return ImageChops.multiply(big.resize(mask.size, Image.Resampling.BOX), mask)


@lru_cache(maxsize=512)
def _shadow_mask(shape: str, radius: int, size: int) -> Image.Image:
    soft = _shape_mask(shape, radius, 0.0, size).filter(ImageFilter.GaussianBlur(1.2 * size / CANVAS))
    return soft.point([round(0.45 * v) for v in range(256)])


@lru_cache(maxsize=512)
def _shine_mask(shape: str, radius: int, size: int) -> Image.Image:
    """Light from the upper left, for the shaded style."""
    mask = _shape_mask(shape, radius, 0.0, size)
    line = np.linspace(1.0, -1.0, mask.width)
    slope = np.clip((line[:, None] + line[None, :]) / 2, 0, 1)
    shine = Image.fromarray((slope * 255 * 0.75).astype(np.uint8))
    return ImageChops.multiply(shine, mask)


# ---------------------------------------------------------------------------------------------------- backdrops


@lru_cache(maxsize=256)
def _backdrop(background: str, light: str, style: str, size: int) -> Image.Image:
    rgb = np.asarray(BACKDROP_RGB[background], dtype=np.float32)
    picture = np.broadcast_to(rgb, (size, size, 3)) * _pattern(background, size)[..., None]
    if style == "anime":
        picture = picture + 0.35 * (255 - picture)
    if style == "concept-art":
        picture = picture * _duotone(size)
    if light == "night":
        picture = picture * np.asarray(_NIGHT, dtype=np.float32)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Row and column in pixels of the 64 px canvas, (size, size) each."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (CANVAS / size)
    rows, columns = np.meshgrid(line, line, indexing="ij")
    return rows, columns


def _pattern(background: str, size: int) -> NDArray[np.float32]:
    """Faint pattern of a backdrop around 1, repeating every 8 px."""
    y, x = _grid(size)
    turn = 2 * math.pi / 8
    waves = {
        "grass": np.sin(2 * turn * x + np.sin(turn * y)),
        "sand": np.sin(turn * (x + y)) * np.sin(turn * (x - y)),
        "sky": np.zeros_like(x),
        "street": np.sin(turn * y),
        "room": np.sin(turn * x),
    }
    wave: NDArray[np.float32] = (1 + 0.06 * waves[background]).astype(np.float32)
    return wave


def _duotone(size: int) -> NDArray[np.float32]:
    """Teal above, amber below, dark towards the corners: (size, size, 3)."""
    y, x = _grid(size)
    t = (y / CANVAS)[..., None]
    tint = (1 - t) * np.asarray((0.55, 0.95, 1.10)) + t * np.asarray((1.15, 0.80, 0.50))
    distance = np.hypot(x - CANVAS / 2, y - CANVAS / 2)[..., None] / (CANVAS / 2)
    out: NDArray[np.float32] = (tint * (1 - 0.22 * np.clip(distance, 0, 1.4) ** 2)).astype(np.float32)
    return out


@lru_cache(maxsize=8)
def _brush(size: int) -> NDArray[np.float32]:
    """Slanted strokes as a factor on the picture, (size, size, 1), repeating every 8 px."""
    y, x = _grid(size)
    turn = 2 * math.pi / 8
    stroke = np.sin(turn * (x + y) + 0.8 * np.sin(turn * (x - y)))
    out: NDArray[np.float32] = (0.98 + 0.20 * stroke)[..., None].astype(np.float32)
    return out
