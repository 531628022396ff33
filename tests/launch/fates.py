"""Runs on the private Slurm for tests of what a cluster does to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engine.conftest import World
from tests.launch.cluster import Cluster

TUNER = "micro-unhurried"
"""Half a second a unit: long enough for a checkpoint, and the rest of the machine may be busy."""
QUICK = ("--set", "slurm.cpus=1", "--set", "slurm.report=false", "--set", "slurm.mem_gb=0.5")
SLOW = os.environ.get("TUNEBENCH_SLOW") == "1"
WHY_SLOW = "some minutes of waiting for a cluster: TUNEBENCH_SLOW=1 runs it"


@dataclass(frozen=True)
class OnCluster:
    """``bench`` as a user of the cluster types it."""

    world: World
    cluster: Cluster

    @property
    def env(self) -> dict[str, str]:
        return {**self.cluster.env, "PYTHONPATH": self.world.env["PYTHONPATH"], "OMP_NUM_THREADS": "1"}

    def bench(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "bench", *args], text=True,
                              capture_output=True, check=False, timeout=500, env=self.env)  # fmt: skip

    def submit(self, *args: str, tuner: str = TUNER) -> str:
        """``bench run --launcher slurm``; what it said."""
        words = self.world.command("--launcher", "slurm", *QUICK, *args, tuner=tuner)[3:]
        done = self.bench(*words)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def start(self, *args: str, tuner: str = TUNER) -> subprocess.Popen[str]:
        """``submit`` in the background."""
        words = self.world.command("--launcher", "slurm", *QUICK, *args, tuner=tuner)
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self.env)

    def is_over(self, *args: str, tuner: str = TUNER) -> None:
        """The same command again finds every run done, and no job is left."""
        said = self.submit(*args, tuner=tuner)
        assert said.count("already done: ") == len(self.folders(tuner)), said
        assert "submitted" not in said
        assert not self.cluster.active()

    def folders(self, tuner: str = TUNER) -> list[Path]:
        """Run folders in the order of their seeds."""
        found = (self.world.runs / "micro-sample@1" / tuner).iterdir()
        return sorted(found, key=lambda f: json.loads((f / "spec.json").read_text())["seed"])

    def job(self, folder: Path) -> str:
        """The newest job of a run."""
        jobs = [json.loads(p.read_text()) for p in (folder / "jobs").glob("*.json")]
        return str(max(jobs, key=lambda job: (job["submitted"], job["job_id"]))["job_id"])

    def states(self) -> dict[str, dict[str, Any]]:
        """``bench status --json`` by run id."""
        done = self.bench("status", "--runs", str(self.world.runs), "--json")
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert shown["cluster"]["calls"] <= 2
        return {row["run_id"]: row for row in shown["runs"]}

    def wait_checkpoint(self, folder: Path, attempt: int, timeout_s: float = 400.0) -> None:
        """Until this attempt works and a checkpoint is there."""
        events = folder / "attempts" / f"{attempt:03d}" / "events.jsonl"
        self.cluster.wait(
            lambda: events.exists() and events.stat().st_size and any(folder.glob("checkpoints/*/meta.json")), timeout_s
        )

    def preempt(self, folder: Path) -> None:
        """A job of higher priority takes the node of the run for a moment."""
        before = self.cluster.queue()[self.job(folder)]
        assert before == "RUNNING"
        node = self.cluster.run("squeue", "-h", "-o", "%N", "-j", self.job(folder)).strip()
        self.cluster.run("sbatch", "-p", "high", "--exclusive", f"--nodelist={node}", "-o", "/dev/null",
                         "--wrap", "sleep 1")  # fmt: skip
        self.cluster.wait(lambda: self.cluster.queue()[self.job(folder)] != "RUNNING", 120)


def record(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "record.json").read_text("utf-8"))
    return data


def check_accounts(found: dict[str, Any], limit_u: float = 600) -> None:
    """Budget exact: within the limit, and all that was lost is what attempts say they did again."""
    ledger = found["ledger"]
    assert 0 < ledger["spent"]["denoiser_u"] <= limit_u
    redone = sum(attempt["lost"].get("denoiser_u", 0.0) for attempt in found["attempts"])
    assert ledger["lost"]["denoiser_u"] == redone
    units = [row[0] for row in found["curve"]["rows"]]
    assert units == list(range(1, len(units) + 1))
