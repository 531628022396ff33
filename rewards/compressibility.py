"""JPEG compressibility (DRTune, Wu et al., arXiv 2405.00760, eq. 7) over a JPEG codec that gradients pass.

The codec follows ITU-T T.81 and the JFIF conventions as libjpeg runs them: full-range BT.601 YCbCr, chroma averaged 2x2
and interpolated back with the triangle filter, 8x8 DCT, the quantisation tables of T.81 Annex K scaled by quality.
Entropy coding loses nothing and is left out. Symbols: ``d`` distance of a quantised coefficient to its nearest integer.

The paper states neither quality nor pixel range, and its costs (0.0038 to 0.0097 after tuning) tell neither: they are
those of ordinary pictures at quality 5 with pixels in [0, 1], or at about 20 with pixels in [-1, 1], which multiplies
the cost by 4. Here the quality is in the name, the range in the unit.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from bench.core.contract import Reward
from bench.core.errors import UserError
from rewards.check import check_images

QUALITY = 10
"""libjpeg quality, 1..100. The paper does not state its own; together with the range it sets the scale of the cost."""
FILE_QUALITY = 95
"""Of the file whose size is told; DDPO's."""

LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""ITU-T T.81, table K.1; row = vertical frequency."""

CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
"""ITU-T T.81, table K.2."""

RGB_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
"""JFIF 1.02; Cb and Cr are centred on 0 here, which is the level shift of the DCT."""

YCBCR_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


class Compressibility(Reward):
    """Mean squared error of a JPEG round trip, pixels in [0, 1], quality 10 by default; lower is better (DRTune eq. 7).

    Its parts are what a real encoder, libjpeg, says of the same images rounded to 8 bits: the error at the same
    quality, and the size of the file at quality 95 in kB of 1000 bytes, the compressibility of DDPO (arXiv 2305.13301).
    A tuner that lowers the measure and not these has found a gap of the surrogate.

    Args:
        device: not used: it has no weights and runs where the images are.
        quality: libjpeg's, 1..100.

    Raises:
        UserError: no such quality.
    """

    minimise = True
    family = "compressibility"
    value_range = (0.0, 1.0)
    part_names = ("libjpeg", f"kilobytes-q{FILE_QUALITY}")

    def __init__(self, device: str = "cpu", quality: int = QUALITY) -> None:
        if not 1 <= quality <= 100:
            raise UserError(f"compressibility: quality = {quality}", valid="libjpeg's, from 1 to 100")
        self.quality = quality
        self.name = f"compressibility-q{quality}"
        self.unit = f"mean squared error, JPEG quality {quality}, pixels in [0, 1]"

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        images = images.float()
        return (images - jpeg(images, self.quality)).square().mean(dim=(1, 2, 3))

    def measure_parts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        rows = [_libjpeg(image, self.quality) for image in (images.detach() * 255).round().clamp(0, 255).byte().cpu()]
        return torch.tensor(rows, dtype=torch.float32)

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "quality": self.quality, "pixels": "[0, 1]"}


def _libjpeg(image: torch.Tensor, quality: int) -> tuple[float, float]:
    """(error with pixels in [0, 1], kB at ``FILE_QUALITY``) of an image (3, H, W) uint8; 4:2:0, as the surrogate."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).numpy()
    picture, file = Image.fromarray(pixels), io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=2)
    with Image.open(file) as decoded:
        decoded.load()
        back = torch.frombuffer(bytearray(decoded.tobytes()), dtype=torch.uint8).view(pixels.shape)
    error = (image.permute(1, 2, 0).double() - back.double()).div(255).square().mean().item()
    size = io.BytesIO()
    picture.save(size, "JPEG", quality=FILE_QUALITY)
    return error, size.tell() / 1000


def jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    """A JPEG round trip (4:2:0) that gradients pass.

    Args:
        images: (B, 3, H, W) float in [0, 1]; H and W need not be multiples of 16, edges are repeated as libjpeg does.
        quality: libjpeg's quality, 1..100.

    Returns:
        (B, 3, H, W) in [0, 1], dtype of ``images``.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images * 255.0, (0, -width % 16, 0, -height % 16), mode="replicate")
    y, chroma = _to_ycbcr(padded)
    y = _quantise(y - 128.0, _table(LUMA_TABLE, quality, images)) + 128.0
    chroma = _quantise(F.avg_pool2d(chroma, 2), _table(CHROMA_TABLE, quality, images))
    # a decoder stores bytes: what leaves their range is cut before the next step
    y, chroma = y.clamp(0.0, 255.0), chroma.clamp(-128.0, 127.0)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("rc,bchw->brhw", images.new_tensor(YCBCR_TO_RGB), torch.cat([y, chroma], dim=1))
    return rgb[..., :height, :width].clamp(0.0, 255.0) / 255.0


def soft_round(x: torch.Tensor) -> torch.Tensor:
    """round(x) + d^5 with d = x - round(x): rounding with a slope.

    The quantisation error d - d^5 grows over all of |d| <= 1/2, like that of true rounding (which it undercuts by 6 %
    at most), so an optimiser finds the same optima, the quantisation levels. Smoother surrogates, x - sin(2 pi x) / 2pi
    among them, have no error half-way between two levels and reward being there. The cubic of Shin & Song (2017) has
    this form too, but its error is up to 25 % too small.
    """
    rounded = x.round()
    return rounded + (x - rounded) ** 5


def quantisation_table(base: Sequence[Sequence[int]], quality: int) -> tuple[tuple[int, ...], ...]:
    """A table of T.81 Annex K at a quality of 1..100 by libjpeg's rule; every entry in 1..255 (baseline).

    >>> quantisation_table(LUMA_TABLE, 50) == LUMA_TABLE
    True
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(tuple(min(max((entry * scale + 50) // 100, 1), 255) for entry in row) for row in base)


def _table(base: Sequence[Sequence[int]], quality: int, like: torch.Tensor) -> torch.Tensor:
    return like.new_tensor(quantisation_table(base, quality))


def _to_ycbcr(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 3, H, W) in 0..255 → Y (B, 1, H, W) in 0..255, CbCr (B, 2, H, W) centred on 0."""
    ycbcr = torch.einsum("yr,brhw->byhw", rgb.new_tensor(RGB_TO_YCBCR), rgb)
    return ycbcr[:, :1], ycbcr[:, 1:]


def _quantise(planes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """DCT of 8x8 blocks, division by the table, rounding, and back; planes (B, C, H, W), centred on 0."""
    b, c, h, w = planes.shape
    dct = planes.new_tensor(_dct_matrix())
    blocks = planes.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    coefficients = soft_round(dct @ blocks @ dct.T / table) * table
    return (dct.T @ coefficients @ dct).transpose(3, 4).reshape(b, c, h, w)


@functools.cache
def _dct_matrix() -> tuple[tuple[float, ...], ...]:
    """The orthonormal 8-point DCT-II, row = frequency; twice of it is T.81's FDCT exactly."""
    return tuple(
        tuple(math.sqrt((1 if k == 0 else 2) / 8) * math.cos(math.pi * (2 * n + 1) * k / 16) for n in range(8))
        for k in range(8)
    )
