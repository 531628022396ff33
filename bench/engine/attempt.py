"""One attempt at a run: where it ran, what happened, how it ended; and where its results come from."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core.checkout import commit
from bench.core.record import AttemptEntry, Curve, Provenance
from bench.engine.devices import hardware
from bench.engine.plan import packages
from bench.store import atomic, jobs
from bench.store.fence import Fence, attempt_root
from bench.store.runs import RunFolder

N_CURVE_ROWS = 400
ROUNDING = 1e-9
"""Sums of seconds in another order differ by less."""


class Attempt:
    """``attempts/NNN``: env.json at the start, events.jsonl while it works, exit.json at the end.

    It holds the run's fence from its start to its end: see ``bench.store.fence``.
    """

    def __init__(self, folder: RunFolder, device: str, processes: int, micro_batch: int, stage: str) -> None:
        self.commit, self.dirty = commit()
        self.fence = Fence.claim(folder.root, {
            "started": jobs.now(), "host": socket.gethostname(), "pid": os.getpid(), "job_id": jobs.own_job(),
            "cluster": jobs.own_cluster(), "restarts": jobs.own_restarts(),
            "node": os.environ.get("SLURMD_NODENAME"), "stage": stage, "device": device, "hardware": hardware(device),
            "processes": processes, "micro_batch": micro_batch, "packages": packages(),
            "python": platform.python_version(), "commit": self.commit, "dirty": self.dirty,
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

    def other_code(self, folder: RunFolder, request: Mapping[str, Any]) -> list[str]:
        """What else than this attempt's code the run was planned with, or worked on before; one sentence each."""
        known = [("it was planned and submitted with", request.get("commit"))]
        before = attempt_root(folder.root, self.number - 1) / "env.json"
        if before.exists():
            known.append(("the attempt before it ran", atomic.read_json(before).get("commit")))
        mine = _short(self.commit) + (" with changes" if self.dirty else "")
        return [f"this attempt runs commit {mine}, and {what} {_short(other)}"
                for what, other in known if other and other != self.commit]  # fmt: skip

    def lose(self, work: Mapping[str, float]) -> None:
        """Notes work, by kind, that this attempt must do again; at once, as it may itself be killed."""
        booked = {kind: amount for kind, amount in work.items() if amount}
        if booked:
            self.event("lost", lost=booked)

    def lose_rest(self, all_lost: Mapping[str, float], folder: RunFolder) -> None:
        """``lose`` of what the run has lost by now and no earlier attempt noted: a checkpoint may be older than what
        the attempt before this one had booked."""
        noted: dict[str, float] = {}
        for entry in read_attempts(folder):
            if entry.number < self.number:
                noted = {kind: noted.get(kind, 0.0) + entry.lost.get(kind, 0.0) for kind in {*noted, *entry.lost}}
        rest = {kind: amount - noted.get(kind, 0.0) for kind, amount in all_lost.items()}
        self.lose({kind: amount for kind, amount in rest.items() if amount > ROUNDING})

    def end(self, exit: str) -> None:
        """Says how the attempt ended."""
        self._events.close()
        atomic.write_json(
            self.root / "exit.json", {"ended": jobs.now(), "exit": exit, **self.kept}
        )


def _short(commit: str | None) -> str:
    return commit[:12] if commit else "unknown (an installed copy)"


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
            device=env["device"], hardware=env.get("hardware", ""), exit=left.get("exit", "killed"),
            lost=_read_lost(root) or left.get("lost", {}), job_id=env.get("job_id"),
            token=env.get("token"), stage=env.get("stage", "all"), checkpoints=left.get("checkpoints"),
            checkpoint_s=left.get("checkpoint_s"),
        ))  # fmt: skip
    return entries


def tuned_on(folder: RunFolder) -> str:
    """The hardware of the attempts whose updates are in the result, as ``A + B`` where it is not all of one kind; what
    was noted by none or not by all is ``unknown``, "" where all are."""
    units = _units(folder)
    roots = {root for root, _ in units.values()} or set(sorted(folder.attempts.glob("[0-9]*"))[-1:])
    names = {_environment(root).get("hardware") or "unknown" for root in roots}
    return "" if names <= {"unknown"} else " + ".join(sorted(names))


def _environment(attempt: Path) -> dict[str, Any]:
    path = attempt / "env.json"
    return dict(atomic.read_json(path)) if path.exists() else {}


def _units(folder: RunFolder) -> dict[int, tuple[Path, dict[str, Any]]]:
    """Every unit of the result, with the attempt that did it; of a unit done twice the later one counts."""
    by_unit: dict[int, tuple[Path, dict[str, Any]]] = {}
    for root in sorted(folder.attempts.glob("[0-9]*")):
        done = list(read_units(root))
        if done:
            # what an older copy did beyond the checkpoint that this attempt began at is no part of the run
            by_unit = {k: found for k, found in by_unit.items() if k < done[0]["unit"]}
        by_unit |= {event["unit"]: (root, event) for event in done}
    return by_unit


def read_curve(folder: RunFolder) -> Curve:
    """Scalars of all units over all attempts (``_units``), thinned evenly."""
    found = _units(folder)
    units: list[dict[str, Any]] = []
    for k in sorted(found):
        event = found[k][1]
        spent = {kind: round(amount, 6) for kind, amount in event["spent"].items()}
        units.append({"unit": k, **spent, **event["scalars"]})
    if len(units) > N_CURVE_ROWS:
        step = (len(units) - 1) / (N_CURVE_ROWS - 1)
        units = [units[round(i * step)] for i in range(N_CURVE_ROWS)]
    columns = list(dict.fromkeys(key for unit in units for key in unit))
    return Curve(columns=columns, rows=[[unit.get(c) for c in columns] for unit in units])


def read_units(attempt: Path) -> Iterator[dict[str, Any]]:
    """The unit events of the attempt in folder ``attempt``, in order."""
    return _events(attempt, "unit")


def _read_lost(attempt: Path) -> dict[str, float]:
    """All work that the attempt noted to ``lose``, by kind."""
    found: dict[str, float] = {}
    for event in _events(attempt, "lost"):
        for kind, amount in event["lost"].items():
            found[kind] = found.get(kind, 0.0) + amount
    return found


def _events(attempt: Path, kind: str) -> Iterator[dict[str, Any]]:
    path = attempt / "events.jsonl"
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # the one line that a kill cut short
        if event["event"] == kind:
            yield event


def provenance(
    device: str, hardware: str, n_threads: int, command: str, world_size: int, micro_batch: int,
    execution: Mapping[str, Any] | None = None,
) -> Provenance:  # fmt: skip
    """Where the result comes from."""
    head, dirty = commit()
    return Provenance(
        commit=head, dirty=dirty, packages=packages(), python=platform.python_version(), platform=platform.platform(),
        device=device, hardware=hardware, n_threads=n_threads, world_size=world_size,
        micro_batch=micro_batch, command=command, execution=dict(execution or {}),
    )  # fmt: skip
