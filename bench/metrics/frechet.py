"""Distances between two sets of features: Fréchet (FID) and unbiased kernel distance (KID), in float64.

Symbols: X (n, d) and Y (m, d) features; mu, S mean and covariance (ddof 1).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    x: NDArray[np.floating], y: NDArray[np.floating], weights_x: Array, weights_y: Array,
    prompts: Sequence[str] | None = None,
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
        across = _mean(a, b, w_x, w_y, None, None)
        own_x, own_y = np.arange(len(a)), np.arange(len(b))
    else:
        own_x = own_y = np.unique(np.asarray(prompts), return_inverse=True)[1]
        if own_x.max() == 0:
            raise ValueError("an unbiased estimate needs two prompts")
        across = _mean(a, b, w_x, w_y, own_x, own_y)
    distances = _mean(a, a, w_x, w_x, own_x, own_x) + _mean(b, b, w_y, w_y, own_y, own_y) - 2 * across
    # of few prompts a resample may draw one alone, which has no pairs
    resamples = distances[1:][np.isfinite(distances[1:])]
    if not len(resamples):
        raise ValueError("every resample drew one sample alone: too few for an interval")
    low, high = np.quantile(resamples, [0.025, 0.975])
    return KernelDistance(float(distances[0]), float(low), float(high))


def _mean(
    x: Array, y: Array, w_x: Array, w_y: Array, own_x: NDArray[np.intp] | None, own_y: NDArray[np.intp] | None
) -> Array:
    """Weighted mean of k(x_i, y_j) over all pairs whose labels ``own`` differ, for each resample: (n_boot,). Holds one
    block of k at a time."""
    total = np.zeros(len(w_x))
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        if own_x is not None and own_y is not None:
            kernel[own_x[rows, None] == own_y] = 0
        total += ((w_x[:, rows] @ kernel) * w_y).sum(axis=1)
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
