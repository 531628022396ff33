"""What real JPEG files of the images weigh: the encoder's word beside the differentiable surrogate that tuners see."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.core.contract import Measured, Metric, Scene
from bench.core.paired import cluster_mean_ci
from bench.metrics.layout import layout

QUALITY = 95
"""DDPO's (Black et al., arXiv 2305.13301, section 5.1: file size at a fixed resolution)."""


class JPEGSize(Metric):
    """Mean size of the images as JPEG files of quality 95 with 4:2:0 chroma, in kB; lower compresses better."""

    name = "jpeg-size"
    higher_is_better = False

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        values = _measured(scene)[:, 0]
        mean = cluster_mean_ci(values, at.prompt_ids)
        height, width = next(iter(scene.tuned.batches(1))).shape[-2:]
        return [Measured(
            name=f"jpeg-size/q{QUALITY}", value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high,
            higher_is_better=False, n=at.n, unit="kB", per_image=tuple(map(float, values)), family="compressibility",
            passport={"quality": QUALITY, "chroma": "4:2:0", "resolution": f"{width}x{height}",
                      "captions": scene.suite.spec.prompt_hash, "n": at.n},
        )]  # fmt: skip

    def precompute(self, scene: Scene) -> None:
        _measured(scene)


def _measured(scene: Scene) -> NDArray[np.float32]:
    """(N, 1) kB"""
    return scene.tuned.features(f"jpeg-kB-q{QUALITY}-420-pillow", _sizes)


def _sizes(batch: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) uint8 → (B, 1) thousands of bytes."""
    sizes = []
    for image in batch.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
        sizes.append([len(file.getvalue()) / 1000])
    return torch.tensor(sizes)
