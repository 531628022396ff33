"""Every way a real cluster says no: one sentence, what is valid, what to type; and nothing is left of the attempt."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.launch.base import Job, LaunchOptions
from bench.launch.slurm import Slurm
from tests.launch.cluster import Cluster
from tests.launch.conftest import use, without_slurm
from tests.launch.slurm_programs import NoSlurm

Jobs = Callable[[int], list[Job]]


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """Jobs of run folders that no worker will ever see, as every job here is held or refused."""
    return lambda n: [Job(tmp_path / "runs/suite/tuner" / f"{i:03d}", 60.0) for i in range(n)]


def launch(jobs: list[Job], **settings: str) -> None:
    Slurm(LaunchOptions(settings={"hold": "true", "cpus": "1", "report": "false", **settings})).launch(jobs)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"partition": "mian"}, "no partition 'mian'\nvalid: main, high\ntry:   --set slurm.partition=main"),
        ({"mem_gb": "8"}, "valid: at most 4000 MB"),
        ({"gpus": "3"}, "at most 2 GPUs"),
        ({"cpus": "5"}, "at most 4 CPUs"),
        ({"constraint": "a100"}, "Invalid feature specification"),
        ({"partiton": "main"}, "try:   --set slurm.partition="),
        ({"array": "0-3"}, "--set slurm.parallelism=N"),
        ({"no-requeue": "true"}, "is set by this launcher"),
    ],
)
def test_wrong_requests(on_slurm: Cluster, jobs: Jobs, settings: dict[str, str], says: str) -> None:
    with pytest.raises(UserError) as refused:
        launch(jobs(2), **settings)
    assert says in str(refused.value)
    assert not on_slurm.active()
    assert not list(jobs(1)[0].folder.parents[2].glob(".slurm/*/*/*"))


def test_a_wrong_option_is_refused_whatever_its_value(on_slurm: Cluster, jobs: Jobs) -> None:
    with pytest.raises(UserError, match="refused the job: Invalid --begin specification"):
        launch(jobs(1), begin="yesterday-ish")


def test_inside_a_job_nothing_is_submitted(on_slurm: Cluster, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with pytest.raises(UserError, match="inside Slurm job 12"):
        launch(jobs(1))


def test_without_slurm_it_says_what_is_missing(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch, srun, squeue, scontrol, sinfo"):
        launch(jobs(1))


@pytest.fixture(scope="module")
def narrow() -> Iterator[Cluster | NoSlurm]:
    """A cluster with arrays of 4 and room for 10 jobs."""
    try:
        with Cluster.up(extra=("MaxArraySize=4", "MaxJobCount=10")) as cluster:
            yield cluster
    except NoSlurm as err:
        yield err


def test_arrays_are_split_and_a_full_cluster_says_so(
    narrow: Cluster | NoSlurm, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(narrow, NoSlurm):
        without_slurm(narrow)
    assert isinstance(narrow, Cluster)
    use(narrow, monkeypatch)
    with pytest.raises(UserError, match=r"11 job\(s\) are more than .* \(MaxJobCount\), 0 of them yours"):
        launch(jobs(11))
    launch(jobs(7))
    ids = narrow.active()
    assert len(ids) == 7
    assert {job_id.partition("_")[2] for job_id in ids} == {"0", "1", "2", "3"}
    with pytest.raises(UserError, match="7 of them yours"):
        launch(jobs(6))
    assert len(narrow.active()) == 7
    narrow.run("scancel", *ids)
    narrow.wait_idle()


def test_a_controller_that_is_away(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with Cluster.up(n_nodes=1) as cluster:
            use(cluster, monkeypatch)
            cluster.signal("slurmctld", signal.SIGKILL)
            with pytest.raises(UserError, match="controller does not answer") as refused:
                launch(jobs(1))
            assert "--launcher local" in refused.value.hint
    except NoSlurm as err:
        without_slurm(err)


def test_accounts_quality_of_service_and_their_limits(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a cluster with accounting knows them."""
    try:
        limit = "modify qos normal set MaxSubmitJobsPerUser=3"
        with Cluster.up(accounting=True, n_nodes=1, accounts=(limit,)) as cluster:
            use(cluster, monkeypatch)
            with pytest.raises(UserError, match="account 'nobody'") as refused:
                launch(jobs(1), account="nobody")
            assert "default" in refused.value.valid
            with pytest.raises(UserError, match="quality of service 'fast'"):
                launch(jobs(1), qos="fast")
            with pytest.raises(UserError, match=r"an array of 4 job\(s\) is more than your limits") as refused:
                launch(jobs(4))
            assert "normal|3" in refused.value.valid
            launch(jobs(3), account="default")
            assert len(cluster.active()) == 3
    except NoSlurm as err:
        without_slurm(err)
