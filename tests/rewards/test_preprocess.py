"""What happens to images before a network: parity with PIL, HPS's black borders, FDXL's shift."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from rewards.clip import Preprocess
from rewards.preprocess import CLIP_MEAN, CLIP_STD, Letterbox, Shifted, draws

CLIP_224 = Preprocess(224, 224, CLIP_MEAN, CLIP_STD)


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(1, 3, H, W) uint8 with what photographs have: soft fields, hard edges, texture."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(soft).astype(int)
    for _ in range(12):
        y, x = rng.integers(0, height), rng.integers(0, width)
        pixels[y : y + height // 6, x : x + width // 9] = rng.integers(0, 256, 3)
    pixels = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """Normalised pixels back to 0..255."""
    std, mean = (torch.tensor(v, dtype=pixels.dtype).view(3, 1, 1) for v in (CLIP_STD, CLIP_MEAN))
    return (pixels * std + mean) * 255


def by_pil(image: torch.Tensor) -> torch.Tensor:
    """CLIP's published path: PIL's bicubic, then the crop, in 8 bits."""
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    file = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    return levels(processor([file], return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize(("kind", "antialias", "most", "mean"), [
    ("noise", True, 0.0, 0.0), ("noise", False, 53.4, 0.184),
    ("photo", True, 8.2, 0.0007), ("photo", False, 19.4, 0.0045),
])  # fmt: skip
def test_what_cutting_the_overshoot_changes_in_hps_input(kind: str, antialias: bool, most: float, mean: float) -> None:
    """The table of docs/weights.md; torchvision's resize of float tensors is this interpolation, uncut."""
    noise = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    image = noise if kind == "noise" else photo(512, 512).float() / 255
    uncut = F.interpolate(image, size=(224, 224), mode="bicubic", antialias=antialias, align_corners=False)
    ours = levels(Letterbox(224, antialias=antialias)(image)) / 255
    off = (255 * (uncut - ours)).abs()
    assert off.max().item() == pytest.approx(most, abs=0.05)
    assert off.mean().item() == pytest.approx(mean, abs=5e-5 if mean < 0.01 else 5e-4)
    # nothing but the overshoot differs
    torch.testing.assert_close(ours, uncut.clamp(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(512, 512), (1024, 1024), (512, 768), (200, 180)])
def test_stored_images_are_pils_to_two_levels_and_float_ones_to_a_few(height: int, width: int) -> None:
    """The tolerances that the docs state: uint8 2 levels (0.02 on average), float 6 (0.5)."""
    image = photo(height, width)
    theirs = by_pil(image)
    stored = (levels(CLIP_224(image)) - theirs).abs()
    assert stored.max() <= 2.001
    assert stored.mean() < 0.02
    trained_on = (levels(CLIP_224(image.float() / 255)) - theirs).abs()
    assert trained_on.max() < 6
    assert trained_on.mean() < 0.5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_hps_on_a_square_is_clips_own_preprocessing(dtype: torch.dtype) -> None:
    image = photo(512, 512)
    image = image if dtype == torch.uint8 else image.float() / 255
    assert torch.equal(Letterbox(224)(image), CLIP_224(image))


@pytest.mark.parametrize(("height", "width", "inside"), [(300, 600, (56, 168, 0, 224)), (640, 320, (0, 224, 56, 168))])
def test_hps_puts_black_beside_what_is_not_square(height: int, width: int, inside: tuple[int, ...]) -> None:
    out = levels(Letterbox(224)(photo(height, width)))
    assert out.shape == (1, 3, 224, 224)
    top, bottom, left, right = inside
    border = torch.ones(224, 224, dtype=torch.bool)
    border[top:bottom, left:right] = False
    assert border.sum() == 224 * 112
    assert out[0, :, border].abs().max() < 1e-3
    resized = F.interpolate(photo(height, width), (bottom - top, right - left), mode="bicubic", antialias=True)
    torch.testing.assert_close(out[..., top:bottom, left:right], resized.float(), atol=1e-3, rtol=0)


def test_plain_resize_is_that_of_old_torchvision() -> None:
    """Without antialiasing: what a stride of pixels happens to hold."""
    image = photo(512, 512).float() / 255
    expected = F.interpolate(image, (224, 224), mode="bicubic", align_corners=False).clamp(0, 1) * 255
    torch.testing.assert_close(levels(Letterbox(224, antialias=False)(image)), expected, atol=1e-3, rtol=0)
    assert (levels(Letterbox(224)(image)) - expected).abs().max() > 20


# -- FDXL's shift


def test_the_shift_moves_the_image_by_its_draw_and_repeats_the_edge() -> None:
    images = torch.cat([photo(64, 64, seed) for seed in range(6)]).float() / 255
    small = Preprocess(64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    # a network of 16 pixels: 0..4; the identity behind it shows the moved image itself
    moved = Shifted(Letterbox(16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))

    class Shows(Preprocess):
        @property
        def input_px(self) -> int:
            return 16

    shown = Shifted(Shows(64, 64, small.mean, small.std))(images)
    for image, out, (down, right) in zip(images, shown, draws(images, 4), strict=True):
        assert torch.equal(out[:, down:, right:], image[:, : 64 - down, : 64 - right])
        assert torch.equal(out[:, :down, right:], image[:, :1, : 64 - right].expand(-1, down, -1))
    assert moved(images).shape == (6, 3, 16, 16)


def test_draws_are_even_and_of_the_image_alone() -> None:
    images = torch.rand(600, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = draws(images, 4)
    counts = Counter(value for pair in found for value in pair)
    assert set(counts) == set(range(5))
    chi2 = sum((n - 240) ** 2 / 240 for n in counts.values())
    assert chi2 < 18.5  # 0.1 % of even draws are above, with 4 degrees of freedom
    assert draws(images[5:7], 4) == found[5:7]
    assert draws(images.flip(0), 4) == found[::-1]


def test_the_gradient_goes_through_the_shift() -> None:
    preprocess = Shifted(Letterbox(16))
    x = (0.1 + 0.8 * torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(3))).double()
    weight = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    # the draw changes with the image: nudges too small to change its 8-bit values
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    base = (x * 255).round() / 255
    (gradient,) = torch.autograd.grad((preprocess(at := base.clone().requires_grad_()) * weight).sum(), at)
    up, down = ((preprocess(base + s * 1e-6 * way) * weight).sum() for s in (1, -1))
    assert (gradient * way).sum().item() == pytest.approx(((up - down) / 2e-6).item(), rel=1e-6)
