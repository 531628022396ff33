"""Where the processes of a run meet that a cluster started on several nodes: a file that all of them can read.

Process 0 says in it where it listens, once for each of its attempts, and when it needs nobody any more.
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
    """Where process 0 listens."""

    host: str
    port: int


def place() -> Path | None:
    """The file, or None where process 0 starts the others."""
    found = os.environ.get(VARIABLE)
    return Path(found) if found else None


def announce(path: Path, port: int) -> None:
    """Process 0 listens on ``port`` of this node. Slurm names the address at which other nodes reach it."""
    host = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostname()
    atomic.write_json(path, {"host": host, "port": port})


def adjourn(path: Path) -> None:
    """Process 0 is over."""
    atomic.write_json(path, {"host": "", "port": 0})


def look(path: Path) -> Meeting | None:
    """What stands there; None while nobody has announced anything. Port 0: process 0 is over."""
    return Meeting(**atomic.read_json(path)) if path.exists() else None
