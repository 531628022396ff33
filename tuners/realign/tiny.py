"""Tagger and segmenter of the tiny world: its stored reader, trained on exact labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from bench.tiny.models import load_reader
from bench.tiny.reader import Reader
from bench.tiny.world import CANVAS, RADIUS, Obj, Scene


class TinySight:
    """Tagger and segmenter in one: the reader parses a picture into objects with places and sizes.

    Args:
        folder: of the reader's weights.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.reader: Reader = load_reader(folder, device)
        self.device = device

    def tags(self, images: torch.Tensor) -> list[list[str]]:
        """The looks that are seen in each picture (B, 3, H, W), such as "red circle", each once."""
        return [list(dict.fromkeys(map(_tag, scene.objects))) if scene else [] for scene in self._scenes(images)]

    def masks(self, image: torch.Tensor, tags: Sequence[str]) -> list[torch.Tensor]:
        """For each tag the discs (H, W) bool of the objects with these looks in a picture (3, H, W)."""
        (scene,) = self._scenes(image[None])
        height, width = image.shape[-2:]
        return [_discs([o for o in scene.objects if _tag(o) == tag] if scene else [], height, width) for tag in tags]

    def _scenes(self, images: torch.Tensor) -> list[Scene | None]:
        return self.reader.parse(images.to(self.device, torch.float32))


def _tag(item: Obj) -> str:
    return f"{item.colour} {item.shape}"


def _discs(items: Sequence[Obj], height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) * CANVAS / height, (torch.arange(width) + 0.5) * CANVAS / width, indexing="ij"
    )
    mask = torch.zeros(height, width, dtype=torch.bool)
    for item in items:
        mask |= (x - item.x) ** 2 + (y - item.y) ** 2 <= RADIUS[item.size] ** 2
    return mask
