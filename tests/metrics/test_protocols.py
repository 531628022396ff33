"""Each protocol's resize and scaling against an independent one: Pillow, or weights written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bench.metrics.protocols import clean, cmmd, dinov2, pytorch_fid, torch_fidelity

SIDE = 299


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes and some noise, as uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(3, 40) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(3, 40)) for _ in range(3)]
    return np.clip(128 + 90 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def linear_weights(n: int, corner: bool) -> np.ndarray:
    """(299, n): which pixels each output pixel mixes. ``corner``: TensorFlow 1's rule, else half-pixel centres."""
    weights = np.zeros((SIDE, n))
    for i in range(SIDE):
        source = i * n / SIDE if corner else max((i + 0.5) * n / SIDE - 0.5, 0.0)
        low = min(int(np.floor(source)), n - 1)
        high = min(low + 1, n - 1)
        weights[i, low] += 1 - (source - low)
        weights[i, high] += source - low
    return weights


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (200, 340), (299, 299)])
def test_bilinear_protocols_pixel_by_pixel(size: tuple[int, int]) -> None:
    image = photograph(*size)
    for corner, protocol, scale in ((False, pytorch_fid, lambda x: 2 * x / 255 - 1),
                                    (True, torch_fidelity, lambda x: x / 128 - 1)):  # fmt: skip
        rows, columns = linear_weights(size[0], corner), linear_weights(size[1], corner)
        expected = scale(np.einsum("ih,hwc,jw->cij", rows, image.astype(np.float64), columns, optimize=True))
        found = protocol(tensor(image))[0].numpy()
        assert found.shape == (3, SIDE, SIDE)
        assert np.abs(found - expected).max() < 2e-4  # float32 sources at 512 px: 0.02 grey levels


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (200, 340)])
def test_clean_is_pillows_float_bicubic(size: tuple[int, int]) -> None:
    image = photograph(*size)
    planes = [Image.fromarray(image[..., c].astype(np.float32)).resize((SIDE, SIDE), 3)
              for c in range(3)]  # fmt: skip
    expected = (np.clip(np.stack([np.asarray(p) for p in planes]), 0, 255) - 128) / 128
    assert np.abs(clean(tensor(image))[0].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(64, 64), (512, 512)])
def test_dinov2_is_pillows_bicubic_to_two_levels(size: tuple[int, int]) -> None:
    image = photograph(*size)
    pixels = np.asarray(Image.fromarray(image).resize((224, 224), 3), np.float64) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    difference = np.abs(dinov2(tensor(image))[0].permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= 2.01 / 255 / 0.224
    assert difference.mean() < 0.02 / 255 / 0.224


def test_cmmd_squashes_without_antialias_or_crop() -> None:
    """Halving: Keys' kernel (a = -0.75) half-way between pixels weighs four of them -3, 19, 19, -3 in 32nds."""
    image = photograph(672, 672)
    taps = np.array([-3, 19, 19, -3]) / 32
    x = image.astype(np.float64) / 255
    rows = sum(taps[k] * x[1 + k : 671 - 3 + k + 1 : 2][:333] for k in range(4))
    expected = sum(taps[k] * rows[:, 1 + k :: 2][:, :333] for k in range(4))
    std, mean = np.array([0.26862954, 0.26130258, 0.27577711]), np.array([0.48145466, 0.4578275, 0.40821073])
    found = cmmd(tensor(image))[0].permute(1, 2, 0).numpy() * std + mean
    assert np.abs(found[1:334, 1:334] - expected).max() < 1e-5
    assert cmmd(tensor(photograph(300, 600))).shape == (1, 3, 336, 336)


def test_protocols_disagree_as_measured() -> None:
    """Why they share no column: on an enlarged picture they differ by grey levels, not by rounding."""
    image = tensor(photograph(64, 64))
    a, b, c = pytorch_fid(image), torch_fidelity(image), clean(image)
    assert (a - b).abs().mean() > 1 / 255
    assert (a - c).abs().mean() > 1 / 255
    assert (b - c).abs().mean() > 1 / 255
