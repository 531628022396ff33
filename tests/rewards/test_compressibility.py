"""DRTune eq. 7: the differentiable codec against libjpeg, and its gradient."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bench.tiny.render import render
from bench.tiny.world import sample_scene
from rewards import compressibility
from rewards.compressibility import CHROMA_TABLE, LUMA_TABLE, Compressibility, jpeg, quantisation_table, soft_round


def libjpeg(pixels: np.ndarray, quality: int) -> tuple[np.ndarray, dict[int, list[int]]]:
    """(H, W, 3) uint8 through the real encoder and decoder (4:2:0), and the tables it used."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2)
    image = Image.open(file)
    assert hasattr(image, "quantization")
    return np.asarray(image), image.quantization


def natural(n: int, height: int, width: int) -> np.ndarray:
    """Pictures with the 1/f spectrum of photographs and correlated colours, (n, H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    side = max(height, width)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    planes = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, 3, side, side))) / np.maximum(frequency, 1 / side)).real
    grey = planes.mean(axis=1, keepdims=True)
    planes = grey + 0.4 * (planes - grey)
    planes = 128 + 50 * (planes - planes.mean((1, 2, 3), keepdims=True)) / planes.std((1, 2, 3), keepdims=True)
    return np.clip(planes, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)[:, :height, :width]


def tiny(n: int) -> np.ndarray:
    return np.stack([render(sample_scene(np.random.default_rng(i))) for i in range(n)])


def as_images(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255


PICTURES = {"natural": natural(4, 64, 64), "odd sides": natural(4, 75, 61), "tiny world": tiny(8)}


@pytest.mark.parametrize("quality", [5, 10, 20, 50, 80])
@pytest.mark.parametrize("kind", PICTURES)
def test_error_of_the_round_trip_equals_libjpeg(kind: str, quality: int) -> None:
    """Stated tolerance: 10 % for each image, 5 % for the mean of a set."""
    pixels = PICTURES[kind]
    images = as_images(pixels)
    ours = (images - jpeg(images, quality)).square().mean(dim=(1, 2, 3)).numpy()
    real = np.stack([libjpeg(p, quality)[0] for p in pixels]).astype(np.float64)
    theirs = ((pixels - real) ** 2).mean(axis=(1, 2, 3)) / 255**2
    assert np.abs(ours / theirs - 1).max() < 0.10
    assert abs(ours.mean() / theirs.mean() - 1) < 0.05


def test_with_hard_rounding_the_decoded_pixels_are_libjpegs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressibility, "soft_round", torch.round)
    pixels = PICTURES["natural"]
    ours = jpeg(as_images(pixels), 20).permute(0, 2, 3, 1).numpy() * 255
    real = np.stack([libjpeg(p, 20)[0] for p in pixels])
    assert np.abs(ours - real).mean() < 2  # levels of 255; single coefficients fall to the other side of a half


@pytest.mark.parametrize("quality", [1, 10, 25, 49, 50, 75, 90, 100])
def test_quantisation_tables_are_libjpegs(quality: int) -> None:
    _, tables = libjpeg(np.zeros((16, 16, 3), np.uint8), quality)
    assert [entry for row in quantisation_table(LUMA_TABLE, quality) for entry in row] == list(tables[0])
    assert [entry for row in quantisation_table(CHROMA_TABLE, quality) for entry in row] == list(tables[1])


def test_flat_pictures_cost_next_to_nothing_and_noise_a_lot() -> None:
    flat = torch.full((1, 3, 64, 64), 0.5)
    grey_noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    reward = Compressibility()
    assert reward.measure(flat, [""]).item() < 1e-4
    assert reward.measure(grey_noise, [""]).item() > 0.03
    assert reward.score(flat, [""]) > reward.score(grey_noise, [""])
    assert reward.name == "compressibility-q10"


def test_the_parts_are_those_of_the_real_encoder() -> None:
    """Beside the surrogate: libjpeg's own error at the quality, and DDPO's size of the file."""
    pixels = PICTURES["natural"]
    reward = Compressibility(quality=20)
    parts = reward.measure_parts(as_images(pixels), [""] * len(pixels))
    real = np.stack([libjpeg(p, 20)[0] for p in pixels]).astype(np.float64)
    expected = ((pixels - real) ** 2).mean(axis=(1, 2, 3)) / 255**2
    np.testing.assert_allclose(parts[:, 0].numpy(), expected, rtol=1e-5)
    sizes = []
    for p in pixels:
        file = io.BytesIO()
        Image.fromarray(p).save(file, "JPEG", quality=95)
        sizes.append(len(file.getvalue()) / 1000)
    np.testing.assert_allclose(parts[:, 1].numpy(), sizes, rtol=1e-6)
    assert reward.part_names == ("libjpeg", "kilobytes-q95")
    assert parts.shape == (len(pixels), 2)


def test_quality_and_range_are_in_the_identity() -> None:
    reward = Compressibility(quality=5)
    assert reward.name == "compressibility-q5"
    assert reward.unit == "mean squared error, JPEG quality 5, pixels in [0, 1]"
    assert reward.identity() != Compressibility().identity()


def test_soft_rounding_error_grows_to_the_half_and_never_falls() -> None:
    x = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    error = (x - soft_round(x)).abs()
    assert (error[500:].diff() > 0).all()
    assert (error <= (x - x.round()).abs() + 1e-12).all()
    assert error[-1].item() == pytest.approx(0.5 - 0.5**5)


def test_gradient_equals_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    image = 0.2 + 0.6 * torch.rand(1, 3, 20, 18, generator=generator, dtype=torch.float64)
    direction = torch.randn(1, 3, 20, 18, generator=generator, dtype=torch.float64)

    def cost(x: torch.Tensor) -> torch.Tensor:
        return (x - jpeg(x, 20)).square().mean()

    image.requires_grad_()
    (gradient,) = torch.autograd.grad(cost(image), image)
    assert torch.isfinite(gradient).all()
    step = 1e-7
    with torch.no_grad():
        slope = (cost(image + step * direction) - cost(image - step * direction)).item() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4)


def test_descending_the_cost_makes_real_files_smaller() -> None:
    def n_bytes(images: torch.Tensor) -> int:
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        total = 0
        for picture in pixels:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "JPEG", quality=75)
            total += file.tell()
        return total

    images = as_images(PICTURES["natural"])
    before = n_bytes(images)
    reward = Compressibility()
    for _ in range(20):
        images.requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(images, [""] * len(images)).sum(), images)
        images = (images + 0.2 * images[0].numel() * gradient).detach().clamp(0, 1)
    assert n_bytes(images) < 0.8 * before
