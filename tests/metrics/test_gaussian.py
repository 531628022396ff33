"""Streaming sums and the Fréchet distance to kept statistics: the textbook's values, whatever the order of the work."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from bench.metrics.frechet import extrapolated, frechet_distance
from bench.metrics.gaussian import Gaussian, Moments, frechet, frechet_to, moments


def features(n: int, d: int, seed: int, mean: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + mean).astype(np.float32)


def textbook(x: np.ndarray, y: np.ndarray) -> float:
    """pytorch-fid's formula, root by scipy."""
    a, b = np.cov(x.T.astype(np.float64)), np.cov(y.T.astype(np.float64))
    shift = x.mean(0, np.float64) - y.mean(0, np.float64)
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b).real))


def test_streams_merge_to_the_whole() -> None:
    x = features(230, 20, 0, mean=50.0)
    one = moments(x[i : i + 32] for i in range(0, 230, 32))
    shards = [moments(x[part][i : i + 10] for i in range(0, len(x[part]), 10))
              for part in (slice(0, 70), slice(70, 75), slice(75, 230))]  # fmt: skip
    merged = shards[0].merge(shards[1]).merge(shards[2])
    backwards = shards[2].merge(shards[0].merge(shards[1]))
    for found in (one, merged, backwards):
        assert found.n == 230
        g = found.gaussian()
        assert g.mu == pytest.approx(x.mean(0, np.float64), rel=1e-12)
        assert np.abs(g.sigma - np.cov(x.T.astype(np.float64))).max() < 1e-12 * np.abs(g.sigma).max()


def test_the_shift_keeps_digits_that_plain_sums_lose() -> None:
    x = features(300, 8, 0).astype(np.float64) + 1e6
    g = moments(x[i : i + 50] for i in range(0, 300, 50)).gaussian()
    true = np.cov(x.T)
    plain = (x.T @ x - 300 * np.outer(x.mean(0), x.mean(0))) / 299
    assert np.abs(g.sigma - true).max() < 1e-9
    assert np.abs(plain - true).max() > 1e-5


def test_what_has_no_covariance_is_refused() -> None:
    with pytest.raises(ValueError, match="two samples"):
        Moments.of(np.ones((1, 3))).gaussian()
    with pytest.raises(ValueError, match="no features"):
        moments([])
    with pytest.raises(ValueError, match="dimensions"):
        Moments.of(np.ones((2, 3))).merge(Moments.of(np.ones((2, 4))))


@pytest.mark.parametrize("n", [30, 60, 100, 900])
def test_distance_to_kept_statistics_is_the_textbooks(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three forms: singular values, (n, n) eigenvalues, (d, d) eigenvalues."""
    monkeypatch.setattr("bench.metrics.gaussian._SVD_ROWS", 50)
    x, y = features(n, 100, 1), features(1200, 100, 2, mean=0.3)
    reference = Gaussian.of(y)
    expected = textbook(x, y)
    assert frechet_to(x, reference) == pytest.approx(expected, rel=2e-6)
    assert frechet(Gaussian.of(x), reference) == pytest.approx(expected, rel=1e-4 if n <= 100 else 1e-9)


def test_features_and_statistics_give_one_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(40, 64, 1), features(90, 64, 2)
    exact = frechet_distance(x, y)
    assert frechet_distance(y, x) == pytest.approx(exact, rel=1e-12)
    monkeypatch.setattr("bench.metrics.frechet._SVD_ROWS", 10)
    assert frechet_distance(x, y) == pytest.approx(exact, rel=1e-9)


def test_the_root_is_made_once_and_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    y = Gaussian.of(features(300, 30, 0))
    x = features(100, 30, 1)
    value = frechet_to(x, y)
    assert y.root @ y.root == pytest.approx(y.sigma, abs=1e-9)
    given = Gaussian.with_root(y.mu, y.sigma, y.root)
    monkeypatch.setattr(np.linalg, "eigh", lambda m: pytest.fail("a root was made again"))
    assert frechet_to(x, y) == value
    assert frechet_to(x, given) == value


def test_extrapolation_takes_most_of_the_bias_away() -> None:
    """Samples of the reference's own distribution: at infinite n the distance is 0."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(20_000, 24))
    x = rng.normal(size=(1000, 24))
    reference = Gaussian.of(y)
    limit, error = extrapolated(x, reference)
    biased = frechet_to(x, reference)
    assert biased > 0.1
    assert abs(limit) < 0.5 * biased
    assert 0 < error < biased
