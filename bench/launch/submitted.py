"""``job.json`` in a run folder: which job of which cluster works on it; written before the submit command returns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from bench.store import atomic

NAME = "job.json"


@dataclass(frozen=True)
class SubmittedJob:
    """The newest submission of a run; what became of it stands elsewhere in the run folder."""

    launcher: str
    cluster: str
    """Slurm's ClusterName: a cluster started anew numbers its jobs from 1 again."""
    job_id: str
    """``12`` or ``12_3``, as squeue prints it."""
    submitted_unix_s: float
    log: str
    """Standard output of the job; standard error goes there too."""
    submission: str
    """Folder of the submission: batch scripts, logs."""
    evaluate_job_id: str = ""
    """The job that makes images and scores where that is a job of its own."""

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.job_id, self.evaluate_job_id)))


def write_submitted(folder: Path, job: SubmittedJob) -> None:
    """Notes ``job`` in the run folder, in place of an older one."""
    atomic.write_json(folder / NAME, dataclasses.asdict(job))


def read_submitted(folder: Path) -> SubmittedJob | None:
    """The newest submission, or None where this run was never submitted. Unknown fields are passed over."""
    path = folder / NAME
    if not path.exists():
        return None
    known = {f.name for f in dataclasses.fields(SubmittedJob)}
    return SubmittedJob(**{k: v for k, v in atomic.read_json(path).items() if k in known})
