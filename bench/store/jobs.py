"""Jobs of a cluster as run folders know them: ``jobs/<id>.json``, one for each submission, written by the launcher.

A job id is what ``squeue -r`` shows: ``12``, or ``12_3`` for task 3 of an array.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bench.store import atomic


@dataclass(frozen=True)
class SubmittedJob:
    """One submission of a run, or of a stage of it."""

    job_id: str
    submitted: str
    """ISO 8601, UTC."""
    cluster: str = ""
    """Slurm's ClusterName."""
    stage: str = "all"
    """``tune`` · ``generate`` · ``evaluate`` · ``all``"""
    log: str = ""
    """Where the launcher keeps what the job prints before the worker starts; empty where it keeps nothing."""
    commit: str | None = None
    """Of the code that submitted it; None for an installed copy."""
    dirty: bool | None = None


def note_job(run: Path, job: SubmittedJob) -> None:
    """Keeps ``job`` in the run folder ``run``; before the command that submitted it returns."""
    atomic.write_json(run / "jobs" / f"{job.job_id}.json", asdict(job))


def note_cancelled(run: Path, job_id: str) -> None:
    """Keeps that a user took the job back: of a task that never began, Slurm itself keeps nothing."""
    atomic.write_json(run / "jobs" / f"{job_id}.cancelled", {"cancelled": now()})


def was_cancelled(run: Path, job_id: str) -> bool:
    """Whether ``note_cancelled`` was told so."""
    return (run / "jobs" / f"{job_id}.cancelled").exists()


def read_jobs(run: Path) -> list[SubmittedJob]:
    """Every job that was submitted for the run, oldest first."""
    known = {f.name for f in fields(SubmittedJob)}
    found = [
        SubmittedJob(**{key: value for key, value in atomic.read_json(path).items() if key in known})
        for path in (run / "jobs").glob("*.json")
    ]
    return sorted(found, key=lambda job: (job.submitted, [int(part) for part in re.findall(r"\d+", job.job_id)]))


def own_job(env: Mapping[str, str] = os.environ) -> str | None:
    """The id of the Slurm job that this process runs in, or None."""
    if "SLURM_ARRAY_JOB_ID" in env and "SLURM_ARRAY_TASK_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID")


def own_restarts(env: Mapping[str, str] = os.environ) -> int:
    """How often Slurm has put that job back into its queue."""
    return int(env.get("SLURM_RESTART_COUNT", "0"))


def own_cluster(env: Mapping[str, str] = os.environ) -> str:
    """The ClusterName of that job; empty outside of one."""
    return env.get("SLURM_CLUSTER_NAME", "")


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
