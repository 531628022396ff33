"""An endless sequence of the numbers 0..n-1: each epoch is a seeded shuffle of its own, without replacement."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Shuffle:
    """Position → number. The sequence follows from the generators alone, so nothing of it needs a checkpoint.

    Args:
        n: how many numbers there are.
        rng: the fresh generator of an epoch, such as ``lambda epoch: ctx.rng("my-order", epoch=epoch)``.
    """

    def __init__(self, n: int, rng: Callable[[int], torch.Generator]) -> None:
        self.n = n
        self._rng = rng
        self._epochs: dict[int, list[int]] = {}

    def __call__(self, position: int) -> int:
        epoch, place = divmod(position, self.n)
        if epoch not in self._epochs:
            # an update sees the end of one epoch and the start of the next, or many short ones
            self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1}
            self._epochs[epoch] = torch.randperm(self.n, generator=self._rng(epoch)).tolist()
        return self._epochs[epoch][place]
