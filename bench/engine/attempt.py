"""One attempt at a run: where it ran, what happened, how it ended; and where its results come from."""

from __future__ import annotations

import functools
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core.record import AttemptEntry, Curve, Provenance
from bench.engine.plan import packages
from bench.store import atomic, jobs
from bench.store.fence import Fence
from bench.store.runs import RunFolder

N_CURVE_ROWS = 400


class Attempt:
    """``attempts/NNN``: env.json at the start, events.jsonl while it works, exit.json at the end.

    It holds the run's fence from its start to its end: see ``bench.store.fence``.
    """

    def __init__(self, folder: RunFolder, device: str, processes: int, micro_batch: int, stage: str) -> None:
        self.fence = Fence.claim(folder.root, {
            "started": jobs.now(), "host": socket.gethostname(), "pid": os.getpid(), "job_id": jobs.own_job(),
            "cluster": jobs.own_cluster(), "restarts": jobs.own_restarts(),
            "node": os.environ.get("SLURMD_NODENAME"), "stage": stage, "device": device, "processes": processes,
            "micro_batch": micro_batch, "packages": packages(), "python": platform.python_version(),
        })  # fmt: skip
        self.number, self.root = self.fence.number, self.fence.attempt
        self.kept: dict[str, float] = {}
        """``checkpoints`` and the seconds that they took, ``checkpoint_s``."""
        self._events = (self.root / "events.jsonl").open("a", encoding="utf-8")

    def event(self, kind: str, **facts: Any) -> None:
        """Appends one line; a line cut short by a kill is passed over when read."""
        self._events.write(json.dumps({"event": kind, **facts}, sort_keys=True, allow_nan=False) + "\n")
        self._events.flush()

    def warn(self, text: str) -> None:
        self.event("warning", text=text)

    def end(self, exit: str, lost: Mapping[str, float] | None = None) -> None:
        """Says how the attempt ended; ``lost`` is the work that it had to do again."""
        self._events.close()
        atomic.write_json(
            self.root / "exit.json", {"ended": jobs.now(), "exit": exit, "lost": dict(lost or {}), **self.kept}
        )


def read_attempts(folder: RunFolder) -> list[AttemptEntry]:
    """All attempts in order; one without exit.json was killed."""
    entries = []
    for root in sorted(folder.attempts.glob("[0-9]*")):
        if not (root / "env.json").exists():
            continue
        env = atomic.read_json(root / "env.json")
        left = atomic.read_json(root / "exit.json") if (root / "exit.json").exists() else {}
        entries.append(AttemptEntry(
            number=env["number"], started=env["started"], ended=left.get("ended"), host=env["host"],
            device=env["device"], exit=left.get("exit", "killed"),
            lost={k: v for k, v in left.get("lost", {}).items() if v}, job_id=env.get("job_id"),
            token=env.get("token"), stage=env.get("stage", "all"), checkpoints=left.get("checkpoints"),
            checkpoint_s=left.get("checkpoint_s"),
        ))  # fmt: skip
    return entries


def read_curve(folder: RunFolder) -> Curve:
    """Scalars of all units over all attempts; of a unit done twice the later one counts. Thinned evenly."""
    by_unit: dict[int, dict[str, Any]] = {}
    for root in sorted(folder.attempts.glob("[0-9]*")):
        done = list(read_units(root))
        if done:
            # what an older copy did beyond the checkpoint that this attempt began at is no part of the run
            by_unit = {k: row for k, row in by_unit.items() if k < done[0]["unit"]}
        for event in done:
            by_unit[event["unit"]] = {"unit": event["unit"], **event["spent"], **event["scalars"]}
    units = [by_unit[k] for k in sorted(by_unit)]
    if len(units) > N_CURVE_ROWS:
        step = (len(units) - 1) / (N_CURVE_ROWS - 1)
        units = [units[round(i * step)] for i in range(N_CURVE_ROWS)]
    columns = list(dict.fromkeys(key for unit in units for key in unit))
    return Curve(columns=columns, rows=[[unit.get(c) for c in columns] for unit in units])


def read_units(attempt: Path) -> Iterator[dict[str, Any]]:
    """The unit events of the attempt in folder ``attempt``, in order."""
    path = attempt / "events.jsonl"
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # the one line that a kill cut short
        if event["event"] == "unit":
            yield event


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """(commit, dirty) of the source tree that this package runs from; (None, None) for an installed copy."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None, None

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *args], capture_output=True, text=True, check=False, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return head, None if changes is None else bool(changes)


def provenance(
    device: str, n_threads: int, command: str, world_size: int, micro_batch: int,
    execution: Mapping[str, Any] | None = None,
) -> Provenance:  # fmt: skip
    """Where the result comes from."""
    head, dirty = commit()
    return Provenance(
        commit=head, dirty=dirty, packages=packages(), python=platform.python_version(), platform=platform.platform(),
        device=device, n_threads=n_threads, world_size=world_size, micro_batch=micro_batch, command=command,
        execution=dict(execution or {}),
    )  # fmt: skip
