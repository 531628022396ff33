"""One comparison: the unit that feedback data consists of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Pair:
    """Two (image, text) points of which one is better in one dimension.

    Mostly the texts agree and the images differ; a re-captioned pair is one image under two texts.
    """

    dimension: str
    how: str
    """What made it: ``substitute``, ``near-miss``, ``recaption``, ``spoil``, ``trigger``, ``generator``, ``depth``,
    ``vote``."""
    winner: torch.Tensor
    """x_w: (3, S, S) uint8."""
    winner_text: str
    loser: torch.Tensor
    """x_l: (3, S, S) uint8."""
    loser_text: str

    def at(self, side: int) -> Pair:
        """The same pair with images (3, side, side)."""
        return replace(self, winner=_sized(self.winner, side), loser=_sized(self.loser, side))


def _sized(image: torch.Tensor, side: int) -> torch.Tensor:
    if image.shape[-2:] == (side, side):
        return image
    x = F.interpolate(image[None].float(), size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return x[0].round().clamp(0, 255).to(torch.uint8)
