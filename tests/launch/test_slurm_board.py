"""From an array to a leaderboard: many runs, stages apart, and a last job that counts for itself."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import World
from tests.engine.test_runs import answers
from tests.launch.cluster import Cluster
from tests.launch.fates import SLOW, WHY_SLOW

CPU = ("--launcher", "slurm", "--set", "slurm.cpus=1", "--budget", "steps=1")


def run(
    world: World, cluster: Cluster, *args: str, tuner: str = "drtune", command: Callable[..., list[str]] | None = None
) -> str:
    """``bench run`` on the cluster; what it said."""
    words = command(world, *args) if command else world.command(*args, tuner=tuner)
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=300,
        env={**cluster.env, "PYTHONPATH": world.env["PYTHONPATH"], "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_an_array_of_runs_ends_on_a_board(slurm: Cluster, world: World) -> None:
    n_runs, pack = (20, 4) if SLOW else (4, 2)
    n_jobs = n_runs // pack
    said = run(
        world, slurm, *CPU, "--seeds", str(n_runs), "--set", f"slurm.pack={pack}", "--set", "slurm.parallelism=2"
    )
    assert f"{n_jobs} jobs, {n_runs} run(s)" in said
    slurm.wait_idle(500)
    records = [json.loads(p.read_text()) for p in world.runs.glob("micro-sample@1/drtune/*/record.json")]
    assert [r["status"] for r in records] == ["done"] * n_runs
    assert {r["ledger"]["spent"]["steps"] for r in records} == {1}
    states = slurm.queue()
    ids = {p.stem for p in world.runs.glob("micro-sample@1/drtune/*/jobs/*.json")}
    assert [states[job_id] for job_id in sorted(ids)] == ["COMPLETED"] * n_jobs
    log = next(world.runs.glob(".slurm/*/report/*_log.out"))
    assert f"{n_runs} of {n_runs} planned run(s) have a record" in log.read_text()
    assert f"job {log.name.split('_')[0]} renders the leaderboard" in said
    assert states[log.name.split("_")[0]] == "COMPLETED"
    assert "drtune" in (world.runs / "leaderboard" / "index.html").read_text()


SPLIT = ("--set", "slurm.stages=split", "--set", "slurm.report=false")


@pytest.mark.slow
def test_stages_are_jobs_of_their_own_and_parts_of_the_images_too(
    slurm: Cluster, world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tuning with two GPUs; two jobs with one each for the images; one for the rest of them, scores and record."""

    def many(w: World, *args: str) -> list[str]:
        command = w.command("--budget", "steps=1", "--fractions", "0,1", *args)
        return ["micro-many" if word == "micro" else word for word in command]

    said = run(world, slurm, *CPU[:-2], *SPLIT, "--set", "slurm.gpus=2", "--set", "slurm.shards=2", command=many)
    assert said.count("stage generate, part") == 2
    (folder,) = (world.runs / "micro.many-sample@1" / "drtune").iterdir()
    jobs = {p.stem: json.loads(p.read_text())["stage"] for p in (folder / "jobs").glob("*.json")}
    gpus: dict[str, list[str]] = {}
    for script in world.runs.glob(".slurm/*/00?/*_submission.sh"):
        stage, asked = (
            re.search(asked, script.read_text())
            for asked in ("--job-name=(tunebench-[a-z]+)", r"--gpus-per-node=(\S+)")
        )
        assert stage and asked
        gpus.setdefault(stage[1], []).append(asked[1])
    assert gpus == {"tunebench-tune": ["2"], "tunebench-generate": ["1", "1"], "tunebench-evaluate": ["1"]}
    slurm.wait_idle(400)
    states = slurm.queue()
    assert sorted((stage, states[job]) for job, stage in jobs.items()) == [
        ("evaluate", "COMPLETED"), ("generate", "COMPLETED"), ("generate", "COMPLETED"), ("tune", "COMPLETED"),
    ]  # fmt: skip
    log = (folder / "attempts/002/log.txt").read_text()
    assert "score: " in log
    assert "generate" not in log, "a part was not made by its job"
    # the run of one process on this machine
    one = World(world.model, tmp_path_factory.mktemp("one"))
    done = subprocess.run(many(one), capture_output=True, text=True, check=False, timeout=300, env=one.env)
    assert done.returncode == 0, done.stderr
    (local,) = (one.runs / "micro.many-sample@1" / "drtune").iterdir()
    a, b = (json.loads((root / "record.json").read_text()) for root in (folder, local))
    assert answers(a) == answers(b)
    assert [s["u_per_image"] for s in a["snapshots"]] == [s["u_per_image"] for s in b["snapshots"]]


@pytest.mark.slow
@pytest.mark.skipif(not SLOW, reason=WHY_SLOW)
def test_a_failed_tuning_needs_no_second_job(slurm: Cluster, world: World) -> None:
    """The run is a row with its reason; what waited for it goes, and another run's jobs do not."""
    run(world, slurm, *CPU, *SPLIT, "--set", "slurm.shards=2", tuner="micro-failing,drtune")
    slurm.wait_idle(400)
    (good,) = (world.runs / "micro-sample@1" / "drtune").iterdir()
    (bad,) = (world.runs / "micro-sample@1" / "micro-failing").iterdir()
    assert json.loads((good / "record.json").read_text())["status"] == "done"
    assert json.loads((bad / "record.json").read_text())["status"] == "failed"
    states = slurm.queue()

    def ends(folder: Path) -> list[tuple[str, str]]:
        jobs = [json.loads(p.read_text()) for p in (folder / "jobs").glob("*.json")]
        return sorted((job["stage"], states[job["job_id"]]) for job in jobs)

    stages = ["evaluate", "generate", "generate"]
    assert ends(bad) == [*((s, "CANCELLED") for s in stages), ("tune", "FAILED")]
    assert ends(good) == [*((s, "COMPLETED") for s in stages), ("tune", "COMPLETED")]


@pytest.mark.slow
def test_a_failed_tuning_leaves_the_run_beside_it_its_images(slurm: Cluster, world: World) -> None:
    """Two runs share a job in each stage."""
    run(world, slurm, *CPU, *SPLIT, "--set", "slurm.pack=2", tuner="micro-failing,drtune")
    slurm.wait_idle(400)
    (good,) = (world.runs / "micro-sample@1" / "drtune").iterdir()
    (bad,) = (world.runs / "micro-sample@1" / "micro-failing").iterdir()
    assert json.loads((bad / "record.json").read_text())["status"] == "failed"
    assert json.loads((good / "record.json").read_text())["status"] == "done"
    states = slurm.queue()
    assert {states[p.stem] for p in (good / "jobs").glob("*.json")} == {"COMPLETED"}
    assert {p.stem for p in (good / "jobs").glob("*.json")} == {p.stem for p in (bad / "jobs").glob("*.json")}
