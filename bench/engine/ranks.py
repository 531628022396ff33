"""Several processes for one run: the worker is rank 0 and starts the others; accelerate gives each its device.

The others only tune. They die with the worker, end when it ends, and leave every decision and every file to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bench.core.errors import UserError
from bench.diffusion.processes import Processes, ProcessLost, Together
from bench.store import meeting

WORKER = "bench.engine.worker"
HOST = "127.0.0.1"
START_S = 600.0
"""Until the other processes have loaded their libraries; big models load after that."""
GRACE_S = 20.0
"""Between the end of tuning and the end of the other processes."""

DEAF = ["/bin/sh", "-c", 'trap "" INT TERM USR2; exec "$@"', "sh"]
"""Ctrl-C and a cluster's signals reach every process of a run; rank 0 decides, and ends the others. From their first
moment on: a process that still loads its libraries would die of what it cannot hear yet."""


class Crew:
    """The processes beside rank 0, started and not yet joined."""

    def __init__(self, folder: Path, size: int, device: str, timeout_s: float) -> None:
        self._size = size
        self._device = device
        self._timeout_s = timeout_s
        self._left = contextlib.ExitStack()
        # the store takes a free port itself, so no other program can take it in between
        self._store = TCPStore(HOST, 0, size, is_master=True, wait_for_workers=False)
        where = meeting.place()
        if where:
            meeting.announce(where, self._store.port)
        place = ["--port", str(self._store.port), "--parent", str(os.getpid())]
        self._children = [
            subprocess.Popen([*DEAF, sys.executable, "-m", WORKER, str(folder), "--rank", str(k), *place])
            for k in range(1, size) if not where
        ]  # fmt: skip

    def join(self) -> Processes:
        """Waits until all are there and joins them.

        Raises:
            ProcessLost: one ended before it was there.
        """
        deadline = time.monotonic() + START_S
        while not self._store.check([_ready(k) for k in range(1, self._size)]):
            if any(child.poll() is not None for child in self._children):
                raise ProcessLost("it ended before it was ready")
            if time.monotonic() > deadline:
                raise ProcessLost(f"it was not ready after {START_S:.0f} s")
            time.sleep(0.05)
        return self._left.enter_context(joined(self._store, 0, self._size, self._device, self._timeout_s))

    def lost(self) -> UserError:
        """What the user is told when a process is gone: which one, and how it ended."""
        time.sleep(0.5)  # a process that is going is not gone yet
        ends = [f"process {k} of {self._size} {_how(child.poll())}" for k, child in enumerate(self._children, start=2)
                if child.poll()]  # fmt: skip
        return UserError(
            f"{' and '.join(ends) or 'a process was lost'} while the run was tuning",
            valid="everything up to the last checkpoint is kept",
            hint="the same command again continues; less memory a process: a smaller --micro-batch",
        )

    def end(self, *, politely: bool) -> None:
        """Leaves the group and sees to it that no process is left."""
        deadline = time.monotonic() + (GRACE_S if politely else 0.0)
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
            if child.poll() is None:
                child.kill()
                child.wait()
        self._left.close()


@contextmanager
def crew(folder: Path, size: int, device: str, timeout_s: float) -> Iterator[Crew | None]:
    """Starts processes 1 .. size-1 of the run in ``folder``, or calls those that a cluster started elsewhere; None
    where one process is enough.

    Raises:
        UserError: one was lost; the run stays unfinished. Or fewer GPUs than processes.
    """
    if size == 1:
        yield None
        return
    if device.startswith("cuda"):
        n = torch.cuda.device_count()
        here = int(os.environ.get(meeting.LOCAL_VARIABLE, size))
        if device != "cuda" or n < here:
            raise UserError(f"--processes {here} on --device {device}: this machine has {n} GPU(s)",
                            valid=f"--device cuda with --processes up to {n}, or --device cpu")  # fmt: skip
    started = Crew(folder, size, device, timeout_s)
    done = False
    try:
        yield started
        done = True
    except ProcessLost as err:
        raise started.lost() from err
    finally:
        started.end(politely=done)


@contextmanager
def joined(
    store: TCPStore, rank: int, size: int, device: str, timeout_s: float, *, host: str = HOST, local_rank: int = 0
) -> Iterator[Processes]:
    """Inside, this process is one of ``size``. The environment that accelerate reads and writes is put back after."""
    from accelerate import PartialState

    on_cpu = not device.startswith("cuda")
    timeout = timedelta(seconds=timeout_s)
    env = {
        "RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": os.environ.get(meeting.LOCAL_VARIABLE, size), "MASTER_ADDR": host,
        "MASTER_PORT": store.port, "OMP_NUM_THREADS": torch.get_num_threads(),
    }  # fmt: skip
    with _environment({key: str(value) for key, value in env.items()}):
        torch.distributed.init_process_group(
            "gloo" if on_cpu else "nccl", store=store, rank=rank, world_size=size, timeout=timeout
        )
        try:
            PartialState(cpu=on_cpu)  # takes up the group and makes this rank's GPU the current one
            yield Together(rank, size, torch.distributed.new_group(backend="gloo", timeout=timeout))
        finally:
            torch.distributed.destroy_process_group()
            PartialState._reset_state()


@contextmanager
def follower(
    rank: int, size: int, host: str, port: int, device: str, timeout_s: float, local_rank: int
) -> Iterator[Processes]:
    """Joins the processes of the worker that listens there."""
    store = TCPStore(host, port, size, is_master=False)
    store.set(_ready(rank), "yes")
    with joined(store, rank, size, device, timeout_s, host=host, local_rank=local_rank) as processes:
        yield processes


def _ready(rank: int) -> str:
    return f"bench/ready/{rank}"


def _how(code: int | None) -> str:
    return f"was killed ({signal.Signals(-code).name})" if code is not None and code < 0 else f"ended with {code}"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
