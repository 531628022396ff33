"""Arrays to sbatch through submitit, and what Slurm says when it refuses."""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from bench.core.checkout import commit
from bench.core.errors import UserError
from bench.launch import slurm_cluster, slurm_intent
from bench.launch.slurm_arrays import MAX_PREEMPTIONS, Array, Resources, choose_partition
from bench.launch.slurm_cluster import ClusterFacts
from bench.launch.slurm_refusals import refusal
from bench.launch.slurm_script import setup_lines, write_tasks
from bench.launch.slurm_settings import SlurmSettings, of_report
from bench.launch.slurm_task import ReportTask, RunTask
from bench.store import atomic
from bench.store.jobs import SubmittedJob, note_job, now

OURS = frozenset({"array", "output", "error", "open-mode", "requeue", "no-requeue", "signal", "time", "job-name"})
"""#SBATCH options that runs depend on."""

N_WRITERS = 16
"""Threads that write one small flushed file a run."""
REPORT_MIN = 30
"""Walltime of the last job, which renders pages."""


def new_submission(runs: Path) -> Path:
    """A folder for one command's arrays."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return runs.resolve() / slurm_intent.FOLDER / f"{stamp}-{secrets.token_hex(3)}"


def submit(array: Array, folder: Path, settings: SlurmSettings, facts: ClusterFacts, after: str = "") -> list[str]:
    """Submits one array and notes each run's job in its folder.

    Args:
        folder: where batch script, pickles and logs go; not there yet.
        after: what it waits for, as sbatch's --dependency has it; empty: nothing.

    Returns:
        The job id of each task.

    Raises:
        UserError: Slurm refused it, and nothing of it is left; or a file could not be written, and what Slurm had
            taken of it is cancelled.
    """
    more = {"dependency": after, "kill-on-invalid-dep": "yes"} if after else {}
    asked = parameters(array.resources, folder, settings, len(array.tasks), more)
    stage = array.resources.stage
    bodies = [
        RunTask([replace(job, folder=job.folder.resolve(), stage=stage, shard=array.shard) for job in task])
        for task in array.tasks
    ]
    executor = SlurmExecutor(
        folder, max_num_timeout=array.resources.n_allocations + MAX_PREEMPTIONS, python=settings.python or None
    )
    executor.update_parameters(**asked)
    try:
        folder.mkdir(parents=True)
        write_tasks(folder, [[job.folder.resolve() for job in task] for task in array.tasks])
        slurm_intent.note(folder, stage, facts.name)
        # one is a job, several are an array; what sbatch says comes back in the error and is said once
        with contextlib.redirect_stderr(io.StringIO()):
            submitted = executor.submit_array(bodies)
        ids = [job.job_id for job in submitted]
        at = now()
        notes = [
            (job.folder, SubmittedJob(job_id, at, facts.name, stage, slurm_intent.log_path(folder, job_id), *commit()))
            for job_id, task in zip(ids, array.tasks, strict=True)
            for job in task
        ]
        with ThreadPoolExecutor(N_WRITERS) as writers:
            list(writers.map(note_job, *zip(*notes, strict=True)))
        slurm_intent.settle(folder)
    except (FailedJobError, FailedSubmissionError) as err:
        # a controller that answered too late may have taken the array all the same: whoever looks next will find it
        if "timed out" not in str(err):
            shutil.rmtree(folder, ignore_errors=True)
        raise refusal(str(err), settings, facts, len(bodies)) from err
    except (OSError, UserError) as err:
        # submitit moves files after sbatch has taken the array, and a job without them can only fail
        raise _taken_back(err, folder, asked["job_name"]) from err
    return ids


def _taken_back(err: OSError | UserError, folder: Path, name: str) -> UserError:
    """What to say where a file could not be written, after cancelling what Slurm has of the array by then."""
    why = err.problem if isinstance(err, UserError) else str(err)
    problem = f"the submission did not end well: {why}"
    against = slurm_cluster.cancel_named(name)
    if against:
        return UserError(f"{problem}; its jobs may wait or run, as scancel failed: {against}",
                         valid=f"its scripts and logs: {folder}", hint=f"scancel --name={name}")  # fmt: skip
    return UserError(f"{problem}; what Slurm had taken of it is cancelled", valid=f"its scripts: {folder}",
                     hint="put that right (quota, a full disk), then the same command again")  # fmt: skip


def submit_report(
    ids: Sequence[str], runs: Path, planned: Sequence[Path], folder: Path, settings: SlurmSettings, facts: ClusterFacts
) -> str:
    """Submits the last job: it renders the leaderboard when all others are over, however they ended.

    ``afterany`` and a check of its own: for Slurm a job that it has forgotten counts as one that ended well.

    Raises:
        UserError: Slurm refused it, or a file could not be written.
    """
    settings = of_report(settings)
    partition = choose_partition(settings, facts)
    longest = partition.max_min if partition else None
    resources = Resources("report", 1, 1, 0, 1, 0.0, min(REPORT_MIN, longest or REPORT_MIN), 60, 1)
    after = ":".join(dict.fromkeys(job_id.partition("_")[0] for job_id in ids))
    asked = parameters(resources, folder, settings, 1, {"dependency": f"afterany:{after}"})
    listing = folder / "planned.txt"
    executor = SlurmExecutor(folder, python=settings.python or None)
    executor.update_parameters(**asked)
    try:
        folder.mkdir(parents=True)
        atomic.write_text(listing, "".join(f"{path.resolve()}\n" for path in planned))
        with contextlib.redirect_stderr(io.StringIO()):
            job_id: str = executor.submit(ReportTask(runs.resolve(), listing)).job_id
    except (FailedJobError, FailedSubmissionError) as err:
        shutil.rmtree(folder, ignore_errors=True)
        raise refusal(str(err), settings, facts, 1) from err
    except (OSError, UserError) as err:
        raise _taken_back(err, folder, asked["job_name"]) from err
    return job_id


def parameters(r: Resources, folder: Path, s: SlurmSettings, n_tasks: int, more: Mapping[str, Any]) -> dict[str, Any]:
    """What submitit is told of one array.

    Raises:
        UserError: an #SBATCH option that is ours to set.
    """
    for option in s.sbatch:
        if option in OURS:
            raise UserError(f"the #SBATCH option --{option} is set by this launcher", valid=_instead(option))
    setup = setup_lines(folder, s.setup, needed=r.stage != "report")
    ours: dict[str, Any] = {
        "job_name": slurm_intent.job_name(r.stage, folder), "time": r.time_min, "nodes": r.nodes,
        "ntasks_per_node": r.tasks_per_node,
        "cpus_per_task": r.cpus_per_task, "signal_delay_s": r.signal_s, "stderr_to_stdout": True, "wckey": None,
        "array_parallelism": s.parallelism or n_tasks, "setup": setup,
        # Slurm 22.05 to 23.02 does not hand it on from the job to its steps
        "srun_args": [
            f"--cpus-per-task={r.cpus_per_task}", *(["--kill-on-bad-exit=1"] if r.nodes > 1 else []), *s.srun
        ],
        "additional_parameters": {
            "requeue": True, **{k: True if v == "true" else v for k, v in s.sbatch.items()}, **more
        },
    }  # fmt: skip
    optional = {
        "partition": s.partition, "account": s.account, "qos": s.qos, "constraint": s.constraint,
        "gpus_per_node": r.gpus_per_node, "mem": f"{round(r.mem_gb * 1024)}MB" if r.mem_gb else "",
    }  # fmt: skip
    return {**ours, **{key: value for key, value in optional.items() if value}}


def _instead(option: str) -> str:
    return {"time": "--set slurm.time_min=MINUTES", "signal": "--set slurm.signal_s=SECONDS",
            "array": "--set slurm.parallelism=N"}.get(option, "every other one")  # fmt: skip
