"""The private Slurm that the launcher's tests use: it is real, quick, and leaves nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.launch.cluster import Cluster, Daemon
from tests.launch.conftest import without_slurm
from tests.launch.slurm_programs import NoSlurm, unpacked


def submit(cluster: Cluster, script: str, folder: Path, *options: str) -> str:
    """The id of a batch job that runs ``script``."""
    path = folder / "job.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    return cluster.run("sbatch", "--parsable", f"--output={folder}/out", *options, str(path)).strip()


def test_up_in_two_seconds_and_gone_without_a_trace(tmp_path: Path) -> None:
    try:
        with Cluster.up() as cluster:
            base, daemons = cluster.base, list(cluster.daemons)
            job = submit(cluster, "sleep 300", tmp_path)
            cluster.wait(lambda: cluster.queue()[job] == "RUNNING")
    except NoSlurm as err:
        without_slurm(err)
    assert cluster.up_s < 2.0
    assert not base.exists()
    assert not any(daemon.alive() for daemon in daemons)


def test_a_job_that_escaped_slurm_is_found(tmp_path: Path) -> None:
    found: list[Daemon] = []
    with pytest.raises(Exception, match="outlived"), Cluster.up() as cluster:
        submit(cluster, "setsid sh -c 'exec sleep 297' & sleep 0.3", tmp_path)
        cluster.wait_idle()
        found += cluster.daemons
    assert not any(d.alive() for d in found)
    left = subprocess.run(["pgrep", "-f", "^sleep 297$"], capture_output=True, text=True, check=False).stdout
    assert not left


def test_gpus_are_handed_out_one_by_one(slurm: Cluster, tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(2)]
    for folder in folders:
        folder.mkdir()
        submit(slurm, "echo $CUDA_VISIBLE_DEVICES; sleep 0.5", folder, "--gpus-per-node=1", "--nodelist=n1")
    slurm.wait_idle()
    assert {(folder / "out").read_text().strip() for folder in folders} == {"0", "1"}


def test_an_unpacked_slurm_runs_jobs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine without root does: nothing installed is used."""
    try:
        programs = unpacked(tmp_path / "debs")
    except NoSlurm as err:
        without_slurm(err)
    monkeypatch.setattr("tests.launch.slurm_programs.find", lambda **_: programs)
    with Cluster.up() as cluster:
        (slurmctld,) = (d for d in cluster.daemons if d.name == "slurmctld")
        assert str(tmp_path) in str(Path(f"/proc/{slurmctld.pid}/exe").resolve())
        submit(cluster, "srun echo hello", tmp_path)
        cluster.wait_idle()
    assert (tmp_path / "out").read_text() == "hello\n"

