"""Gradients through a float16 network: a reward's are 1e-5 and smaller, and below 6e-8 float16 holds none.

They are multiplied by a power of two where they enter the network backwards, and divided by it where they leave, at its
input and at the adapter's parameters: exact but for what would have been lost. bfloat16 has float32's range and needs
none of it. One constant, so that the parts of a sum over several calls stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

SCALE = 2.0**12
"""A cotangent of 1 still fits 16 times over. Losses so small that 4096 times their gradient is lost want bfloat16."""


class _Times(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.factor, None


def enter(out: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The prediction, in float32, of a network whose weights are ``dtype``: gradients go in from here."""
    return _times(out, SCALE) if dtype == torch.float16 else out


def leave(x_in: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Its input, in float32: gradients come out here."""
    return _times(x_in, 1 / SCALE) if dtype == torch.float16 else x_in


def unscale(parameters: Sequence[Any], dtype: torch.dtype) -> None:
    """Its adapter's parameters, in float32: gradients come out here too."""
    if dtype == torch.float16:
        for parameter in parameters:
            parameter.register_hook(lambda g: g / SCALE)


def _times(x: torch.Tensor, factor: float) -> torch.Tensor:
    function: Any = _Times  # torch leaves ``apply`` without types
    scaled: torch.Tensor = function.apply(x, factor)
    return scaled
