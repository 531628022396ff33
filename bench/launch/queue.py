"""What a Slurm cluster knows of jobs: one ``squeue`` for all of them, and one ``sacct`` for those it has forgotten."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field

from bench.store.state import ClusterJob

ASK_S = 30.0
"""A controller that is away lets a command wait 9 s before it says so."""
_SQUEUE = "%i|%T|%r|%N"


@dataclass
class Queue:
    """Jobs by id as ``squeue -r`` shows them (``12``, ``12_3``)."""

    jobs: dict[str, ClusterJob] = field(default_factory=dict)
    problem: str = ""
    """Why the cluster could not be asked, one sentence; empty when it answered."""
    n_calls: int = 0


def ask(ids: Collection[str]) -> Queue:
    """What the cluster says of jobs ``ids``; no call where there are none. Never raises: a cluster that is away is an
    answer too."""
    queue = Queue()
    if not ids:
        return queue
    if shutil.which("squeue") is None:
        queue.problem = "this machine has no squeue, so states are as the run folders tell"
        return queue
    # an array's number stands for all its tasks: a thousand runs make a short command
    bases = sorted({job_id.partition("_")[0] for job_id in ids}, key=lambda base: (len(base), base))
    done = _call(queue, "squeue", "-h", "-r", "-t", "all", "-o", _SQUEUE, "-j", ",".join(bases))
    # a single id that it does not know is an error to squeue, one among others is left out without a word
    if done is None or (done.returncode and "Invalid job id" not in done.stderr):
        why = "no answer" if done is None else (done.stderr.strip().splitlines() or ["squeue failed"])[-1]
        queue.problem = f"the cluster does not answer ({why}), so states are as the run folders tell"
        return queue
    wanted = set(ids)
    for line in done.stdout.splitlines():
        job_id, state, reason, nodes = line.strip().split("|", 3)
        if job_id in wanted:
            queue.jobs[job_id] = ClusterJob(job_id, state, "" if reason == "None" else reason, nodes)
    return queue


def ask_history(queue: Queue, ids: Collection[str], since: str) -> None:
    """Adds what accounting knows of jobs that are no longer in the queue; nothing where there is no accounting.

    Args:
        since: ISO 8601: a cluster that was set up anew has used the same numbers before.
    """
    if not ids or queue.problem or shutil.which("sacct") is None:
        return
    bases = sorted({job_id.partition("_")[0] for job_id in ids}, key=lambda base: (len(base), base))
    done = _call(queue, "sacct", "-n", "-X", "-P", "-S", since, "-o", "JobID,State,ExitCode,NodeList", "-j",
                 ",".join(bases))  # fmt: skip
    if done is None or done.returncode:
        return
    wanted = set(ids)
    for line in done.stdout.splitlines():
        job_id, state, code, nodes = line.split("|", 3)
        if job_id in wanted:
            exit_code = f"exit code {code}" if code not in ("", "0:0") else ""
            queue.jobs[job_id] = ClusterJob(job_id, state.split()[0], exit_code, nodes)


def _call(queue: Queue, *command: str) -> subprocess.CompletedProcess[str] | None:
    queue.n_calls += 1
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_S)
    except subprocess.TimeoutExpired:
        return None
