"""The word after ``--device``: what it may be, and what it is on this machine."""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path

from bench.core.errors import UserError

_NAME = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_name(name: str) -> None:
    """Raises UserError for a word that is no device on any machine. Needs no torch."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--device {name!r} is no device", valid="cpu, cuda, cuda:N, auto", hint="--device auto")


def resolve(name: str) -> str:
    """The device on this machine: ``auto`` is the first GPU where there is one.

    Raises:
        UserError: a word that is no device, or a GPU that this Python does not see.
    """
    check_name(name)
    if name == "cpu":
        return name
    import torch

    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if n else "cpu"
    if int(name.partition(":")[2] or 0) >= n:
        raise UserError(f"--device {name}: this Python sees {n or 'no'} CUDA device{'' if n == 1 else 's'}",
                        valid=", ".join(("cpu", *(("cuda", *(f"cuda:{i}" for i in range(n))) if n else ()), "auto")),
                        hint="--device auto")  # fmt: skip
    return name


def hardware(device: str) -> str:
    """What computes, by its own name, such as ``NVIDIA H200``: device-seconds compare on equal hardware only."""
    if not device.startswith("cuda"):
        return _cpu()
    import torch

    return torch.cuda.get_device_name(device)


@functools.cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in names if name), platform.processor() or platform.machine())
