"""A world in which whole runs take seconds: a random pipeline, a third party's micro suite, a command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).parent / "site"
MANY = str(Path(__file__).parent / "many.py")


@dataclass(frozen=True)
class World:
    """``bench`` in a subprocess, on the micro suite and a random pipeline."""

    model: Path
    runs: Path

    @property
    def env(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(SITE), os.environ.get("PYTHONPATH", ""))))
        return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def command(self, *args: str, tuner: str = "drtune") -> list[str]:
        return [sys.executable, "-m", "bench", "run", "--suite", "micro", "--tuner", tuner, "--model", str(self.model),
                "--runs", str(self.runs), *args]  # fmt: skip

    def run(self, *args: str, tuner: str = "drtune") -> subprocess.CompletedProcess[str]:
        return self.bench(*self.command(*args, tuner=tuner)[3:])

    def alone(self, *args: str, tuner: str = "drtune") -> subprocess.CompletedProcess[str]:
        """``run`` without a launcher's process in between: for tests of what a run does, not of who looks after it."""
        return self.run("--launcher", "inline", *args, tuner=tuner)

    def bench(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "bench", *args], capture_output=True, text=True, check=False,
                              env=self.env, timeout=580)  # fmt: skip

    def bench_each(self, *commands: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
        """As ``bench`` for each, in one process: for tests of what a command does, not of its processes. Runs need
        ``--launcher inline``."""
        done = subprocess.run([sys.executable, MANY], input=json.dumps(commands), capture_output=True, text=True,
                              check=True, env=self.env, timeout=580)  # fmt: skip
        return [subprocess.CompletedProcess(args, *ended)
                for args, ended in zip(commands, json.loads(done.stdout), strict=True)]  # fmt: skip

    def start(self, *args: str, tuner: str = "drtune") -> subprocess.Popen[str]:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # the command hears Ctrl-C as from a terminal, also where these tests run in a shell's background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(self.command(*args, tuner=tuner), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                text=True, env=self.env)  # fmt: skip

    def folder(self, tuner: str = "drtune") -> Path:
        (found,) = (self.runs / "micro-sample@1" / tuner).iterdir()
        return found

    def record(self, tuner: str = "drtune") -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.folder(tuner) / "record.json").read_text("utf-8"))
        return data


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bench.diffusion.random_tiny import save_random_pipeline

    folder = tmp_path_factory.mktemp("model") / "random"
    save_random_pipeline(folder)
    return folder


@pytest.fixture
def new_world(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], World]:
    return lambda: World(random_model, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def world(new_world: Callable[[], World]) -> World:
    return new_world()


@pytest.fixture(scope="session")
def finished(
    random_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[World, subprocess.CompletedProcess[str]]:
    """One uninterrupted run that read-only tests share, and what the command printed."""
    world = World(random_model, tmp_path_factory.mktemp("finished"))
    return world, world.run()
