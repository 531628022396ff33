"""Everything that a cluster does to runs, on a real one: whatever it was, the same command ends in the same answer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.store.fence import read_fence
from tests.engine.conftest import World
from tests.engine.test_runs import answers
from tests.launch.cluster import Cluster
from tests.launch.conftest import without_slurm
from tests.launch.fates import SLOW, TUNER, WHY_SLOW, OnCluster, check_accounts, record
from tests.launch.slurm_programs import NoSlurm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SLOW, reason=WHY_SLOW)]
SEEDS = 4


@pytest.fixture(scope="module")
def plain(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same runs on this machine, uninterrupted."""
    world = World(random_model, tmp_path_factory.mktemp("plain"))
    done = world.run("--seeds", str(SEEDS), "--jobs", "2", tuner=TUNER)
    assert done.returncode == 0, done.stderr
    return world


def same_as(plain: World, folder: Path) -> None:
    """The answer is that of the run that nothing happened to."""
    found = record(folder)
    check_accounts(found)
    assert answers(found) == answers(record(plain.runs / "micro-sample@1" / TUNER / folder.name))


@pytest.fixture
def graceful() -> Iterator[Cluster]:
    """A cluster that warns: 20 s before it takes a node, by the signal that the job asked for."""
    try:
        with Cluster.up(grace_s=20, user_signal=True) as cluster:
            yield cluster
    except NoSlurm as err:
        without_slurm(err)


def test_four_fates_of_one_array(slurm: Cluster, world: World, plain: World) -> None:
    """At once: preempted, requeued by hand, its task cancelled, its worker killed."""
    on = OnCluster(world, slurm)
    on.submit("--seeds", str(SEEDS))
    first, requeued, cancelled, killed = on.folders()
    for folder in (first, requeued, cancelled, killed):
        on.wait_checkpoint(folder, 1)
    slurm.run("scontrol", "requeue", on.job(requeued))
    done = on.bench("cancel", cancelled.name, "--runs", str(world.runs))
    assert f"job {on.job(cancelled)} is cancelled" in done.stdout, done.stderr
    holder = read_fence(killed)
    assert holder is not None
    os.kill(holder["pid"], signal.SIGKILL)
    slurm.wait(lambda: slurm.queue()[on.job(cancelled)] == "CANCELLED")
    said = on.submit("--seeds", str(SEEDS))
    assert "1 run(s) submitted" in said, "a task that was cancelled took others with it"
    on.wait_checkpoint(killed, 2)
    if not (first / "record.json").exists():
        on.preempt(first)
    slurm.wait_idle(500)
    for folder in (first, requeued, cancelled, killed):
        same_as(plain, folder)
        assert len(record(folder)["attempts"]) >= (1 if folder is first else 2)
    assert record(killed)["attempts"][0]["exit"] == "killed"
    assert {row["state"] for row in on.states().values()} == {"done"}
    on.is_over("--seeds", str(SEEDS))


def test_preempted_twice_in_one_run(slurm: Cluster, world: World, plain: World) -> None:
    on = OnCluster(world, slurm)
    on.submit()
    (folder,) = on.folders()
    for attempt in (1, 2):
        on.wait_checkpoint(folder, attempt)
        on.preempt(folder)
    slurm.wait_idle(500)
    same_as(plain, folder)
    assert len(record(folder)["attempts"]) == 3
    on.is_over()


def test_with_grace_the_signal_keeps_a_checkpoint_and_nothing_is_lost(
    graceful: Cluster, world: World, plain: World
) -> None:
    on = OnCluster(world, graceful)
    on.submit("--set", "slurm.time_min=60")
    (folder,) = on.folders()
    on.wait_checkpoint(folder, 1)
    on.preempt(folder)
    graceful.wait_idle(500)
    same_as(plain, folder)
    found = record(folder)
    assert [a["exit"] for a in found["attempts"]] == ["requeue", "done"]
    assert not any(found["ledger"]["lost"].values())
    on.is_over("--set", "slurm.time_min=60")


def test_a_time_limit_is_one_interruption_more(slurm: Cluster, world: World) -> None:
    """Limits count whole minutes and are looked at twice a minute; 300 units take 160 s on an idle machine."""
    on = OnCluster(world, slurm)
    args = ("--budget", "steps=1000", "--set", "units=300", "--set", "slurm.time_min=2", "--set", "slurm.signal_s=15",
            "--hard-limit", "900")  # fmt: skip
    on.submit(*args, tuner="micro-slow")
    (folder,) = on.folders("micro-slow")
    slurm.wait_idle(600)
    if not (folder / "record.json").exists():
        on.submit(*args, tuner="micro-slow")
        slurm.wait_idle(600)
    found = record(folder)
    assert found["status"] == "done"
    assert len(found["attempts"]) >= 2
    assert [row[0] for row in found["curve"]["rows"]] == list(range(1, 301))
    on.is_over(*args, tuner="micro-slow")


LONG = ("--budget", "denoiser_u=4000", "--hard-limit", "900")


def test_a_node_that_slurm_gave_up_lives_on(slurm: Cluster, world: World) -> None:
    """slurmd is killed: Slurm starts the run on the other node while the older copy still works."""
    whole = World(world.model, world.runs.parent / "whole")
    uninterrupted = whole.start(*LONG, tuner=TUNER)
    on = OnCluster(world, slurm)
    on.submit(*LONG)
    (folder,) = on.folders()
    on.wait_checkpoint(folder, 1)
    older = read_fence(folder)
    assert older is not None and older["host"] == socket.gethostname()
    node = slurm.run("squeue", "-h", "-o", "%N", "-j", on.job(folder)).strip()
    slurm.signal(f"slurmd-{node}")
    try:
        slurm.wait((folder / "attempts/002/events.jsonl").exists, 300)
        (state,) = on.states().values()
        assert (state["state"], state["attempt"]) == ("running", 2)
        slurm.wait((folder / "attempts/001/exit.json").exists, 120)
        assert "was started anew by attempt 2" in (folder / "attempts/001/log.txt").read_text()
    finally:
        slurm.start(f"slurmd-{node}")
    slurm.wait_idle(500)
    _, errors = uninterrupted.communicate(timeout=500)
    assert uninterrupted.returncode == 0, errors
    found = record(folder)
    assert answers(found) == answers(whole.record(TUNER))
    check_accounts(found, 4000)
    assert [a["number"] for a in found["attempts"]] == [1, 2]
    assert found["attempts"][0]["exit"].startswith("stopped: run")
    on.is_over(*LONG)


def test_the_controller_goes_and_comes_back(slurm: Cluster, world: World, plain: World) -> None:
    """The job runs on, the command that waits for it goes on waiting, and status says what the folders know."""
    on = OnCluster(world, slurm)
    waiting = on.start("--wait")
    slurm.wait(lambda: any(world.runs.glob(f"micro-sample@1/{TUNER}/*/jobs/*.json")), 200)
    (folder,) = on.folders()
    on.wait_checkpoint(folder, 1)
    slurm.signal("slurmctld", signal.SIGTERM)
    shown = on.bench("status", "--runs", str(world.runs))
    assert shown.returncode == 0, shown.stderr
    assert "the cluster does not answer" in shown.stdout
    assert "running" in shown.stdout
    slurm.start("slurmctld")
    slurm.wait(lambda: "UP" in slurm.run("scontrol", "ping", check=False), 30)
    _, said = waiting.communicate(timeout=500)
    assert waiting.returncode == 0, said
    slurm.wait_idle(60)
    same_as(plain, folder)
    assert len(record(folder)["attempts"]) == 1
    on.is_over()


def test_a_run_that_raises_or_leaves_is_a_row_and_takes_no_other_with_it(slurm: Cluster, world: World) -> None:
    on = OnCluster(world, slurm)
    tuners = "micro-failing,micro-exiting,micro-unpicklable,micro-slow"
    args = ("--budget", "steps=100", "--set", "units=14")
    on.submit(*args, tuner=tuners)
    slurm.wait_idle(500)
    reasons = {t: record(*on.folders(t))["reason"] for t in tuners.split(",")}
    assert reasons["micro-failing"] == "RuntimeError: out of ideas"
    assert reasons["micro-exiting"] == "the worker left with exit code 7"
    assert "pickle" in reasons["micro-unpicklable"]
    assert reasons["micro-slow"] == "done"
    again = on.submit(*args, tuner=tuners)
    assert again.count("--retry-failed") == 3
    assert again.count("already done: ") == 1
    assert not slurm.active()


def test_a_folder_that_is_removed_while_its_job_waits(slurm: Cluster, world: World) -> None:
    on = OnCluster(world, slurm)
    on.submit("--set", "slurm.hold=true")
    (folder,) = on.folders()
    assert on.states()[folder.name]["state"] == "queued"
    job = on.job(folder)
    shutil.rmtree(folder)
    slurm.run("scontrol", "release", job)
    slurm.wait_idle(400)
    assert not (folder / "record.json").exists()
    on.submit()
    slurm.wait_idle(400)
    assert record(folder)["status"] == "done"
    on.is_over()
