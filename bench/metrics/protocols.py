"""How a picture becomes Inception's input: the named protocols of the packages that FID numbers come from.

On the same pictures and weights they differ by up to 4 % (research/metrics.md B.1), so the protocol is part of a
value's passport and values of different protocols share no column. All take (B, 3, H, W) uint8 to (B, 3, 299, 299).
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


PROTOCOLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "pytorch-fid": pytorch_fid,
    "torch-fidelity": torch_fidelity,
    "clean": clean,
}
