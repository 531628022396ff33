"""With slurmdbd and MariaDB: what the controller has forgotten, ``sacct`` still knows."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench.store.jobs import SubmittedJob, note_job, now
from tests.launch.cluster import Cluster
from tests.launch.conftest import without_slurm
from tests.launch.slurm_programs import NoSlurm
from tests.launch.test_status import make_runs, status


@pytest.mark.slow
def test_of_jobs_that_squeue_forgot_sacct_says_how_they_ended(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    failing, cancelled, unknown = (folder.root for folder in make_runs(runs, 3))
    try:
        with Cluster.up(accounting=True) as cluster:
            jobs = {}
            for folder, script in ((failing, "exit 3"), (cancelled, "sleep 300")):
                jobs[folder] = cluster.run("sbatch", "--parsable", "-o", "/dev/null", "--wrap", script).strip()
                note_job(folder, SubmittedJob(jobs[folder], now(), cluster.settings.name))
            note_job(unknown, SubmittedJob("4711", now(), cluster.settings.name))
            cluster.wait(lambda: cluster.queue()[jobs[cancelled]] == "RUNNING")
            cluster.run("scancel", jobs[cancelled])
            cluster.wait_idle()
            for state in ("FAILED", "CANCELLED"):
                cluster.wait(lambda s=state: s in cluster.run("sacct", "-n", "-X", "-P", "-o", "State"))  # type: ignore[misc]
            # a controller that starts without its state has forgotten every job
            cluster.signal("slurmctld", signal.SIGTERM)
            cluster.wait(lambda: not cluster.daemon("slurmctld").alive())
            cluster.start("slurmctld", "-c")
            cluster.wait(lambda: cluster.idle_nodes() == 2)
            assert not cluster.queue()
            shown = status(runs, cluster.env)
    except NoSlurm as err:
        without_slurm(err)
    # one squeue and one sacct for all
    assert shown["cluster"] == {"calls": 2, "problem": ""}
    rows = {row["run_id"]: row for row in shown["runs"]}
    assert (rows[failing.name]["state"], rows[failing.name]["reason"]) == (
        "failed", f"job {jobs[failing]}: FAILED, exit code 3:0")  # fmt: skip
    assert rows[cancelled.name]["state"] == "cancelled"
    assert rows[unknown.name]["state"] == "lost"
    assert "no longer knows its job 4711" in rows[unknown.name]["reason"]
