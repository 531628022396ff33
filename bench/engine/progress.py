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
        self._log: TextIO | None = None
        self._stage: Stage | None = None

    def write_to(self, log: TextIO | None, screen: TextIO) -> None:
        """From now on the same in plain lines to ``log`` too, and what is for the screen to ``screen``."""
        self._log, self._stream = log, screen

    def say(self, text: str) -> None:
        """One line about something that happened."""
        if not self._quiet:
            print(text, file=self._stream, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """The same for the log alone: what standard error is told elsewhere."""
        if self._log is not None:
            print(text, file=self._log, flush=True)

    def now(self) -> dict[str, Any] | None:
        """The stage in progress as plain figures; None between stages."""
        return None if self._stage is None else self._stage.figures()

    @contextmanager
    def stage(self, name: str, total: float, unit: str, *, done: float = 0.0) -> Iterator[Stage]:
        """A stretch of work of ``total`` ``unit``s, ``done`` of which are there already."""
        screen = None if self._quiet else self._stream
        stage = self._stage = Stage(name, total, unit, done, screen, self._log, self._every_s)
        try:
            with stage:
                yield stage
        finally:
            self._stage = None


class Stage:
    """Counts work and shows it. Rate and ETA are of this attempt only."""

    def __init__(
        self, name: str, total: float, unit: str, done: float, screen: TextIO | None, log: TextIO | None, every_s: float
    ) -> None:
        self.name, self.total, self.unit, self.count = name, total, unit, done
        self._first, self._every_s, self._info = done, every_s, ""
        self._inside = ("", 0, 0, 0.0)
        self._start = self._shown = time.monotonic()
        self._bar: Any = None
        if screen is not None and screen.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bar = Bars(
                TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn(),
                TextColumn("{task.fields[info]}"), TimeRemainingColumn(),
                console=Console(file=screen), transient=False,
            )  # fmt: skip
            screen = None
        self._streams = [stream for stream in (screen, log) if stream is not None]

    def __enter__(self) -> Stage:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=self.total, completed=self.count, info="")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            self._line(final=True)

    def advance_to(self, count: float, info: str = "") -> None:
        """Sets the work done so far; ``info`` is shown beside the rate."""
        self.count, self._info = count, info
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=count, info=f"{self._rate():,.3g} {self.unit}/s {info}")
        if now - self._shown >= self._every_s:
            self._shown = now
            self._line()

    def advance(self, n: float, info: str = "") -> None:
        """Adds ``n`` to the work done so far."""
        self.advance_to(self.count + n, info)

    def inside(self, what: str, n_done: int, n_all: int, unit: str) -> None:
        """Tells how far the one piece of work in progress is, which counts only when it is done."""
        doing, before, first, start = self._inside
        now = time.monotonic()
        if doing != what or n_done < before:  # a new piece, or a new pass of it
            first, start = n_done, now
        self._inside = (what, n_done, first, start)
        rate = (n_done - first) / max(now - start, 1e-9)
        timing = f", {rate:,.3g} {unit}/s, {(n_all - n_done) / rate:.0f} s to go" if rate else ""
        self.advance_to(self.count, f"{what}: {n_done:,}/{n_all:,} {unit}{timing}")

    def figures(self) -> dict[str, Any]:
        """``name, count, total, unit, rate_per_s, eta_s`` (None while unknown) and ``info``."""
        return {"name": self.name, "count": self.count, "total": self.total, "unit": self.unit, "info": self._info,
                "rate_per_s": self._rate(), "eta_s": self._eta_s()}  # fmt: skip

    def _rate(self) -> float:
        return (self.count - self._first) / max(time.monotonic() - self._start, 1e-9)

    def _eta_s(self) -> float | None:
        rate = self._rate()
        return max(0.0, self.total - self.count) / rate if rate > 0 else None

    def _line(self, *, final: bool = False) -> None:
        eta_s = self._eta_s()
        if final:
            tail = f"{time.monotonic() - self._start:.1f} s"
        else:
            tail = "ETA unknown" if eta_s is None else f"ETA {eta_s:.0f} s"
        share = 100 * self.count / self.total if self.total else 100
        for stream in self._streams:
            print(
                f"{self.name}: {self.count:,.0f}/{self.total:,.0f} {self.unit} ({share:.0f} %), "
                f"{self._rate():,.3g} {self.unit}/s, {tail}" + (f", {self._info}" if self._info and not final else ""),
                file=stream, flush=True,
            )  # fmt: skip
