"""A subprocess per run on this machine: own process group, hard limit from outside, dies with its parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.launch.base import WORKER, Job, Launcher, Outcome

POLL_S = 0.2
GRACE_S = 5.0
"""Between the polite signal and SIGKILL."""


class Local(Launcher):
    """A subprocess per run, one after the other, ended from outside when tuning does not return."""

    def launch(self, jobs: Sequence[Job], *, quiet: bool = False) -> list[Outcome]:
        return [Outcome(job.folder, self._one(job, quiet)) for job in jobs]

    def _one(self, job: Job, quiet: bool) -> int:
        command = [sys.executable, "-m", WORKER, str(job.folder), "--parent", str(os.getpid())]
        child = subprocess.Popen([*command, *(["--quiet"] if quiet else [])], start_new_session=True)
        try:
            while child.poll() is None:
                if _tuning_s(job.folder, child.pid) > job.hard_wall_s:
                    _end(child)
                    command = [sys.executable, "-m", WORKER, str(job.folder), "--record-failure", "hard limit"]
                    return subprocess.run(command, check=False).returncode
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            # the worker finishes its unit, keeps a checkpoint and leaves
            _end(child, grace_s=60.0)
            raise
        except BaseException:
            _end(child)
            raise
        return child.returncode


def _end(child: subprocess.Popen[bytes], grace_s: float = GRACE_S) -> None:
    """SIGTERM to the whole process group, then SIGKILL."""
    for sign, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait_s)
            # the worker is gone; whatever it started must not outlive it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            return


def _tuning_s(folder: Path, pid: int) -> float:
    """Wall-clock seconds that tuning has taken, as the worker's heartbeat file lets an outsider compute them.

    What a killed worker of another attempt left there says nothing about this one.
    """
    try:
        beat = json.loads((folder / "tuning.json").read_text("utf-8"))
    except (OSError, json.JSONDecodeError):
        return 0.0
    if beat["pid"] != pid:
        return 0.0
    since = beat["since_unix_s"]
    return float(beat["before_s"]) + (time.time() - since if since is not None else 0.0)
