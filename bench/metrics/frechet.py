"""Distances between two sets of features: Fréchet (FID) and unbiased kernel distance (KID), in float64.

Symbols: X (n, d) and Y (m, d) features; mu, S mean and covariance (ddof 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_BLOCK = 2048
"""Rows of a kernel block."""


def frechet_distance(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """|mu_x - mu_y|^2 + Tr(S_x + S_y - 2 (S_x S_y)^(1/2)) (Heusel et al., arXiv 1706.08500, eq. 6).

    The trace of the root is the sum of the singular values of A B^T, where S_x = A^T A and S_y = B^T B: exact, fast and
    stable for fewer samples than dimensions, where roots of the singular product S_x S_y lose digits. With more samples
    on both sides it is the sum of the roots of the eigenvalues of the symmetric S_x^(1/2) S_y S_x^(1/2).

    Args:
        x, y: (n, d) and (m, d) with at least two rows each.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs two samples on each side, got {len(x)} and {len(y)}")
    x, y = x.astype(np.float64), y.astype(np.float64)
    shift = x.mean(axis=0) - y.mean(axis=0)
    a = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    b = (y - y.mean(axis=0)) / np.sqrt(len(y) - 1)
    if min(len(x), len(y)) <= x.shape[1]:
        root_trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    else:
        root_trace = _root_trace(a.T @ a, b.T @ b)
    return float(shift @ shift + np.square(a).sum() + np.square(b).sum() - 2 * root_trace)


def _root_trace(sigma_x: Array, sigma_y: Array) -> float:
    """Tr (S_x S_y)^(1/2) of two covariances (d, d)."""
    values, vectors = np.linalg.eigh(sigma_x)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return float(np.sqrt(np.linalg.eigvalsh(root @ sigma_y @ root).clip(min=0)).sum())


@dataclass(frozen=True)
class KernelDistance:
    """KID with a bootstrap interval."""

    value: float
    ci_low: float
    ci_high: float


def kernel_distance(
    x: NDArray[np.floating], y: NDArray[np.floating], weights_x: Array, weights_y: Array
) -> KernelDistance:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (KID, Bińkowski et al., arXiv 1801.01401, section 4).

    One exact estimate over all pairs, where other packages average random subsets. A resample weighs samples by how
    often they were drawn; pairs of a sample with its own copy are left out, else resamples would be biased upwards.

    Args:
        x, y: (n, d) and (m, d) with at least two rows each.
        weights_x, weights_y: (n_boot, n) and (n_boot, m) draws of each sample in each resample.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"an unbiased estimate needs two samples on each side, got {len(x)} and {len(y)}")
    a: Array = x.astype(np.float64)
    b: Array = y.astype(np.float64)
    w_x = np.concatenate([np.ones((1, len(x))), weights_x])
    w_y = np.concatenate([np.ones((1, len(y))), weights_y])
    across = _pair_sums(a, b, w_x, w_y) / (w_x.sum(axis=1) * w_y.sum(axis=1))
    distances = _mean_within(a, w_x) + _mean_within(b, w_y) - 2 * across
    low, high = np.quantile(distances[1:], [0.025, 0.975])
    return KernelDistance(float(distances[0]), float(low), float(high))


def _mean_within(x: Array, weights: Array) -> Array:
    """Weighted mean of k over all pairs of different samples, (n_boot,)."""
    own = ((x * x).sum(axis=1) / x.shape[1] + 1) ** 3
    squares = np.square(weights)
    sums = _pair_sums(x, x, weights, weights) - squares @ own
    return np.asarray(sums / (np.square(weights.sum(axis=1)) - squares.sum(axis=1)), np.float64)


def _pair_sums(x: Array, y: Array, w_x: Array, w_y: Array) -> Array:
    """Sum of w_i w_j k(x_i, y_j) over all pairs, for each resample: (n_boot,); holds one block of k at a time."""
    total = np.zeros(len(w_x))
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        total += ((w_x[:, rows] @ kernel) * w_y).sum(axis=1)
    return total


def cluster_draws(clusters: tuple[str, ...], n_boot: int, rng: np.random.Generator) -> Array:
    """(n_boot, n) how often each sample is drawn when whole clusters are resampled."""
    labels, inverse = np.unique(np.asarray(clusters), return_inverse=True)
    draws = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=n_boot)
    return draws[:, inverse].astype(np.float64)
