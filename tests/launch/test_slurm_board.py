"""From an array to a leaderboard: twenty runs, stages apart, and a last job that counts for itself."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.engine.conftest import World
from tests.launch.cluster import Cluster

CPU = ("--launcher", "slurm", "--set", "slurm.cpus=1", "--budget", "steps=1")


def run(world: World, cluster: Cluster, *args: str, tuner: str = "drtune") -> str:
    done = subprocess.run(
        world.command(*args, tuner=tuner), capture_output=True, text=True, check=False, timeout=300,
        env={**cluster.env, "PYTHONPATH": world.env["PYTHONPATH"], "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_twenty_runs_as_one_array_end_on_a_board(slurm: Cluster, world: World) -> None:
    said = run(world, slurm, *CPU, "--seeds", "20", "--set", "slurm.pack=4", "--set", "slurm.parallelism=2")
    assert "5 jobs, 20 run(s)" in said
    slurm.wait(lambda: not slurm.active(), 500)
    records = [json.loads(p.read_text()) for p in world.runs.glob("micro-sample@1/drtune/*/record.json")]
    assert [r["status"] for r in records] == ["done"] * 20
    assert {r["ledger"]["spent"]["steps"] for r in records} == {1}
    states = slurm.queue()
    ids = {p.stem for p in world.runs.glob("micro-sample@1/drtune/*/jobs/*.json")}
    assert [states[job_id] for job_id in sorted(ids)] == ["COMPLETED"] * 5
    log = next(world.runs.glob(".slurm/*/report/*_log.out")).read_text()
    assert "20 of 20 planned run(s) have a record" in log
    assert "drtune" in (world.runs / "leaderboard" / "index.html").read_text()


@pytest.mark.slow
def test_stages_are_jobs_of_their_own_and_a_failed_tuning_needs_no_second(slurm: Cluster, world: World) -> None:
    """Tuning with two GPUs, images and scores with one; a run that failed stays a row and its second job goes."""
    split = ("--set", "slurm.stages=split", "--set", "slurm.gpus=2")
    run(world, slurm, *CPU, *split)
    run(world, slurm, *CPU, *split, tuner="micro-failing")
    slurm.wait(lambda: not slurm.active(), 300)
    (good,) = (world.runs / "micro-sample@1" / "drtune").iterdir()
    (bad,) = (world.runs / "micro-sample@1" / "micro-failing").iterdir()
    assert json.loads((good / "record.json").read_text())["status"] == "done"
    assert json.loads((bad / "record.json").read_text())["status"] == "failed"
    jobs = {p.stem: json.loads(p.read_text())["stage"] for run in (good, bad) for p in (run / "jobs").glob("*.json")}
    states = slurm.queue()
    assert sorted((stage, states[job]) for job, stage in jobs.items()) == [
        ("evaluate", "CANCELLED"), ("evaluate", "COMPLETED"), ("tune", "COMPLETED"), ("tune", "FAILED"),
    ]  # fmt: skip
    scripts = {p.read_text() for p in world.runs.glob(".slurm/*/00?/*_submission.sh")}
    assert sum("--gpus-per-node=2" in s for s in scripts) == 2
    assert sum("--gpus-per-node=1" in s for s in scripts) == 2
