"""Whether the holder of a run still lives, as far as its run folder tells; and whose turn it is."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.store.fence import Stale, attempt_root, describe, read_fence
from bench.store.jobs import own_cluster, own_job, own_restarts
from bench.store.lock import exclusive

PULSE = "pulse.json"
BEAT_S = 10.0
"""Between two signs of life."""
SILENT_S = 6 * BEAT_S
"""Without a sign of life for that long, a holder whose job nobody knows counts as lost."""
WATCH_S = 2.5 * BEAT_S
"""How long a newcomer watches the pulse of a holder elsewhere; beats are counted, so that clocks need not agree."""
LOCK_WAIT_S = 3.0
"""A worker whose parent was just killed needs a moment to go."""


def read_pulse(attempt: Path) -> dict[str, Any] | None:
    """The last sign of life of the attempt in folder ``attempt``; None where there is none."""
    try:
        found: dict[str, Any] = json.loads((attempt / PULSE).read_text("utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return found


def silent_s(attempt: Path) -> float:
    """Seconds since the attempt's last sign of life, or since its start."""
    for name in (PULSE, "env.json"):
        path = attempt / name
        if path.exists():
            return max(0.0, time.time() - path.stat().st_mtime)
    return float("inf")


def has_ended(attempt: Path) -> bool:
    """Whether the attempt said so itself."""
    return (attempt / "exit.json").exists()


def process_is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and its process is no more; False where that cannot be told."""
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_zombie(holder["pid"])


def _is_zombie(pid: int) -> bool:
    """Dead, and not yet buried by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


@contextmanager
def turn(root: Path) -> Iterator[None]:
    """Holds the run folder ``root`` for this process, as far as locks reach; the fence does the rest.

    A job that Slurm requeued goes on at once: Slurm has given the older copy up, even if it lives on behind a network
    that broke; and what that copy may start again there does not. Elsewhere a holder whose pulse beats is left alone.

    Raises:
        UserError: another process works on the run; says which. ``Stale`` when Slurm has started this very job anew.
    """
    holder = read_fence(root)
    job, restarts = own_job(), own_restarts()
    same = holder is not None and job is not None and (holder["job_id"], holder["cluster"]) == (job, own_cluster())
    if holder is not None and same and holder["restarts"] > restarts:
        raise Stale(f"Slurm has started job {job} anew as {describe(holder)}: this copy of it is given up",
                    hint=f"bench logs {root.name}")  # fmt: skip
    again = holder is not None and same and holder["restarts"] < restarts
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(root / "lock", f"run {root.name}", wait_s=LOCK_WAIT_S))
        except UserError:
            if not again:
                raise
        if holder is not None and not again:
            _leave_alone_the_living(root, holder)
        yield


def _leave_alone_the_living(root: Path, holder: dict[str, Any]) -> None:
    attempt = attempt_root(root, holder["number"])
    if has_ended(attempt) or process_is_gone(holder) or silent_s(attempt) > SILENT_S:
        return
    first = read_pulse(attempt)
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if has_ended(attempt):
            return
        seen = read_pulse(attempt)
        if seen is not None and (first is None or seen["beat"] != first["beat"]):
            raise UserError(
                f"run {root.name} is being worked on by {describe(holder)}: it shows signs of life",
                valid="one process a run; both would write the same answer",
                hint=f"watch it: bench status; end it: bench cancel {root.name}",
            )
