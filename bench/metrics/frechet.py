"""Distances between two sets of features, Fréchet (FID) and by kernels (KID, CMMD), in float64.

Symbols: X (n, d) and Y (m, d) features; mu, S mean and covariance (ddof 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.metrics.gaussian import Gaussian, frechet_to

Array = NDArray[np.float64]
_BLOCK = 2048
"""Rows of a kernel block."""

_SVD_ROWS = 2048
"""Of the larger side: singular values of A B^T beyond cost more than a root of S_y."""


def frechet_distance(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """|mu_x - mu_y|^2 + Tr(S_x + S_y - 2 (S_x S_y)^(1/2)) (Heusel et al., arXiv 1706.08500, eq. 6).

    The trace of the root is the sum of the singular values of A B^T, where S_x = A^T A and S_y = B^T B: exact, fast and
    stable for fewer samples than dimensions, where roots of the singular product S_x S_y lose digits. With more samples
    the larger side is a Gaussian (``gaussian.frechet_to``).

    Args:
        x, y: (n, d) and (m, d) with at least two rows each.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs two samples on each side, got {len(x)} and {len(y)}")
    x, y = x.astype(np.float64), y.astype(np.float64)
    shift = x.mean(axis=0) - y.mean(axis=0)
    a = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    b = (y - y.mean(axis=0)) / np.sqrt(len(y) - 1)
    if len(y) < len(x):
        return frechet_distance(y, x)
    if len(x) <= x.shape[1] and len(y) <= _SVD_ROWS:
        root_trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
        return float(shift @ shift + np.square(a).sum() + np.square(b).sum() - 2 * root_trace)
    return frechet_to(x, Gaussian.of(y))


def extrapolated(x: NDArray[np.floating], other: Gaussian, n_sizes: int = 5) -> tuple[float, float]:
    """FID at infinitely many samples, and the standard error of the fit: a line through FID against 1 / n over
    sub-samples from half of x up to all of it (Chong & Forsyth, arXiv 1911.07023)."""
    rng = np.random.default_rng(0)
    sizes = np.linspace(len(x) / 2, len(x), n_sizes).astype(int)
    values = [frechet_to(x[rng.choice(len(x), n, replace=False)], other) for n in sizes]
    (_, intercept), cov = np.polyfit(1 / sizes, values, 1, cov=True)
    return float(intercept), float(np.sqrt(cov[1, 1]))


Kernel = Callable[[Array, Array], Array]
"""(n, d), (m, d) → (n, m)"""


def cubic(x: Array, y: Array) -> Array:
    """(x.y / d + 1)^3, KID's."""
    k: Array = (x @ y.T / x.shape[1] + 1) ** 3
    return k


def gaussian_kernel(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / (2 sigma^2)) of vectors of length 1, CMMD's with sigma = 10."""

    def kernel(x: Array, y: Array) -> Array:
        k: Array = np.exp((x @ y.T - 1) / sigma**2)
        return k

    return kernel


@dataclass(frozen=True)
class KernelDistance:
    """KID with a bootstrap interval."""

    value: float
    ci_low: float
    ci_high: float


def kernel_distance(
    x: NDArray[np.floating], y: NDArray[np.floating], weights_x: Array, weights_y: Array,
    prompts: Sequence[str] | None = None, kernel: Kernel = cubic,
) -> KernelDistance:  # fmt: skip
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (KID, Bińkowski et al., arXiv 1801.01401, section 4).

    One exact estimate over all pairs, where other packages average random subsets. A resample weighs samples by how
    often they were drawn; pairs of a sample with its own copy are left out, else resamples would be biased upwards.

    Args:
        x, y: (n, d) and (m, d) with at least two rows each.
        weights_x, weights_y: (n_boot, n) and (n_boot, m) draws of each sample in each resample.
        prompts: where row i of both sides shows the same prompt, its label, (n,). Rows of one prompt are no independent
            pair, so these are left out on all three sides: else the estimate falls below 0 and its resamples further.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"an unbiased estimate needs two samples on each side, got {len(x)} and {len(y)}")
    a: Array = x.astype(np.float64)
    b: Array = y.astype(np.float64)
    w_x = np.concatenate([np.ones((1, len(x))), weights_x])
    w_y = np.concatenate([np.ones((1, len(y))), weights_y])
    if prompts is None:
        across = _mean(a, b, w_x, w_y, None, None, kernel)
        own_x, own_y = np.arange(len(a)), np.arange(len(b))
    else:
        own_x = own_y = np.unique(np.asarray(prompts), return_inverse=True)[1]
        if own_x.max() == 0:
            raise ValueError("an unbiased estimate needs two prompts")
        across = _mean(a, b, w_x, w_y, own_x, own_y, kernel)
    within = _mean(a, a, w_x, w_x, own_x, own_x, kernel) + _mean(b, b, w_y, w_y, own_y, own_y, kernel)
    return _interval(within - 2 * across)


def biased_kernel_distance(
    x: NDArray[np.floating], y: NDArray[np.floating], weights_x: Array, weights_y: Array, kernel: Kernel
) -> KernelDistance:
    """The V-statistic of the squared MMD, every pair counted, an image with itself too; arguments as above."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    w_x = np.concatenate([np.ones((1, len(x))), weights_x])
    w_y = np.concatenate([np.ones((1, len(y))), weights_y])
    within = _mean(a, a, w_x, w_x, None, None, kernel) + _mean(b, b, w_y, w_y, None, None, kernel)
    return _interval(within - 2 * _mean(a, b, w_x, w_y, None, None, kernel))


def _interval(distances: Array) -> KernelDistance:
    """The first of the distances is of all samples, the others of resamples."""
    # of few prompts a resample may draw one alone, which has no pairs
    resamples = distances[1:][np.isfinite(distances[1:])]
    if not len(resamples):
        raise ValueError("every resample drew one sample alone: too few for an interval")
    low, high = np.quantile(resamples, [0.025, 0.975])
    return KernelDistance(float(distances[0]), float(low), float(high))


def _mean(
    x: Array, y: Array, w_x: Array, w_y: Array, own_x: NDArray[np.intp] | None, own_y: NDArray[np.intp] | None,
    kernel: Kernel,
) -> Array:  # fmt: skip
    """Weighted mean of k(x_i, y_j) over all pairs whose labels ``own`` differ, for each resample: (n_boot,). Holds one
    block of k at a time."""
    total = np.zeros(len(w_x))
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        k = kernel(x[rows], y)
        if own_x is not None and own_y is not None:
            k[own_x[rows, None] == own_y] = 0
        total += ((w_x[:, rows] @ k) * w_y).sum(axis=1)
    pairs = w_x.sum(axis=1) * w_y.sum(axis=1)
    if own_x is not None and own_y is not None:
        pairs = pairs - (_by_label(w_x, own_x) * _by_label(w_y, own_y)).sum(axis=1)
    mean: Array = np.divide(total, pairs, out=np.full(len(total), np.nan), where=pairs > 0)
    return mean


def _by_label(weights: Array, own: NDArray[np.intp]) -> Array:
    """(n_boot, labels): the weights of each label together."""
    order = np.argsort(own, kind="stable")
    starts = np.searchsorted(own[order], np.arange(own.max() + 1))
    return np.asarray(np.add.reduceat(weights[:, order], starts, axis=1), np.float64)


def cluster_draws(clusters: tuple[str, ...], n_boot: int, rng: np.random.Generator) -> Array:
    """(n_boot, n) how often each sample is drawn when whole clusters are resampled."""
    labels, inverse = np.unique(np.asarray(clusters), return_inverse=True)
    draws = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=n_boot)
    return draws[:, inverse].astype(np.float64)
