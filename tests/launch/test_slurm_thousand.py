"""A thousand runs are submitted in seconds: the same path as any submission, with jobs that are held."""

from __future__ import annotations

import time
from pathlib import Path

from bench.launch.base import Job, LaunchOptions
from bench.launch.slurm import Slurm
from bench.store.jobs import read_jobs
from tests.launch.cluster import Cluster


def test_a_thousand_runs_are_submitted_in_ten_seconds(on_slurm: Cluster, tmp_path: Path) -> None:
    jobs = [Job(tmp_path / "runs/suite/tuner" / f"{i:04d}", 60.0) for i in range(1000)]
    launcher = Slurm(LaunchOptions(settings={"hold": "true", "cpus": "1", "report": "false"}))
    start = time.monotonic()
    launcher.launch(jobs)
    submitted_s = time.monotonic() - start
    ids = on_slurm.active()
    assert len(ids) == 1000
    assert submitted_s < 10.0
    # every run folder knows its job, and one squeue call finds all of them
    assert {read_jobs(job.folder)[0].job_id for job in jobs} == set(ids)
    start = time.monotonic()
    assert len(launcher.active([job.folder for job in jobs])) == 1000
    assert time.monotonic() - start < 5.0
    on_slurm.run("scancel", next(iter(ids)).partition("_")[0])
    on_slurm.wait_idle()


def test_the_pickle_is_small_and_holds_paths_only(on_slurm: Cluster, tmp_path: Path) -> None:
    job = Job(tmp_path / "runs/suite/tuner/0", 60.0)
    Slurm(LaunchOptions(settings={"hold": "true", "cpus": "1", "report": "false"})).launch([job])
    (pickled,) = tmp_path.glob("runs/.slurm/*/000/*_submitted.pkl")
    assert pickled.stat().st_size < 2000
    assert str(job.folder).encode() in pickled.read_bytes()
    on_slurm.run("scancel", *on_slurm.active())
    on_slurm.wait_idle()
