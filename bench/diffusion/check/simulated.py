"""Processes simulated by threads of one process: as many as wanted, without a launcher, taking turns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from bench.diffusion.check.session import BrokenError
from bench.diffusion.processes import Processes


class Turns:
    """Processes simulated by threads of which one runs at a time, until it has to wait for what another says."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._running = threading.Condition()
        self._said: list[dict[int, Any]] = []
        self._ended: set[int] = set()

    def run(self, work: Callable[[Processes], None]) -> None:
        """``work`` in each process; raises the first error."""
        errors: list[BaseException] = []

        def one(rank: int) -> None:
            with self._running:
                try:
                    work(Simulated(rank, self))
                except BaseException as err:
                    errors.append(err)
                finally:
                    self._ended.add(rank)
                    self._running.notify_all()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def exchange(self, rank: int, k: int, value: Any) -> list[Any]:
        """The k-th thing that each process says, once all have said it."""
        while len(self._said) <= k:
            self._said.append({})
        said = self._said[k]
        said[rank] = value
        self._running.notify_all()
        while len(said) < self.size:
            if self._ended - said.keys():
                raise BrokenError(
                    "one of two processes ended while the other waited: they must all_reduce equally often"
                )
            self._running.wait()
        return [said[r] for r in range(self.size)]


class Simulated(Processes):
    def __init__(self, rank: int, turns: Turns) -> None:
        self.rank = rank
        self.size = turns.size
        self._turns = turns
        self._n_said = 0

    def exchange(self, value: Any) -> list[Any]:
        self._n_said += 1
        return self._turns.exchange(self.rank, self._n_said - 1, value)

    def sum_flat(self, flat: torch.Tensor) -> None:
        parts = self.exchange(flat.clone())
        if any(part.shape != flat.shape for part in parts):
            raise BrokenError("two processes all_reduce tensors of different sizes")
        flat.copy_(torch.stack(parts).sum(0))
