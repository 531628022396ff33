"""What the cluster says of itself, asked once: partitions, limits, the queue."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.core.errors import UserError

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "sinfo")
ASK_S = 20.0
"""A controller that is away answers after 9 s."""
HERE = "--launcher local runs on this machine"


@dataclass(frozen=True)
class Partition:
    """One partition, as large as its largest node."""

    name: str
    default: bool
    memory_mb: int
    cpus: int
    gpus: int
    n_nodes: int
    max_min: int | None
    """Longest walltime in minutes; None: no limit."""


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster's limits."""

    name: str
    max_array: int
    """Tasks in one array."""
    max_jobs: int
    """Jobs that the controller keeps at once, an array's tasks each."""
    can_requeue: bool
    partitions: Mapping[str, Partition]

    @property
    def default(self) -> Partition | None:
        return next((p for p in self.partitions.values() if p.default), None)


def refuse_inside_a_job(env: Mapping[str, str] = os.environ) -> None:
    """Raises UserError in a job: what is submitted from there inherits its identity, loads its parent's work and
    submits again (submitit 1.5, issue 1782)."""
    job = env.get("SLURM_JOB_ID")
    if job:
        raise UserError(
            f"this shell is inside Slurm job {job}: jobs submitted from inside a job take over its identity",
            valid="a login node, outside of any job",
            hint="exit the job, or: env -u SLURM_JOB_ID -u SLURM_ARRAY_JOB_ID -u SLURM_ARRAY_TASK_ID bench run ...",
        )  # fmt: skip


def ask() -> ClusterFacts:
    """The cluster's facts, from two commands.

    Raises:
        UserError: Slurm's commands are not here, or its controller does not answer.
    """
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise UserError(f"this machine has no {', '.join(missing)}: it is no login node of a Slurm cluster",
                        valid="a machine where 'sbatch --version' works", hint=HERE)  # fmt: skip
    config = dict(re.findall(r"^(\w+)\s*= (.*)$", call("scontrol", "show", "config"), re.MULTILINE))
    return ClusterFacts(
        name=config.get("ClusterName", ""),
        max_array=max(1, int(config.get("MaxArraySize", 1))),
        max_jobs=int(config.get("MaxJobCount", 10_000)),
        can_requeue=config.get("JobRequeue", "1") == "1",
        # -a: a partition that is hidden takes jobs as any other
        partitions=_partitions(call("sinfo", "-a", "-h", "-o", "%P|%m|%c|%G|%l|%D")),
    )


def call(*command: str) -> str:
    """Standard output of a Slurm command. Raises UserError when the controller is away."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_S)
    except subprocess.TimeoutExpired:
        raise away(f"no answer to {command[0]} in {ASK_S:.0f} s") from None
    if done.returncode:
        raise away(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{command[0]} failed")
    return done.stdout


def away(why: str) -> UserError:
    """Slurm is installed and its controller does not answer."""
    return UserError(f"Slurm's controller does not answer: {why}", valid="nothing was submitted",
                     hint=f"scontrol ping, and the same command again when it is back; {HERE}")  # fmt: skip


@dataclass(frozen=True)
class QueuedJob:
    """A job that waits or runs."""

    state: str
    name: str


def active_jobs(user: str | None = None) -> dict[str, QueuedJob]:
    """The user's jobs that wait or run, by id (``12`` or ``12_3``): one call."""
    lines = call("squeue", "-h", "-r", "-u", user or getpass.getuser(), "-o", "%i|%T|%j").splitlines()
    rows = (line.strip().split("|", 2) for line in lines)
    return {job_id: QueuedJob(state, name) for job_id, state, name in rows}


def cancel_named(name: str) -> str:
    """Takes back the user's jobs of that name; what scancel says against it, empty where it did so, or found none."""
    command = ["scancel", "-u", getpass.getuser(), f"--name={name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_S)
    except (OSError, subprocess.TimeoutExpired) as err:
        return str(err)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def _partitions(lines: str) -> dict[str, Partition]:
    """From ``sinfo``, which prints a line for every kind of node that a partition has."""
    found: dict[str, Partition] = {}
    for line in lines.splitlines():
        title, memory, cpus, gres, limit, n = (cell.strip() for cell in line.split("|"))
        name = title.rstrip("*")
        part = Partition(
            name, title.endswith("*"), _number(memory), _number(cpus), _gpus(gres), int(n), _minutes(limit)
        )
        known = found.get(name)
        if known:
            part = Partition(
                name, part.default, max(part.memory_mb, known.memory_mb), max(part.cpus, known.cpus),
                max(part.gpus, known.gpus), part.n_nodes + known.n_nodes, part.max_min,
            )  # fmt: skip
        found[name] = part
    return found


def _number(text: str) -> int:
    """``4000+`` stands for nodes that differ."""
    return int(re.sub(r"\D", "", text) or 0)


def _gpus(gres: str) -> int:
    """GPUs of a node, from ``gpu:2`` or ``gpu:a100:4(S:0-1),shard:8``."""
    return sum(int(n) for n in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", gres))


def _minutes(limit: str) -> int | None:
    """Minutes of ``[days-]hours:minutes:seconds``; None for ``infinite``."""
    if limit in ("infinite", "n/a", "UNLIMITED"):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(p) for p in clock.split(":")]
    hours, minutes, _seconds = [0] * (3 - len(parts)) + parts
    return int(days or 0) * 1440 + hours * 60 + minutes


def unknown_partition(name: str, facts: ClusterFacts, key: str = "partition") -> UserError:
    """Names the partitions that exist."""
    import difflib

    close = difflib.get_close_matches(name, facts.partitions, n=1)
    hint = f"--set slurm.{key}={(close or [next(iter(facts.partitions), 'NAME')])[0]}"
    return UserError(f"cluster {facts.name} has no partition {name!r}", valid=_listed(facts.partitions), hint=hint)


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(names) or "none is open to you"
