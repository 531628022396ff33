"""Whole runs as jobs of a real Slurm: the same folder, record and metrics as on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import World
from tests.engine.test_runs import answers
from tests.launch.cluster import Cluster

CPU = ("--set", "slurm.cpus=1")
SHORT = ("--budget", "steps=3")


def bench(world: World, cluster: Cluster, *args: str, cwd: Path | None = None, **env: str) -> str:
    """``bench run`` as a user of the cluster types it; what it said on standard error."""
    done = subprocess.run(
        world.command(*args), capture_output=True, text=True, check=False, timeout=300, cwd=cwd,
        env={**cluster.env, "PYTHONPATH": world.env["PYTHONPATH"], "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def files(folder: Path) -> set[str]:
    """Names of everything in a run folder that does not tell one attempt or one job from another."""
    own = ("attempts", "jobs")
    return {
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.is_file() and p.relative_to(folder).parts[0] not in own
    }


def same_in_any_launcher(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what tells when, where and how fast it came about."""
    kept = {k: v for k, v in record.items() if k not in ("attempts", "provenance", "ledger", "curve", "artifacts")}
    for snapshot in kept["snapshots"]:
        snapshot["spent"].pop("device_s", None)
    return {**kept, **answers(record)}


def test_inline_local_and_slurm_make_the_same_run(
    slurm: Cluster, world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The job is submitted from another folder and inherits nothing of the submitter's environment."""
    worlds = {name: World(world.model, tmp_path_factory.mktemp(name)) for name in ("inline", "local", "slurm")}
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("inline", "local"):
        done = worlds[name].run("--launcher", name, *SHORT)
        assert done.returncode == 0, done.stderr
    said = bench(
        worlds["slurm"], slurm, "--launcher", "slurm", "--wait", *CPU, *SHORT, cwd=elsewhere, SBATCH_EXPORT="NONE"
    )
    assert "1 run(s) submitted" in said
    records = {name: same_in_any_launcher(w.record()) for name, w in worlds.items()}
    assert records["slurm"] == records["local"] == records["inline"]
    assert files(worlds["slurm"].folder()) == files(worlds["local"].folder()) == files(worlds["inline"].folder())
    assert worlds["slurm"].folder().name == worlds["local"].folder().name
    assert (worlds["slurm"].runs / "leaderboard" / "index.html").is_file()


def test_a_setup_line_that_fails_fails_the_job_with_its_reason(slurm: Cluster, world: World) -> None:
    setup = ("--set", "slurm.setup=cat /etc/hostname && test -d /no/such/module")
    bench(world, slurm, "--launcher", "slurm", *CPU, *setup)
    slurm.wait_idle()
    (job,) = (p.stem for p in (world.folder() / "jobs").glob("*.json"))
    assert slurm.queue()[job] == "FAILED"
    reason = (world.folder() / "jobs" / f"{job}.reason").read_text()
    assert reason == "set-up line failed (exit 1): cat /etc/hostname && test -d /no/such/module\n"
    assert not list(world.folder().glob("attempts/*")), "the job's body ran"
    log = next(world.runs.glob(".slurm/*/report/*_log.out")).read_text()
    assert "0 of 1 planned run(s) have a record" in log
    assert "set-up line failed (exit 1)" in log


def test_what_waits_is_not_submitted_twice_and_goes_on_when_it_is_gone(slurm: Cluster, world: World) -> None:
    held = ("--launcher", "slurm", *CPU, "--seeds", "2", "--set", "slurm.hold=true", "--set", "slurm.report=false")
    bench(world, slurm, *held)
    ids = slurm.active()
    assert len(ids) == 2
    again = bench(world, slurm, *held)
    assert again.count("already submitted") == 2
    assert slurm.active() == ids
    slurm.run("scancel", next(iter(ids)))
    third = bench(world, slurm, *held)
    assert third.count("already submitted") == 1
    assert "1 run(s) submitted" in third
    slurm.run("scancel", *slurm.active())
    slurm.wait_idle()


def test_a_dry_run_says_everything_and_does_nothing(slurm: Cluster, world: World) -> None:
    done = subprocess.run(
        world.command("--launcher", "slurm", "--seeds", "3", "--dry-run", *CPU, "--set", "slurm.pack=2"),
        capture_output=True, text=True, check=True, timeout=120,
        env={**slurm.env, "PYTHONPATH": world.env["PYTHONPATH"]},
    )  # fmt: skip
    for text in ("array: 2 job(s), 3 run(s), each job 1 GPU, 2 CPU", "5 min set-up", "a guess: 18 images",
                 "GPU-hours expected", "at most", "partition main", slurm.settings.name):  # fmt: skip
        assert text in done.stdout
    assert not list(world.runs.iterdir())
    assert not slurm.active()
