"""What is about to be submitted, kept from before sbatch until every run folder knows its job.

A command that is killed in between leaves jobs that no run folder knows. Each array has a name of its own in the queue,
and its submission's folder says which runs that name stands for: whoever looks next notes them.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from bench.core.checkout import commit
from bench.launch.slurm_cluster import QueuedJob
from bench.launch.slurm_script import read_tasks
from bench.store import atomic
from bench.store.jobs import SubmittedJob, note_job, now

FOLDER = ".slurm"
"""Under the runs folder: a folder a submission, as a cluster that is set up anew numbers its jobs from 1 again and
submitit would take an old job's files for the new one's."""
FILE = "submitting.json"
FORGET_H = 1.0
"""After which an array that is not in the queue was never submitted, or is over."""


def job_name(stage: str, folder: Path) -> str:
    """Of the array with folder ``folder``: no other has it."""
    return f"tunebench-{stage}-{folder.parent.name}-{folder.name}"


def note(folder: Path, stage: str, cluster: str) -> None:
    """Before sbatch; the list of the array's tasks is in ``folder`` already."""
    head, dirty = commit()
    facts = {"name": job_name(stage, folder), "stage": stage, "cluster": cluster, "at": now(),
             "commit": head, "dirty": dirty}  # fmt: skip
    atomic.write_json(folder / FILE, facts)


def settle(folder: Path) -> None:
    """Every run folder knows its job."""
    (folder / FILE).unlink(missing_ok=True)


def log_path(folder: Path, job_id: str) -> str:
    """Where submitit keeps what a job prints."""
    return str(folder / f"{job_id}_0_log.out")


def unsettled(runs: Path) -> list[Path]:
    """Folders of arrays whose submission was cut short, or is under way."""
    return sorted(path.parent for path in (runs.resolve() / FOLDER).glob(f"*/*/{FILE}"))


def adopt(folders: list[Path], queue: Mapping[str, QueuedJob], cluster: str = "") -> None:
    """Notes the jobs of arrays ``folders`` that are in the queue in their run folders.

    Args:
        queue: by id.
        cluster: whose queue it is, so that what is not in it may be forgotten; empty: unknown.
    """
    for folder in folders:
        facts = atomic.read_json(folder / FILE)
        ids = [job_id for job_id, job in queue.items() if job.name == facts["name"]]
        tasks = read_tasks(folder)
        for job_id in ids:
            for run in tasks[int(job_id.partition("_")[2] or 0)]:
                if run.is_dir():
                    note_job(run, SubmittedJob(job_id, facts["at"], facts["cluster"], facts["stage"],
                                               log_path(folder, job_id), facts["commit"], facts["dirty"]))  # fmt: skip
        if ids or (facts["cluster"] == cluster and _age_h(facts["at"]) > FORGET_H):
            settle(folder)


def _age_h(at: str) -> float:
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(at)
    return age.total_seconds() / 3600.0
