"""How often something that costs time is worth doing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Says when the next time is due: rarely enough to stay below a share of all time, and no rarer than needed.

    Args:
        least_s: never more often than this.
        share: of wall-clock time that may go into it, at most; a save that takes 0.3 s at a share of 0.015 comes every
            20 s.
        growth: the interval grows to this share of the time that has passed, so that a kill costs at most that share
            of the work, and long runs do not press on a disk that many share.
        most_s: growth stops there.
    """

    def __init__(self, least_s: float, share: float, *, growth: float = 0.0, most_s: float = 60.0) -> None:
        self._least_s, self._share, self._growth, self._most_s = least_s, share, growth, most_s
        self._start = self._last = time.monotonic()
        self.cost_s = 0.0
        """Of the last time."""
        self.total_s = 0.0
        self.n = 0

    def interval_s(self, passed_s: float) -> float:
        """Seconds between the end of one time and the next, ``passed_s`` after the start."""
        wanted = max(self._least_s, min(self._growth * passed_s, self._most_s))
        return max(wanted, self.cost_s / self._share)

    def due(self) -> bool:
        now = time.monotonic()
        return now - self._last >= self.interval_s(now - self._start)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Around doing it."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic()
            self.cost_s = self._last - start
            self.total_s += self.cost_s
            self.n += 1
