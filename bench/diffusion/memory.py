"""When a device's memory does not hold what was asked of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

Say = Callable[[str], None]


def is_out_of_memory(err: BaseException) -> bool:
    """Whether an allocation failed."""
    # torch raises a bare RuntimeError when the CPU's allocator fails
    return isinstance(err, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(err)


def free() -> None:
    """Gives back what nothing refers to any more. Call it after the ``except`` block: a traceback holds its tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass
class Fits:
    """How many images a device samples and decodes at once: halved where memory ran out, for as long as the model is
    loaded. Images then differ by rounding only."""

    sampled: int = 10**6
    decoded: int = 10**6

    def at_once(self, kind: str, n: int) -> int:
        """As many of ``n`` as fit."""
        return min(n, int(getattr(self, kind)))

    def halve(self, kind: str, n: int, say: Say) -> bool:
        """After ``n`` did not fit: half of them from now on; False where they were one."""
        if n < 2:
            return False
        setattr(self, kind, n // 2)
        say(f"out of memory with {n} images at once: from now on {n // 2} are {kind} at once")
        return True
