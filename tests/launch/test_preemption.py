"""A run that a higher partition preempts goes on from its checkpoint, bit for bit."""

from __future__ import annotations

from tests.engine.conftest import World
from tests.engine.test_runs import answers
from tests.launch.cluster import Cluster
from tests.launch.fates import TUNER, OnCluster, check_accounts, record

SHORT = ("--budget", "denoiser_u=720")
"""Fifteen seconds: the first checkpoint comes after five, and a busy cluster takes some of the rest to preempt."""


def test_preempted_without_a_word_and_requeued_it_ends_as_if_nothing_had_been(slurm: Cluster, world: World) -> None:
    on = OnCluster(world, slurm)
    on.submit(*SHORT)
    (folder,) = on.folders()
    on.wait_checkpoint(folder, 1)
    on.preempt(folder)
    (state,) = on.states().values()
    assert state["state"] in ("requeued", "running")
    assert state["job_id"] == on.job(folder)
    plain = World(world.model, world.runs.parent / "plain")
    assert plain.run(*SHORT, tuner=TUNER).returncode == 0
    slurm.wait_idle(400)
    found = record(folder)
    assert answers(found) == answers(plain.record(TUNER))
    check_accounts(found, 720)
    assert len(found["attempts"]) == 2
    assert found["attempts"][0]["exit"] in ("interrupted", "killed")
    assert {a["job_id"] for a in found["attempts"]} == {on.job(folder)}
