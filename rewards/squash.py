"""The preprocessing of BLIP, BLIP-2 and OWL-ViT: the whole image to the network's size, whatever its shape, no crop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError
from bench.diffusion.pretrained import reading
from rewards.clip import as_float, resized

VALID = "a size with height and width, resample 3 (bicubic), no crop, three means and deviations"


@dataclass(frozen=True)
class Squash:
    """Bicubic, antialiased, then mean and deviation.

    On square images it is CLIP's path but for the crop. PIL, which the published processors use, rounds to 8 bits after
    each of its two passes: up to 2 grey levels, 0.3 on average, which a path with gradients cannot have.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def read(cls, folder: Path) -> Squash:
        """From ``preprocessor_config.json``. Raises UserError when it is missing or asks for something else."""
        path = folder / "preprocessor_config.json"
        with reading(path):
            config = json.loads(path.read_text("utf-8"))
            size, mean, std = _size(config["size"]), tuple(config["image_mean"]), tuple(config["image_std"])
            # a crop to the size that the image has by then cuts nothing off
            cut = bool(config.get("do_center_crop")) and _size(config.get("crop_size", size)) != size
        if size is None or cut or len(mean) != 3 or len(std) != 3 or config.get("resample", 3) != 3:
            raise UserError(f"{path} asks for another preprocessing than BLIP's or OWL-ViT's", valid=VALID)
        return cls(*size, mean, std)

    @property
    def input_px(self) -> int:
        return max(self.height, self.width)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float in [0, 1] → (B, 3, height, width), normalised."""
        if images.shape[-2:] != (self.height, self.width):
            images = resized(images, (self.height, self.width))
        images = as_float(images)
        mean, std = images.new_tensor(self.mean).view(3, 1, 1), images.new_tensor(self.std).view(3, 1, 1)
        return (images - mean) / std


def _size(value: Any) -> tuple[int, int] | None:
    """(height, width) of the forms that processors have written: 384, [768, 768], {"height": .., "width": ..}."""
    if isinstance(value, int):
        return value, value
    found = (value.get("height"), value.get("width")) if isinstance(value, dict) else tuple(value)
    return found if len(found) == 2 and all(isinstance(n, int) for n in found) else None
