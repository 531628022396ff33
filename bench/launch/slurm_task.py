"""What a job of the cluster does: run folders, each in a worker of its own. This is all that is pickled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from bench.core import exits
from bench.launch.base import Job, LaunchOptions
from bench.launch.local import Local
from bench.store import atomic
from bench.store.jobs import own_job


class RunTask:
    """Carries out run folders; where they stand is in the folders, never in here.

    submitit calls ``checkpoint`` from the handler of SIGUSR2, which Slurm sends some time before it takes the machine
    back, and then asks Slurm to queue the job again.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.folders = [str(job.folder) for job in jobs]
        self.hard_wall_s = [job.hard_wall_s for job in jobs]
        self.stage = jobs[0].stage
        self._launcher: Local | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_launcher": None}

    def __call__(self) -> None:
        """Ends this process with the first exit code that is not 0, and says in the run folder why, where no record
        will."""
        _forget_half_written_pickles()
        self._launcher = Local(LaunchOptions(jobs=len(self.folders)))
        jobs = [Job(Path(f), s, stage=self.stage) for f, s in zip(self.folders, self.hard_wall_s, strict=True)]
        codes = []
        for outcome in self._launcher.launch(jobs):
            codes.append(outcome.exit_code)
            if outcome.exit_code not in exits.ENDINGS:
                _note(outcome.folder, outcome.exit_code)
        code = next((c for c in codes if c not in (exits.DONE, exits.STALE)), 0)
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission:
        """Asks the workers to keep a checkpoint, waits for them, and hands the same task in again."""
        if self._launcher is not None:
            self._launcher.stop()
        return DelayedSubmission(self)


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


def _note(folder: Path, code: int) -> None:
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"left with exit code {code}"
    with contextlib.suppress(OSError):
        atomic.write_text(folder / "jobs" / f"{own_job()}.reason", f"the worker {how}\n")


def _forget_half_written_pickles() -> None:
    """A kill during a checkpoint leaves one, and submitit then refuses every later checkpoint of the job."""
    for path in Path(os.environ["SUBMITIT_FOLDER"]).glob(f"{own_job()}_*.save_tmp"):
        path.unlink(missing_ok=True)
