"""What a job of the cluster does: run folders, each in a worker of its own. This is all that is pickled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from bench.core import exits
from bench.launch.base import WORKER, Job, LaunchOptions, Outcome
from bench.launch.local import Local
from bench.store import meeting
from bench.store.jobs import own_job
from bench.store.runs import RunFolder

POLL_S = 0.5


class RunTask:
    """Carries out run folders; where they stand is in the folders, never in here.

    submitit calls ``checkpoint`` from the handler of SIGUSR2, which Slurm sends some time before it takes the machine
    back, and then asks Slurm to queue the job again.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.folders = [str(job.folder) for job in jobs]
        self.hard_wall_s = [job.hard_wall_s for job in jobs]
        self.stage = jobs[0].stage
        self.shard = jobs[0].shard
        self._launcher: Local | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_launcher": None}

    def __call__(self) -> None:
        """Ends this process with ``exit_code`` of its runs; why each failed stands in its run folder."""
        _forget_half_written_pickles()
        place = _meeting_place()
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        if place and rank:
            _follow(place, Path(self.folders[0]), rank)
            return
        self._launcher = Local(LaunchOptions(jobs=len(self.folders)))
        jobs = [
            Job(Path(f), s, stage=self.stage, shard=self.shard)
            for f, s in zip(self.folders, self.hard_wall_s, strict=True)
        ]
        if self.stage == "evaluate":
            # packed beside it was a run whose tuning failed: it is a row already
            jobs = [job for job in jobs if not RunFolder(job.folder).record_path.exists()]
        try:
            outcomes = self._launcher.launch(jobs)
        finally:
            if place:
                meeting.adjourn(place)
        if code := exit_code(self.stage, outcomes):
            sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """Asks the workers to keep a checkpoint, waits for them, and hands the same task in again."""
        if self._launcher is not None:
            self._launcher.stop()
        return DelayedSubmission(self)


def exit_code(stage: str, outcomes: Sequence[Outcome]) -> int:
    """Of a task: the first code of a run that is not 0.

    Jobs that make images and scores wait for a tuning task to end well, and Slurm takes them back where it does not. So
    it ends well as long as one of its runs needs them: what became of the others stands in their own folders.
    """
    tuned = [o for o in outcomes if o.exit_code == exits.DONE and not RunFolder(o.folder).record_path.exists()]
    if stage == "tune" and tuned:
        return exits.DONE
    return next((o.exit_code for o in outcomes if o.exit_code not in (exits.DONE, exits.STALE)), exits.DONE)


class ReportTask:
    """Renders the leaderboard, and ends in failure where planned runs have no record."""

    def __init__(self, runs: Path, planned: Path) -> None:
        self.runs = str(runs)
        self.planned = str(planned)

    def __call__(self) -> None:
        command = [sys.executable, "-m", "bench", "report", "--runs", self.runs, "--planned", self.planned]
        code = subprocess.run(command, check=False).returncode
        if code:
            sys.exit(code)


def _meeting_place() -> Path | None:
    """Where the tasks of one run on several nodes meet, and None where one task does it all; for the workers too."""
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return None
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    path = Path(os.environ["SUBMITIT_FOLDER"]) / f"{own_job()}-{restarts}.meeting.json"
    os.environ[meeting.VARIABLE] = str(path)
    os.environ[meeting.LOCAL_VARIABLE] = os.environ["SLURM_NTASKS_PER_NODE"]
    return path


def _follow(place: Path, folder: Path, rank: int) -> None:
    """A process beside rank 0 of another task, as often as that calls; rank 0 decides and writes."""
    # it is rank 0 that hears a cluster's signals and ends the others
    for sign in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    joined: meeting.Meeting | None = None
    while True:
        called = meeting.look(place)
        if called is not None and called.over:
            return
        if called is not None and called != joined:
            joined = called
            _answer(called, place, folder, rank)
        time.sleep(POLL_S)


def _answer(called: meeting.Meeting, place: Path, folder: Path, rank: int) -> None:
    command = [sys.executable, "-m", WORKER, str(folder), "--parent", str(os.getpid()),
               "--local-rank", os.environ["SLURM_LOCALID"]]  # fmt: skip
    if called.port:
        subprocess.run([*command, "--rank", str(rank), "--host", called.host, "--port", str(called.port)], check=False)
        return
    if rank < called.shards:
        part = ["--stage", "evaluate", "--quiet", "--shard", f"{rank}/{called.shards}"]
        subprocess.run([*command, *part], check=False)
    meeting.note_over(place, called.token, rank)


def _forget_half_written_pickles() -> None:
    """A kill during a checkpoint leaves one, and submitit then refuses every later checkpoint of the job."""
    for path in Path(os.environ["SUBMITIT_FOLDER"]).glob(f"{own_job()}_*.save_tmp"):
        path.unlink(missing_ok=True)
