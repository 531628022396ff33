"""The border of every reward: what images and prompts must look like, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.core.errors import ContractError


def check_images(reward: str, images: torch.Tensor, prompts: Sequence[str]) -> None:
    """Images must be (B, 3, H, W) floating point, one prompt an image.

    The range [0, 1] is not checked here: it would read the tensor back from the device at every update.

    Raises:
        ContractError: names the reward, what was expected and what came.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ContractError(reward, "measure", expected="images (B, 3, H, W) float in [0, 1]",
                            got=f"{tuple(images.shape)} {images.dtype}")  # fmt: skip
    if len(prompts) != images.shape[0]:
        raise ContractError(reward, "measure", expected="one prompt for each image",
                            got=f"{len(prompts)} prompts for {images.shape[0]} images")  # fmt: skip
