"""Distances of image sets under newer networks than Inception, which agree better with people: FD-DINOv2 and CMMD."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.distances import SetDistance, features_of
from bench.metrics.fid import FID, bootstrap_draws
from bench.metrics.frechet import biased_kernel_distance, gaussian_kernel
from bench.metrics.layout import Layout
from bench.metrics.references import Reference
from bench.metrics.requirements import EXTRACTOR_PROTOCOLS

SIGMA = 10
"""Of CMMD's kernel: so wide on the unit sphere that CMMD is nearly 10 |difference of mean embeddings|^2."""
SCALE = 1000


class FDDinov2(FID):
    """Fréchet distance of DINOv2 ViT-L/14 features (Stein et al., arXiv 2306.04675); lower is better."""

    name = "fd-dinov2"
    protocol = "dinov2-l14"
    suffix = "/dinov2-l14"
    asset = EXTRACTOR_PROTOCOLS["dinov2-l14"]
    packages = ()

    def notes(self, n: int) -> tuple[str, ...]:
        return () if n >= 2048 else (f"a Fréchet distance of {n} images is above its limit: compare at equal n only",)


class CMMD(SetDistance):
    """CLIP maximum mean discrepancy x 1000 (Jayasumana et al., arXiv 2401.09603), in float64; lower is better."""

    name = "cmmd"
    protocol = "cmmd"
    suffix = "/clip-l14-336"
    asset = EXTRACTOR_PROTOCOLS["cmmd"]

    def distance(self, x: NDArray[np.float32], reference: Reference, at: Layout, paired: bool) -> dict[str, Any]:
        y = features_of(reference, self.name)
        found = biased_kernel_distance(x, y, *bootstrap_draws(x, y, at, paired), gaussian_kernel(SIGMA))
        return {"value": SCALE * found.value, "unit": "1000 * squared MMD",
                "detail": {"bootstrap": {"ci_low": SCALE * found.ci_low, "ci_high": SCALE * found.ci_high,
                                         "note": "biased upwards like every V-statistic"}}}  # fmt: skip
