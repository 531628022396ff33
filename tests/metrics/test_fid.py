"""FID and KID: closed forms, agreement with scipy and torchmetrics, protocols, passports."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from metric_world import make_suite, picture
from PIL import Image
from scipy import linalg
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from bench.core.contract import Scene
from bench.core.errors import UserError
from bench.metrics import distances, inception
from bench.metrics.cache import stored
from bench.metrics.extractors import Extractor
from bench.metrics.fid import FID, KID, FIDClean
from bench.metrics.frechet import cluster_draws, frechet_distance, kernel_distance
from bench.metrics.protocols import PROTOCOLS, SIDE
from bench.tiny.reference import reference_images


def gaussian(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def textbook(x: np.ndarray, y: np.ndarray) -> float:
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root))


class Pooled(nn.Module):
    """A feature network in miniature: 12 numbers of 2 x 2 regions, the shape of what Inception is to torchmetrics."""

    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def uint8_images(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 100, (n, 3, 1, 1), generator=generator)
    return (low + torch.randint(0, 100, (n, 3, 8, 8), generator=generator)).to(torch.uint8)


# ---------------------------------------------------------------------------------------------------------- distances


@pytest.mark.parametrize(("n", "m"), [(60, 80), (300, 400)])
def test_frechet_is_the_textbook_formula(n: int, m: int) -> None:
    x, y = gaussian(n, 50, 0), gaussian(m, 50, 1)
    assert frechet_distance(x, y) == pytest.approx(textbook(x, y), rel=1e-8)


def test_both_forms_of_the_root_agree_where_both_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(40, 40, 0), gaussian(41, 40, 1)  # n <= d takes the low-rank form
    low_rank = frechet_distance(x, y)
    assert low_rank == pytest.approx(textbook(x, y), rel=1e-6)


def test_frechet_closed_forms() -> None:
    x = gaussian(200, 20, 0)
    shift = np.arange(20.0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9 * np.square(x).sum())
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift @ shift), rel=1e-9)
    centred = x - x.mean(axis=0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * float(np.trace(np.cov(x.T))), rel=1e-9)


def test_fewer_samples_than_dimensions() -> None:
    """Five samples in 100 dimensions: two lines at right angles have no common spread, so the traces add up."""
    x, y = np.zeros((5, 100)), np.zeros((5, 100))
    x[:, 0] = y[:, 1] = np.arange(5) - 2.0
    assert frechet_distance(x, y) == pytest.approx(2.5 + 2.5, rel=1e-12)
    with pytest.raises(ValueError, match="two samples"):
        frechet_distance(x[:1], y)


def test_torchmetrics_streaming_fid_is_ours() -> None:
    real, fake = uint8_images(300, 0), uint8_images(200, 1)
    theirs = FrechetInceptionDistance(feature=Pooled())
    for batch in real.split(64):
        theirs.update(batch, real=True)
    for batch in fake.split(64):
        theirs.update(batch, real=False)
    features = Pooled()
    ours = frechet_distance(features(real).numpy(), features(fake).numpy())
    assert theirs.compute().item() == pytest.approx(ours, rel=1e-3)


def test_torchmetrics_kid_over_the_whole_set_is_ours() -> None:
    real, fake = uint8_images(80, 0), uint8_images(80, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # features are kept: that is what KID needs
        theirs = KernelInceptionDistance(feature=Pooled(), subsets=1, subset_size=80)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    features = Pooled()
    ours = kernel_distance(features(real).numpy(), features(fake).numpy(), np.ones((1, 80)), np.ones((1, 80)))
    assert theirs.compute()[0].item() == pytest.approx(ours.value, rel=1e-3)


def test_kid_is_unbiased_and_its_interval_covers() -> None:
    """Twenty draws from one distribution: the estimates average to 0, and nearly all intervals hold 0."""
    rng = np.random.default_rng(0)
    results = []
    for i in range(20):
        x, y = rng.normal(size=(2, 60, 8))
        draws = [cluster_draws(tuple(map(str, range(60))), 200, np.random.default_rng(i + k)) for k in (0, 100)]
        results.append(kernel_distance(x, y, *draws))
    values = np.array([r.value for r in results])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(20)
    assert (values < 0).any()
    assert sum(r.ci_low <= 0 <= r.ci_high for r in results) >= 17


def test_kid_of_images_that_share_noise_is_unbiased_and_inside_its_interval() -> None:
    """Twenty draws of pairs that are nearly the same picture, two a prompt: the distributions are equal."""
    rng = np.random.default_rng(1)
    prompts = [str(i // 2) for i in range(60)]
    results = []
    for i in range(20):
        scene = np.repeat(rng.normal(size=(30, 8)), 2, axis=0)
        noise = rng.normal(size=(60, 8))
        x, y = (scene + noise + 0.1 * rng.normal(size=(60, 8)) for _ in "xy")
        draws = cluster_draws(tuple(prompts), 200, np.random.default_rng(i))
        results.append(kernel_distance(x, y, draws, draws, prompts))
    values = np.array([r.value for r in results])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(20)
    assert all(r.ci_low <= r.value <= r.ci_high for r in results)


def test_kid_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(50, 6, 0), gaussian(40, 6, 1)
    draws = cluster_draws(tuple("ab" * 25), 20, np.random.default_rng(0)), np.ones((20, 40))
    whole = kernel_distance(x, y, *draws)
    monkeypatch.setattr("bench.metrics.frechet._BLOCK", 7)
    blocks = kernel_distance(x, y, *draws)
    assert (blocks.value, blocks.ci_low) == pytest.approx((whole.value, whole.ci_low), rel=1e-12)


def test_cluster_draws_keep_prompts_together() -> None:
    draws = cluster_draws(("a", "a", "b", "c"), 100, np.random.default_rng(0))
    assert (draws[:, 0] == draws[:, 1]).all()
    assert (draws[:, [0, 2, 3]].sum(axis=1) == 3).all()


# ---------------------------------------------------------------------------------------------------------- protocols


def test_clean_is_pils_float_bicubic() -> None:
    pixels = picture(0, side=37)
    channels = [Image.fromarray(pixels[..., c].astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                for c in range(3)]  # fmt: skip
    expected = (np.clip(np.stack([np.asarray(c) for c in channels]), 0, 255) - 128) / 128
    ours = PROTOCOLS["clean"](torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()
    assert np.abs(ours - expected).max() < 1e-4


def test_torch_fidelity_reads_from_the_corner() -> None:
    """TensorFlow 1's rule on a ramp: pixel i of 299 reads position i * 13 / 299, the last stretch repeats the edge."""
    ramp = torch.arange(13, dtype=torch.uint8).repeat(1, 3, 13, 1)
    expected = np.minimum(np.arange(SIDE) * 13 / SIDE, 12)
    for images in (ramp, ramp.transpose(2, 3)):
        x = PROTOCOLS["torch-fidelity"](images)[0, 0] * 128 + 128
        line = x[5] if images is ramp else x[:, 5]
        assert np.abs(line.numpy() - expected).max() < 1e-4


def test_pytorch_fid_is_half_pixel_bilinear() -> None:
    pixels = picture(1, side=20)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    x = PROTOCOLS["pytorch-fid"](image)
    position = np.clip((np.arange(SIDE) + 0.5) * 20 / SIDE - 0.5, 0, 19)
    rows = np.stack([np.interp(position, np.arange(20), pixels[:, c, 0] / 255) for c in range(20)], axis=1)
    expected = np.stack([np.interp(position, np.arange(20), row) for row in rows])
    assert np.abs(x[0, 0].numpy() - (2 * expected - 1)).max() < 1e-5


@pytest.mark.parametrize("name", PROTOCOLS)
def test_at_the_networks_size_protocols_differ_in_scaling_only(name: str) -> None:
    image = torch.from_numpy(picture(2, side=SIDE)).permute(2, 0, 1)[None]
    assert (PROTOCOLS[name](image) - (image.float() / 127.5 - 1)).abs().max() < 0.008


# ------------------------------------------------------------------------------------------------------------ metrics


class FakeInception(nn.Module):
    """Stands in for the network: 4 x 4 region means of the prepared image."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


@pytest.fixture
def fake_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another network and another reference: everything around them is the real thing."""

    def reference_images(n: int, seed: int) -> Iterator[np.ndarray]:
        return (picture(1000 + i) for i in range(n))

    module = ModuleType("bench.tiny.reference")
    module.reference_images = reference_images  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.tiny.reference", module)
    monkeypatch.setattr(distances, "N_REFERENCE", 24)
    monkeypatch.setattr(inception, "load_inception", lambda device: FakeInception())


@pytest.mark.usefixtures("fake_world")
def test_fid_of_a_tuned_model(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(pictures=lambda i: picture(i, contrast=0.2))
    measured = {m.name: m for m in FID().score(scene)}
    assert set(measured) == {"fid", "fid-to-base"}
    result = measured["fid"]
    extractor = Extractor("pytorch-fid")
    features = [extractor(torch.cat(list(images.batches()))).numpy() for images in (scene.tuned, scene.base)]
    reference = extractor(torch.stack([torch.from_numpy(picture(1000 + i)).permute(2, 0, 1) for i in range(24)]))
    assert result.value == pytest.approx(frechet_distance(features[0], reference.numpy()), rel=1e-6)
    assert measured["fid-to-base"].value == pytest.approx(frechet_distance(*features), rel=1e-9)
    assert not result.higher_is_better
    assert result.n == 6
    assert any("equal n" in warning for warning in result.warnings)
    passport = dict(result.passport)
    assert passport["protocol"] == "pytorch-fid"
    assert passport["codec"] == "png"
    assert (passport["n"], passport["n_reference"]) == (6, 24)
    assert len(passport["reference"]) == len(passport["extractor"]) == 64
    assert passport["captions"] == "0" * 64


@pytest.mark.usefixtures("fake_world")
def test_the_base_has_no_distance_to_itself(make_scene: Callable[..., Scene]) -> None:
    assert [m.name for m in FID().score(make_scene(base_pictures=None))] == ["fid"]


@pytest.mark.usefixtures("fake_world")
def test_kid_has_an_interval(make_scene: Callable[..., Scene]) -> None:
    far = {m.name: m for m in KID().score(make_scene(pictures=lambda i: picture(i, contrast=0.1)))}
    assert set(far) == {"kid", "kid-to-base"}
    for result in far.values():
        assert result.ci_low is not None
        assert result.ci_low <= result.value <= result.ci_high
        assert not result.warnings


@pytest.mark.usefixtures("fake_world")
def test_protocols_are_columns_of_their_own(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    clean = FIDClean().score(scene)
    assert [m.name for m in clean] == ["fid/clean", "fid-to-base/clean"]
    assert clean[0].passport != FID().score(scene)[0].passport


@pytest.mark.usefixtures("fake_world")
def test_the_reference_is_computed_once(make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene()
    first = FID().score(scene)
    monkeypatch.setattr(FakeInception, "forward", lambda self, x: pytest.fail("computed again"))
    assert FID().score(scene) == first


@pytest.mark.usefixtures("fake_world")
def test_full_editions_take_a_folder_or_drift_alone(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(distances.REFERENCE_VARIABLE, raising=False)
    scene = make_scene(suite=make_suite(edition="full"))
    assert [m.name for m in FID().score(scene)] == ["fid-to-base"]
    photographs = tmp_path / "photographs"
    (photographs / "val").mkdir(parents=True)
    monkeypatch.setenv(distances.REFERENCE_VARIABLE, str(photographs))
    with pytest.raises(UserError, match="no pictures"):
        FID().score(scene)
    for i in range(3):
        Image.fromarray(picture(i, side=20 + i)).save(photographs / "val" / f"{i}.png")
    measured = FID().score(scene)
    assert [m.name for m in measured] == ["fid", "fid-to-base"]
    assert measured[0].passport["reference_name"] == "photographs"
    assert measured[0].passport["n_reference"] == 3
    (photographs / "val" / "3.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 of 4 pictures cannot be decoded: .*3\.jpg"):
        FID().score(scene)


def test_the_shipped_reference_is_of_todays_renders() -> None:
    """Fails when the renderer has changed: make the file anew as ``distances.SHIPPED`` says."""
    assert list(distances.SHIPPED.glob("*.npz"))
    pictures = np.stack(list(reference_images(distances.N_REFERENCE, distances.REFERENCE_SEED)))
    name = f"inception-{inception.SHA256[:16]}-pytorch-fid"
    features = stored(distances.SHIPPED, {"content": hashlib.sha256(pictures.tobytes()).hexdigest(), "network": name})
    assert features is not None
    assert features.shape == (256, 2048)


def test_the_extractor_runs_the_real_network(make_scene: Callable[..., Scene]) -> None:
    try:
        extractor = Extractor("pytorch-fid")
    except UserError as err:
        pytest.skip(err.problem)
    images = torch.stack([torch.from_numpy(picture(i, side=64)).permute(2, 0, 1) for i in range(3)])
    with torch.no_grad():
        together = extractor(images)
        alone = torch.cat([extractor(image[None]) for image in images])
    assert together.shape == (3, extractor.num_features)
    assert (together - alone).abs().max() < 1e-4
    assert (together >= 0).all()
