"""Preprocessings beside CLIP's own (``rewards.clip.Preprocess``)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.core.errors import UserError
from rewards.clip import Preprocessing, as_float, resized

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Letterbox:
    """HPS's own: the longer side to ``longest_edge``, the rest black, and no crop.

    The reference resizes tensors through torchvision, which antialiases since its version 0.17 and did not before: on
    512 pixels the difference is 0.9 grey levels on average and 77 at most (research/metrics.md B.5).
    """

    longest_edge: int
    antialias: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @property
    def input_px(self) -> int:
        return self.longest_edge

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        side, (height, width) = self.longest_edge, images.shape[-2:]
        scale = side / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        if size != (height, width):
            images = resized(images, size, antialias=self.antialias)
        images = as_float(images)
        below, beside = side - size[0], side - size[1]
        images = F.pad(images, (beside // 2, beside - beside // 2, below // 2, below - below // 2))
        mean, std = images.new_tensor(self.mean).view(3, 1, 1), images.new_tensor(self.std).view(3, 1, 1)
        return (images - mean) / std


@dataclass(frozen=True)
class Shifted:
    """FDXL's random shift before another preprocessing (DRTune, arXiv 2405.00760, section 4.4).

    An image of side r_out is moved by 0..ceil(r_out / r_in) pixels, down and to the right by one draw each, so that not
    always the same pixels are those that the resize to r_in looks at. What moves in repeats the edge. Images no larger
    than r_in stay where they are.

    The draw is a function of the image, by a hash of its 8-bit values: an update sees new images and so new shifts,
    while a score stays a pure function of the image, the same in any batch, on any process and after a resume.
    """

    inner: Preprocessing

    @property
    def input_px(self) -> int:
        return self.inner.input_px

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        most = math.ceil(max(height, width) / self.input_px)
        if max(height, width) <= self.input_px:
            return self.inner(images)
        # 8-bit images have no replicated padding on every device
        images = as_float(images)
        padded = F.pad(images, (most, 0, most, 0), mode="replicate")
        moved = []
        for image, (down, right) in zip(padded, draws(images, most), strict=True):
            top, left = most - down, most - right
            moved.append(image[:, top : top + height, left : left + width])
        return self.inner(torch.stack(moved))


@torch.no_grad()
def draws(images: torch.Tensor, most: int) -> list[tuple[int, int]]:
    """(down, right) in 0..most of each float image (B, 3, H, W)."""
    found = []
    for image in (images.detach() * 255).round().clamp(0, 255).to(torch.uint8).cpu():
        h = hashlib.sha256(image.numpy().tobytes()).digest()
        down, right = (int.from_bytes(part, "big") % (most + 1) for part in (h[:8], h[8:16]))
        found.append((down, right))
    return found


def choose(reward: str, base: Preprocessing, shift: str) -> Preprocessing:
    """``base``, shifted where ``shift`` asks for it. Raises UserError for another word."""
    if shift not in ("no", "random"):
        raise UserError(f"reward {reward!r}: shift = {shift!r}", valid="no, random")
    return Shifted(base) if shift == "random" else base
