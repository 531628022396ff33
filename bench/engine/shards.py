"""Evaluation images by several processes: each makes and looks at a slice of every folder's, beside the run's worker.

An image depends on no other, and what networks say of it neither. A slice holds whole batches, as a batch's composition
is part of its bits. Who makes a slice needs neither the run's lock nor its fence: it adds files that are missing, to
image folders and to the cache, and replaces none. The worker counts what is there in the end and makes the rest itself,
so a process that was killed, or never came, costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import UserError
from bench.engine.ranks import DEAF, WORKER
from bench.metrics.images import FEATURE_BATCH
from bench.store import meeting

BATCH = 32
"""Images made at once. Part of the bits on CPU: a batch is made whole or not at all, so that resuming changes
nothing."""
BLOCK = math.lcm(BATCH, FEATURE_BATCH)
"""Images that a slice is a multiple of: whole batches of those that are made and of those that are scored."""

POLL_S = 0.2


@dataclass(frozen=True)
class Shard:
    """Slice ``number`` (from 0) of ``of``; the default is everything."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``2/4`` is the third of four. Raises UserError for anything that is none."""
        number, _, of = text.partition("/")
        if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
            raise UserError(f"--shard {text!r}", valid="K/N with K from 0 to N - 1", hint="--shard 0/2")
        return cls(int(number), int(of))

    def images(self, n_images: int, batch: int) -> range:
        """Its places in an index of ``n_images``: whole batches in a row; the slices differ by one batch at most."""
        n = -(-n_images // batch)
        lo, hi = self.number * n // self.of, (self.number + 1) * n // self.of
        return range(lo * batch, min(hi * batch, n_images))

    def title(self, what: str) -> str:
        return what if self.of == 1 else f"{what}, part {self.number + 1} of {self.of}"


@contextlib.contextmanager
def helpers(folder: Path, n: int, say: Callable[[str], None]) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Starts processes for slices 1 .. n-1 of the run in ``folder``, or calls those that a cluster started elsewhere.

    Yields:
        What waits until all are over, calling its argument meanwhile. Processes of this machine that are still at
        work when the block ends are ended: every file that they wrote is whole.
    """
    where = meeting.place()
    if where is not None:
        yield _elsewhere(where, n)
        return
    command = [*DEAF, sys.executable, "-m", WORKER, str(folder), "--stage", "evaluate", "--quiet"]
    children = [
        subprocess.Popen([*command, "--shard", f"{k}/{n}", "--local-rank", str(k), "--parent", str(os.getpid())])
        for k in range(1, n)
    ]

    def wait(stop: Callable[[], None]) -> None:
        while any(child.poll() is None for child in children):
            stop()
            time.sleep(POLL_S)
        for k, child in enumerate(children, start=2):
            if child.returncode:
                say(f"part {k} of {n} was left with exit code {child.returncode}: what it has not done is done here")

    try:
        yield wait
    finally:
        for child in children:
            child.kill()
            child.wait()


def _elsewhere(where: Path, n: int) -> Callable[[Callable[[], None]], None]:
    """The processes that wait on other nodes; those die with the job, so nobody here looks after them."""
    token = secrets.token_hex(4)
    size = int(os.environ["SLURM_NTASKS"])
    meeting.share_out(where, n, token)

    def wait(stop: Callable[[], None]) -> None:
        while not all(meeting.is_over(where, token, rank) for rank in range(1, size)):
            stop()
            time.sleep(POLL_S)

    return wait
