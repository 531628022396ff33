"""``attempts/NNN/log.txt``: everything an attempt prints, whoever started it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bench.store.runs import RunFolder

LOG = "log.txt"
_TEE = 'trap "" INT TERM HUP USR1 USR2; exec tee -a "$0"'
"""A process of its own, deaf to signals: it writes down what a worker said before it was killed."""


@contextmanager
def logged(attempt: Path, *, redirect: bool) -> Iterator[tuple[TextIO, TextIO]]:
    """Keeps the output of this process, its children and its C libraries in the attempt's log.

    Args:
        redirect: False leaves standard output and error alone (a debugger on a terminal needs them); then only what
            is written to the log itself is kept.

    Yields:
        (log, screen): the log, and where standard error went before. What is for both is written to both.
    """
    path = attempt / LOG
    with path.open("a", encoding="utf-8", buffering=1) as log:
        if not redirect:
            yield log, sys.stderr
            return
        _flush()
        out, err = os.dup(1), os.dup(2)
        end, start = os.pipe()
        tee = subprocess.Popen(["/bin/sh", "-c", _TEE, str(path)], stdin=end, stdout=err, stderr=subprocess.DEVNULL)
        os.close(end)
        os.dup2(start, 1)
        os.dup2(start, 2)
        os.close(start)
        try:
            with os.fdopen(os.dup(err), "w", buffering=1) as screen:
                yield log, screen
        finally:
            _flush()
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.close(out)
            os.close(err)
            with contextlib.suppress(subprocess.TimeoutExpired):
                # a child that outlives this process holds the pipe open; the log is not worth waiting for it
                tee.wait(5.0)


def log_tail(folder: RunFolder, n_chars: int = 4000) -> str:
    """The end of what the newest attempt printed."""
    logs = sorted(folder.attempts.glob(f"[0-9]*/{LOG}"))
    return logs[-1].read_text("utf-8", errors="replace")[-n_chars:] if logs else ""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
