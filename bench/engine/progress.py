"""Progress of long work: a bar with rate and ETA on a terminal, plain lines otherwise. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """One stage at a time: ``with progress.stage("generate f100", 128, "images") as advance: advance(32)``."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 5.0, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._quiet = quiet
        self._terminal = self._stream.isatty() and not quiet

    def say(self, text: str) -> None:
        """One line about something that happened."""
        if not self._quiet:
            print(text, file=self._stream, flush=True)

    @contextmanager
    def stage(self, name: str, total: float, unit: str, *, done: float = 0.0) -> Iterator[Stage]:
        """A stretch of work of ``total`` ``unit``s, ``done`` of which are there already."""
        stage = Stage(name, total, unit, done, self._stream, self._every_s, terminal=self._terminal, quiet=self._quiet)
        with stage:
            yield stage


class Stage:
    """Counts work and shows it. Rate and ETA are of this attempt only."""

    def __init__(
        self,
        name: str,
        total: float,
        unit: str,
        done: float,
        stream: TextIO,
        every_s: float,
        *,
        terminal: bool,
        quiet: bool,
    ) -> None:
        self.name, self.total, self.unit, self.count = name, total, unit, done
        self._first, self._stream, self._every_s, self._quiet = done, stream, every_s, quiet
        self._start = self._shown = time.monotonic()
        self._bar: Any = None
        if terminal:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bar = Bars(
                TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn(),
                TextColumn("{task.fields[info]}"), TimeRemainingColumn(),
                console=Console(file=stream), transient=False,
            )  # fmt: skip

    def __enter__(self) -> Stage:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=self.total, completed=self.count, info="")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet and kind is None:
            self._line(final=True)

    def advance_to(self, count: float, info: str = "") -> None:
        """Sets the work done so far; ``info`` is shown beside the rate."""
        self.count = count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=count, info=f"{self._rate()} {info}")
        elif not self._quiet and now - self._shown >= self._every_s:
            self._shown = now
            self._line(info)

    def advance(self, n: float, info: str = "") -> None:
        """Adds ``n`` to the work done so far."""
        self.advance_to(self.count + n, info)

    def _rate(self) -> str:
        rate = (self.count - self._first) / max(time.monotonic() - self._start, 1e-9)
        return f"{rate:,.3g} {self.unit}/s"

    def _line(self, info: str = "", *, final: bool = False) -> None:
        seconds = time.monotonic() - self._start
        rate = (self.count - self._first) / max(seconds, 1e-9)
        if final:
            tail = f"{seconds:.1f} s"
        else:
            tail = f"ETA {max(0.0, self.total - self.count) / rate:.0f} s" if rate > 0 else "ETA unknown"
        share = 100 * self.count / self.total if self.total else 100
        print(
            f"{self.name}: {self.count:,.0f}/{self.total:,.0f} {self.unit} ({share:.0f} %), {self._rate()}, {tail}"
            + (f", {info}" if info else ""),
            file=self._stream, flush=True,
        )  # fmt: skip
