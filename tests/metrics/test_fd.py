"""FD-DINOv2 and CMMD on random networks of the published classes, found as published weights are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_world import make_suite, picture
from random_clip import save_random_clip
from random_networks import save_random_dinov2

from bench.core.contract import Scene
from bench.core.errors import UserError
from bench.core.judging import Judging
from bench.metrics.extractors import ClipVision, Dinov2, load_extractor
from bench.metrics.fd import CMMD, FDDinov2
from bench.metrics.frechet import biased_kernel_distance, frechet_distance, gaussian_kernel
from bench.metrics.requirements import absences


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "models"
    monkeypatch.setenv("TUNEBENCH_MODELS", str(root))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TUNEBENCH_OTHER_WEIGHTS", "dinov2-large,clip-l14-336")
    return root


def full(make_scene: Callable[..., Scene]) -> Scene:
    s = make_scene(suite=make_suite(edition="full"), pictures=lambda i: picture(i, contrast=0.3))
    return Scene(s.suite, s.tuned, s.base, "symmetry", "cpu", s.cache_dir, judging=Judging("published"))


def test_fd_dinov2_is_the_distance_of_class_tokens(make_scene: Callable[..., Scene], models: Path) -> None:
    save_random_dinov2(models / "dinov2-large")
    scene = full(make_scene)
    (result,) = FDDinov2().score(scene)
    assert result.name == "fd-to-base/dinov2-l14"
    network = load_extractor("dinov2-l14")
    assert isinstance(network, Dinov2)
    with torch.no_grad():
        a, b = (network(torch.cat(list(images.batches()))).numpy() for images in (scene.tuned, scene.base))
        pixels = network.prepare(next(iter(scene.tuned.batches(1))))
        token = network.network(pixel_values=pixels).last_hidden_state[:, 0]
    assert a.shape == (6, network.num_features)
    assert a[:1] == pytest.approx(token.numpy(), abs=1e-5)
    assert result.value == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert result.passport["extractor"] == network.sha256


def test_cmmd_is_in_float64_and_times_1000(make_scene: Callable[..., Scene], models: Path) -> None:
    save_random_clip(models / "clip-vit-large-patch14-336")
    scene = full(make_scene)
    (result,) = CMMD().score(scene)
    assert result.name == "cmmd-to-base/clip-l14-336"
    network = load_extractor("cmmd")
    assert isinstance(network, ClipVision)
    with torch.no_grad():
        a, b = (network(torch.cat(list(images.batches()))).double().numpy() for images in (scene.tuned, scene.base))
    assert np.linalg.norm(a, axis=1) == pytest.approx(np.ones(6), rel=1e-6)

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.exp(-np.square(x[:, None] - y[None]).sum(-1) / 200).mean())

    expected = 1000 * (mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b))
    assert result.value == pytest.approx(expected, rel=1e-4)
    # the wide kernel sees little but the means
    assert result.value == pytest.approx(10 * np.square(a.mean(0) - b.mean(0)).sum(), rel=0.02)


def test_the_biased_estimate_of_a_set_with_itself_is_zero() -> None:
    x = np.random.default_rng(0).normal(size=(40, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ones = np.ones((1, 40))
    assert biased_kernel_distance(x, x, ones, ones, gaussian_kernel(10)).value == pytest.approx(0, abs=1e-14)


def test_missing_weights_are_named_with_the_command(make_scene: Callable[..., Scene], models: Path) -> None:
    scene = full(make_scene)
    said = absences(["fd-dinov2", "cmmd"], scene.suite, scene.judging)
    assert any("fd-dinov2 is absent: dinov2-large" in s and "bench assets fetch dinov2-large" in s for s in said)
    assert any("cmmd is absent: clip-l14-336" in s and "bench assets fetch clip-l14-336" in s for s in said)
    assert any("bench refs build FOLDER --protocol dinov2-l14" in s for s in said)
    with pytest.raises(UserError) as err:
        FDDinov2().score(scene)
    assert err.value.hint == "bench assets fetch dinov2-large"
