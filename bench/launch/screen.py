"""The output of several workers at once: one line a run on a terminal, else plain lines that begin with the run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

from bench.core import exits

ENDINGS = {
    exits.DONE: "done", exits.FAILED: "failed", exits.USER: "stopped, see above", exits.STALE: "taken over",
    exits.REQUEUE: "interrupted", exits.INTERRUPTED: "interrupted",
}  # fmt: skip


class Screen:
    """Shows what workers print, on standard error.

    Args:
        names: of the runs.
        plain: one worker at a time: it has standard error for itself.
    """

    def __init__(self, names: Sequence[str], *, plain: bool) -> None:
        self._names = list(names)
        self.target = None if plain else subprocess.PIPE
        self._lock = threading.Lock()
        self._last: dict[int, str] = {}
        self._readers: list[threading.Thread] = []
        self._live: Any = None

    def __enter__(self) -> Screen:
        if self.target is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=sys.stderr), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for reader in self._readers:
            reader.join(5.0)
        if self._live is not None:
            self._live.stop()

    def follow(self, k: int, stream: IO[str] | None) -> None:
        """Shows what run ``k`` prints from now on, until its stream ends."""
        if stream is not None:
            self._readers.append(threading.Thread(target=self._read, args=(k, stream), daemon=True))
            self._readers[-1].start()

    def say(self, k: int, text: str) -> None:
        """One line about run ``k`` that stays."""
        with self._lock:
            self._print(f"{self._names[k]} | {text}")

    def over(self, k: int, code: int) -> None:
        """Run ``k`` has ended."""
        with self._lock:
            self._last.pop(k, None)
            if self.target is not None:
                self._print(f"{self._names[k]} | {ENDINGS.get(code, f'exit code {code}')}")
            self._draw()

    def _read(self, k: int, stream: IO[str]) -> None:
        # a stream that is closed under the reader belongs to a worker that was ended
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                with self._lock:
                    if self._live is None or line.startswith("error:"):
                        self._print(f"{self._names[k]} | {line.rstrip()}")
                    else:
                        self._last[k] = line.rstrip()
                        self._draw()
            stream.close()

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._live is not None:
            from rich.text import Text

            width = max(map(len, self._names))
            lines = [f"{self._names[k]:<{width}}  {line}" for k, line in sorted(self._last.items())]
            self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"))
