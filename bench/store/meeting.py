"""Where the processes of a run meet that a cluster started on several nodes: a file that all of them can read.

Process 0 says in it where it listens, once for each of its attempts, when the images are to be shared out, and when it
needs nobody any more.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from bench.store import atomic

VARIABLE = "BENCH_MEETING"
"""In the environment: the file. Where it is not set, process 0 starts the others itself."""
LOCAL_VARIABLE = "BENCH_PROCESSES_HERE"
"""In the environment beside it: how many of the processes are on each node."""


@dataclass(frozen=True)
class Meeting:
    """What process 0 asks for."""

    host: str = ""
    port: int = 0
    """Where it listens for tuning; port 0: nothing is being tuned."""
    shards: int = 0
    """Into how many slices the images go; slice K is for process K."""
    token: str = ""
    """Of this sharing-out: another one follows where process 0 was started again."""

    @property
    def over(self) -> bool:
        return not (self.port or self.shards)


def place() -> Path | None:
    """The file, or None where process 0 starts the others."""
    found = os.environ.get(VARIABLE)
    return Path(found) if found else None


def announce(path: Path, port: int) -> None:
    """Process 0 listens on ``port`` of this node. Slurm names the address at which other nodes reach it."""
    host = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostname()
    atomic.write_json(path, {"host": host, "port": port})


def share_out(path: Path, shards: int, token: str) -> None:
    """Process 0 asks every process for its slice of the images."""
    atomic.write_json(path, {"shards": shards, "token": token})


def note_over(path: Path, token: str, rank: int) -> None:
    """Process ``rank`` has made its slice, or cannot."""
    atomic.write_json(_note(path, token, rank), {"rank": rank})


def is_over(path: Path, token: str, rank: int) -> bool:
    """Whether process ``rank`` said so."""
    return _note(path, token, rank).exists()


def _note(path: Path, token: str, rank: int) -> Path:
    return path.with_name(f"{path.stem}.{token}.{rank}.json")


def adjourn(path: Path) -> None:
    """Process 0 is over."""
    atomic.write_json(path, {})


def look(path: Path) -> Meeting | None:
    """What stands there; None while nobody has announced anything."""
    return Meeting(**atomic.read_json(path)) if path.exists() else None
