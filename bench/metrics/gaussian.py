"""Gaussians of feature sets: streaming sums that merge across processes, and the Fréchet distance of what they hold.

Everything is float64: float32 sums move an FID of 5,000 images by 1e-4. Symbols as in ``frechet``: X (n, d) features,
mu and S their mean and covariance (ddof 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SVD_ROWS = 512
"""Up to here singular values cost less than the eigenvalues of a product, and are exact for singular covariances."""


@dataclass(frozen=True)
class Moments:
    """Sums over a stream of features, shifted by the first batch's mean: large means would cancel digits."""

    n: int
    shift: Array
    """c, (d,)"""
    total: Array
    """sum of x - c, (d,)"""
    outer: Array
    """sum of (x - c) (x - c)^T, (d, d)"""

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Moments:
        """The sums of one batch (n, d)."""
        x: Array = np.asarray(features, np.float64)
        shift = x.mean(axis=0)
        return cls(len(x), shift, np.zeros(x.shape[1]), (x - shift).T @ (x - shift))

    def add(self, features: NDArray[np.floating]) -> Moments:
        """With another batch (n, d)."""
        x = np.asarray(features, np.float64) - self.shift
        return replace(self, n=self.n + len(x), total=self.total + x.sum(axis=0), outer=self.outer + x.T @ x)

    def merge(self, other: Moments) -> Moments:
        """The sums of both streams: x - c = (x - c') + (c' - c)."""
        if self.shift.shape != other.shift.shape:
            raise ValueError(f"features of {len(self.shift)} and {len(other.shift)} dimensions")
        step = other.shift - self.shift
        cross = np.outer(other.total, step)
        outer = other.outer + cross + cross.T + other.n * np.outer(step, step)
        return replace(self, n=self.n + other.n, total=self.total + other.total + other.n * step,
                       outer=self.outer + outer)  # fmt: skip

    def gaussian(self) -> Gaussian:
        """Raises ValueError below two rows, which have no covariance."""
        if self.n < 2:
            raise ValueError(f"a covariance needs two samples, got {self.n}")
        mean = self.total / self.n
        sigma = (self.outer - self.n * np.outer(mean, mean)) / (self.n - 1)
        return Gaussian(self.shift + mean, (sigma + sigma.T) / 2)


def moments(batches: Iterable[NDArray[np.floating]]) -> Moments:
    """The sums of a stream of batches (n, d). Raises ValueError for an empty stream."""
    found: Moments | None = None
    for batch in batches:
        found = Moments.of(batch) if found is None else found.add(batch)
    if found is None:
        raise ValueError("no features")
    return found


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance; the symmetric root of the covariance is made once, when it is first asked for."""

    mu: Array
    sigma: Array

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Gaussian:
        return Moments.of(features).gaussian()

    @cached_property
    def root(self) -> Array:
        """S^(1/2), symmetric, from eigenvalues cut at 0."""
        values, vectors = np.linalg.eigh(self.sigma)
        root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        return root

    @classmethod
    def with_root(cls, mu: Array, sigma: Array, root: Array) -> Gaussian:
        """With a root that was kept."""
        made = cls(mu, sigma)
        made.__dict__["root"] = root  # where cached_property looks
        return made


def frechet_to(x: NDArray[np.floating], other: Gaussian) -> float:
    """|mu_x - mu|^2 + Tr(S_x + S - 2 (S_x S)^(1/2)) of samples x (n, d) to a Gaussian, whose root serves every x.

    With S_x = A^T A the trace of the root is the sum of the singular values of A S^(1/2), or of the roots of the
    eigenvalues of A S A^T, (n, n), or of S^(1/2) S_x S^(1/2), (d, d): whichever is small.
    """
    if len(x) < 2:
        raise ValueError(f"a covariance needs two samples, got {len(x)}")
    x = x.astype(np.float64)
    mu = x.mean(axis=0)
    a: Array = (x - mu) / np.sqrt(len(x) - 1)
    if len(x) <= min(_SVD_ROWS, x.shape[1]):
        root_trace = float(np.linalg.svd(a @ other.root, compute_uv=False).sum())
    elif len(x) <= x.shape[1]:
        root_trace = _root_sum(a @ other.sigma @ a.T)
    else:
        half = a @ other.root
        root_trace = _root_sum(half.T @ half)
    shift = mu - other.mu
    return float(shift @ shift + np.square(a).sum() + np.trace(other.sigma) - 2 * root_trace)


def frechet(x: Gaussian, y: Gaussian) -> float:
    """The distance of two Gaussians of which no samples are left. The product of covariances is not symmetric, so its
    eigenvalues are taken from S_y^(1/2) S_x S_y^(1/2), which is."""
    shift = x.mu - y.mu
    root_trace = _root_sum(y.root @ x.sigma @ y.root)
    return float(shift @ shift + np.trace(x.sigma) + np.trace(y.sigma) - 2 * root_trace)


def _root_sum(symmetric: Array) -> float:
    """Sum of the roots of the eigenvalues, those below 0 by rounding taken as 0."""
    return float(np.sqrt(np.linalg.eigvalsh(symmetric).clip(min=0)).sum())
