"""The processes that tune one run together: who does which samples, and what they tell each other.

One process is the general case with size 1. With several, every exchange is a vote as well: a process that failed takes
part with its failure, so that the others leave at the same point instead of waiting for it.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from bench.core.errors import Diverged, UserError


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a process failed, as it travels to the others."""

    kind: str
    """The exception's class."""
    message: str
    valid: str = ""
    hint: str = ""
    tail: str = ""

    @classmethod
    def of(cls, err: BaseException) -> Failure:
        tail = "".join(traceback.format_exception(err))[-4000:]
        if isinstance(err, UserError):
            return cls("UserError", err.problem, err.valid, err.hint, tail)
        return cls(type(err).__name__, str(err), tail=tail)


class ProcessFailed(Exception):
    """Another process failed and said why."""

    def __init__(self, rank: int, size: int, failure: Failure) -> None:
        super().__init__(f"process {rank + 1} of {size}: {failure.kind}: {failure.message}")
        self.rank = rank
        self.failure = failure

    def as_own(self) -> Exception:
        """The error that this process would have raised in the other's place."""
        f = self.failure
        if f.kind == "UserError":
            return UserError(f.message, valid=f.valid, hint=f.hint)
        return Diverged(f.message) if f.kind == "Diverged" else self


class ProcessLost(Exception):
    """Another process is gone without a word: killed, or its machine died."""


class Processes:
    """One process alone; what several do is said for each method.

    Draws are named by sample, so that the world size changes which process works on a sample and no draw.
    """

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> range:
        """This process's contiguous part of samples 0 .. n-1; the parts differ by at most one in length."""
        return range(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sums each tensor over all processes, in place and bit for bit the same everywhere: one flat bucket for each
        dtype and device, so that hundreds of small adapter gradients are one message."""
        if self.size == 1:
            return
        buckets: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for tensor in tensors:
            buckets.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        with torch.no_grad():
            for bucket in buckets.values():
                flat = torch.cat([t.reshape(-1) for t in bucket])
                self.sum_flat(flat)
                for t, part in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                    t.copy_(part.view_as(t))

    def sum_flat(self, flat: torch.Tensor) -> None:
        """Sums one flat tensor over all processes, in place."""

    def exchange(self, value: Any) -> list[Any]:
        """What each process says, in order of rank; all must take part.

        Raises:
            ProcessFailed: one of them failed instead.
            ProcessLost: one of them is gone.
        """
        return [value]

    def agree(self, value: Any) -> Any:
        """What process 0 says."""
        return self.exchange(value)[0]

    def fail(self, err: BaseException) -> None:
        """Tells the others at their next exchange that this process failed."""


class Together(Processes):
    """Processes joined by torch.distributed: gloo carries votes and CPU tensors, nccl what lies on GPUs.

    Args:
        control: a gloo group of all processes.
    """

    def __init__(self, rank: int, size: int, control: Any) -> None:
        self.rank = rank
        self.size = size
        self._control = control

    def sum_flat(self, flat: torch.Tensor) -> None:
        # a vote first: no process enters a GPU collective that another will never reach
        self.exchange(None)
        group = None if flat.is_cuda else self._control
        try:
            torch.distributed.all_reduce(flat, group=group)
        except RuntimeError as err:
            raise ProcessLost(str(err)) from err

    def exchange(self, value: Any) -> list[Any]:
        got = self._gather(value)
        for rank, said in enumerate(got):
            if isinstance(said, Failure):
                raise ProcessFailed(rank, self.size, said)
        return got

    def fail(self, err: BaseException) -> None:
        if not isinstance(err, (ProcessFailed, ProcessLost)):  # of those the others know
            try:
                self._gather(Failure.of(err))
            except ProcessLost:
                return

    def _gather(self, value: Any) -> list[Any]:
        got: list[Any] = [None] * self.size
        try:
            torch.distributed.all_gather_object(got, value, group=self._control)
        except RuntimeError as err:
            raise ProcessLost(str(err)) from err
        return got
