"""Which device ``--device`` means, asked before anything slow."""

from __future__ import annotations

import torch

from bench.core.errors import UserError


def find_device(name: str) -> str:
    """``auto`` as the device it stands for; other names as they are.

    Raises:
        UserError: no name of a device, or of one that this Python does not see.
    """
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if n_cuda else "cpu"
    if name == "cpu":
        return name
    kind, sign, number = name.partition(":")
    if kind != "cuda" or (sign and not number.isdigit()):
        raise UserError(f"--device {name!r} is no device", valid="cpu, cuda, cuda:N, auto")
    if not n_cuda:
        raise UserError(f"--device {name}: this Python sees no CUDA device", valid="cpu, auto", hint="--device cpu")
    if sign and int(number) >= n_cuda:
        raise UserError(f"--device {name}: this Python sees {n_cuda} CUDA devices",
                        valid=f"cuda:0 to cuda:{n_cuda - 1}")  # fmt: skip
    return name
