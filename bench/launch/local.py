"""Subprocesses on this machine: one a run, each its own process group with a hard limit; they die with us."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core import exits
from bench.launch.base import WORKER, Job, Launcher, LaunchOptions, Outcome
from bench.launch.screen import Screen

POLL_S = 0.2
GRACE_S = 5.0
"""Between the polite signal and SIGKILL, for code that does not return."""
LEAVE_S = 60.0
"""The same for a worker that is asked to leave: it finishes its unit and keeps a checkpoint."""
REQUEUE_S = 600.0
"""The same where a cluster is about to take the machine, which ends what is left."""
OUTSIDE = frozenset({signal.SIGKILL, signal.SIGHUP})
"""What ends a worker that has done nothing wrong itself: it is started again, from its last checkpoint."""
N_RESTARTS = 2
ASKED = {-signal.SIGUSR2: exits.REQUEUE, -signal.SIGTERM: exits.INTERRUPTED}
"""A worker that was asked to leave while its libraries loaded, before it could listen."""


@dataclass
class _Child:
    """One worker."""

    job: Job
    slot: int
    process: subprocess.Popen[str]
    n_killed: int


class Local(Launcher):
    """A subprocess per run, --jobs at once, ended from outside when tuning does not return."""

    here = True

    def __init__(self, options: LaunchOptions | None = None) -> None:
        super().__init__(options)
        self._children: dict[int, _Child] = {}
        self._leaving = False

    def launch(self, jobs: Sequence[Job], *, quiet: bool = False) -> list[Outcome]:
        self._leaving = False
        waiting, codes = list(range(len(jobs))), dict[int, int]()
        n_slots = min(self.options.jobs, len(jobs))
        with Screen([_name(job) for job in jobs], plain=n_slots <= 1 or quiet) as screen:
            try:
                while self._children or (waiting and not self._leaving):
                    while waiting and not self._leaving and len(self._children) < n_slots:
                        k = waiting.pop(0)
                        slot = min(set(range(n_slots)) - {child.slot for child in self._children.values()})
                        self._children[k] = self._start(jobs[k], slot, quiet, screen, k)
                    for k, child in list(self._children.items()):
                        code = self._ended(child)
                        if code is None:
                            continue
                        del self._children[k]
                        if code < 0 and -code in OUTSIDE and child.n_killed < N_RESTARTS and not self._leaving:
                            screen.say(k, f"the worker was killed ({_signal(code)}); starting it again")
                            again = self._start(child.job, child.slot, quiet, screen, k)
                            again.n_killed = child.n_killed + 1
                            self._children[k] = again
                            continue
                        codes[k] = self._settle(child, code)
                        screen.over(k, codes[k])
                    time.sleep(POLL_S)
            except BaseException as err:
                self._end_all(LEAVE_S if isinstance(err, KeyboardInterrupt) else GRACE_S)
                raise
        return [Outcome(job.folder, codes.get(k, exits.REQUEUE)) for k, job in enumerate(jobs)]

    def stop(self) -> None:
        """SIGUSR2 to every worker, and waits: each keeps a checkpoint and leaves; no other is started."""
        self._leaving = True
        deadline = time.monotonic() + REQUEUE_S
        # `launch` may be in the middle of reaping, so this looks without reaping
        pids = [child.process.pid for child in self._children.values()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
        while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _start(self, job: Job, slot: int, quiet: bool, screen: Screen, k: int) -> _Child:
        what = ["--stage", job.stage]
        if job.stage == "generate":
            what = ["--stage", "evaluate", "--shard", "{}/{}".format(*job.shard)]
        command = [sys.executable, "-m", WORKER, str(job.folder), "--parent", str(os.getpid()), *what]
        process = subprocess.Popen(
            [*command, *(["--quiet"] if quiet else [])], start_new_session=True, text=True, errors="replace",
            stdout=screen.target, stderr=subprocess.STDOUT if screen.target else None,
            env={**os.environ, **_gpus_for(slot, self.options.jobs, _gpus())},
        )  # fmt: skip
        screen.follow(k, process.stdout)
        return _Child(job, slot, process, 0)

    def _ended(self, child: _Child) -> int | None:
        """The exit code of a worker that is over; one beyond its hard limit is ended here."""
        code = child.process.poll()
        if code is None and _tuning_s(child.job.folder, child.process.pid) > child.job.hard_wall_s:
            _end([child.process], GRACE_S)
            return _record_failure(child.job, "hard limit")
        if code is not None:
            # the worker is gone; whatever it started must not outlive it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
        return code

    def _settle(self, child: _Child, code: int) -> int:
        """A code of ``bench.core.exits``: a worker that ended otherwise wrote no record, so this does."""
        code = ASKED.get(code, code)
        if code in exits.ENDINGS or self._leaving or child.job.stage == "generate":
            return code  # whoever makes the record makes the images that are missing
        times = f" {child.n_killed + 1} times" if child.n_killed else ""
        return _record_failure(child.job, f"the worker was killed ({_signal(code)}){times}" if code < 0 else
                               f"the worker left with exit code {code}")  # fmt: skip

    def _end_all(self, grace_s: float) -> None:
        _end([child.process for child in self._children.values()], grace_s)
        self._children.clear()


def _end(processes: Sequence[subprocess.Popen[str]], grace_s: float) -> None:
    """SIGTERM to every process group, then SIGKILL."""
    for sign, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
        deadline = time.monotonic() + wait_s
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.05)


def _record_failure(job: Job, reason: str) -> int:
    command = [sys.executable, "-m", WORKER, str(job.folder), "--record-failure", reason]
    return subprocess.run(command, check=False).returncode


def _is_running(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _signal(code: int) -> str:
    return signal.Signals(-code).name


def _name(job: Job) -> str:
    return f"{job.folder.parent.name}/{job.folder.name[:8]}"


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(k) for k in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def _gpus_for(slot: int, n_slots: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of the worker in ``slot``: an equal share of the GPUs, or one of them shared by several."""
    if n_slots <= 1 or not gpus:
        return {}
    share = len(gpus) // n_slots
    mine = gpus[slot * share : (slot + 1) * share] if share else [gpus[slot % len(gpus)]]
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


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
