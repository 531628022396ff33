"""How a picture becomes Inception's input: the named protocols of the packages that FID numbers come from.

On the same pictures and weights they differ by up to 4 % (research/metrics.md B.1), so the protocol is part of a
value's passport and values of different protocols share no column. FID's take (B, 3, H, W) uint8 to (B, 3, 299, 299).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 299


def pytorch_fid(images: Tensor) -> Tensor:
    """pytorch-fid 0.3.0: bilinear with half-pixel centres, no antialiasing, 2 x - 1."""
    x = images.float() / 255
    return 2 * F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def torch_fidelity(images: Tensor) -> Tensor:
    """torch-fidelity 0.4.0: TensorFlow 1's bilinear (pixel i reads from i * in / out), no antialiasing, x / 128 - 1."""
    x = images.float()
    for dim in (-2, -1):
        n = x.shape[dim]
        source = torch.arange(SIDE, device=x.device, dtype=torch.float32) * (n / SIDE)
        low = source.floor().long()
        share = (source - low).view(-1, 1) if dim == -2 else source - low
        x = x.index_select(dim, low).lerp(x.index_select(dim, (low + 1).clamp_max(n - 1)), share)
    return (x - 128) / 128


def clean(images: Tensor) -> Tensor:
    """clean-fid 0.1.35 "clean": PIL's antialiased bicubic on float pixels, cut to 0..255, not rounded, x / 128 - 1."""
    x = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
    return (x.clamp(0, 255) - 128) / 128


def dinov2(images: Tensor) -> Tensor:
    """dgm-eval's: PIL's antialiased bicubic to 224 x 224 without a crop, then ImageNet's mean and deviation.

    8-bit bicubic of torch is PIL's to two grey levels; it exists on the CPU only, where the result stays.
    """
    pixels = F.interpolate(images.cpu(), size=(224, 224), mode="bicubic", antialias=True, align_corners=False)
    return _normalised(pixels.float() / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def cmmd(images: Tensor, side: int = 336) -> Tensor:
    """CMMD's: bicubic to ``side`` squared without antialias or crop, on floats, then CLIP's mean and deviation."""
    x = F.interpolate(images.float() / 255, size=(side, side), mode="bicubic", align_corners=False)
    return _normalised(x, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)


PROTOCOLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "pytorch-fid": pytorch_fid,
    "torch-fidelity": torch_fidelity,
    "clean": clean,
}
"""FID's."""
