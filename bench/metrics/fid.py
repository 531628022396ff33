"""FID and KID with the published Inception network, each value with the passport that it is comparable under."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bench.metrics.distances import SetDistance, features_of
from bench.metrics.frechet import cluster_draws, extrapolated, frechet_distance, kernel_distance
from bench.metrics.gaussian import frechet_to
from bench.metrics.layout import Layout
from bench.metrics.references import Reference
from bench.metrics.requirements import INCEPTION_PACKAGE

N_FOR_A_LOW_BIAS = 2048
N_TO_EXTRAPOLATE = 1000
"""Below, the bias is no line in 1 / n."""
N_BOOT = 1000


class FID(SetDistance):
    """Fréchet Inception distance, preprocessing of pytorch-fid (which RealignDiff cites); lower is better."""

    name = "fid"
    protocol = "pytorch-fid"
    packages: ClassVar[tuple[str, ...]] = (INCEPTION_PACKAGE,)

    def distance(self, x: NDArray[np.float32], reference: Reference, at: Layout, paired: bool) -> dict[str, Any]:
        y = reference.features
        if y is not None and len(y) <= N_FOR_A_LOW_BIAS:
            return {"value": frechet_distance(x, y)}
        detail = {}
        if len(x) >= N_TO_EXTRAPOLATE and not paired:
            limit, error = extrapolated(x, reference.gaussian)
            detail = {"at_infinite_n": {"value": limit, "standard_error": error}}
        return {"value": frechet_to(x, reference.gaussian), "detail": detail}

    def notes(self, n: int) -> tuple[str, ...]:
        if n >= N_FOR_A_LOW_BIAS:
            return ()
        return (
            f"FID of {n} images is far above its limit for many (same pictures: about 73 at n = 200, 229 at n = 25): "
            f"compare at equal n only, and see KID, which has no such bias",
        )


class FIDTorchFidelity(FID):
    """Fréchet Inception distance, preprocessing of torch-fidelity; lower is better."""

    name = "fid-torch-fidelity"
    protocol = "torch-fidelity"
    suffix = "/torch-fidelity"


class FIDClean(FID):
    """Fréchet Inception distance, preprocessing of clean-fid; lower is better."""

    name = "fid-clean"
    protocol = "clean"
    suffix = "/clean"


class KID(SetDistance):
    """Kernel Inception distance, one unbiased estimate over all images with a bootstrap interval; lower is better."""

    name = "kid"
    protocol = "pytorch-fid"
    packages = (INCEPTION_PACKAGE,)

    def distance(self, x: NDArray[np.float32], reference: Reference, at: Layout, paired: bool) -> dict[str, Any]:
        y = features_of(reference, self.name)
        draws = bootstrap_draws(x, y, at, paired)
        result = kernel_distance(x, y, *draws, at.prompt_ids if paired else None)
        return {"value": result.value, "ci_low": result.ci_low, "ci_high": result.ci_high}


def bootstrap_draws(
    x: NDArray[np.float32], y: NDArray[np.float32], at: Layout, paired: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each row is drawn in each resample: whole prompts of the samples, single pictures of the reference."""
    rng = np.random.default_rng(0)
    n_boot = N_BOOT if max(len(x), len(y)) <= 5000 else 200
    draws_x = cluster_draws(at.prompt_ids, n_boot, rng)
    return draws_x, draws_x if paired else cluster_draws(tuple(str(i) for i in range(len(y))), n_boot, rng)
