"""Every way a real cluster says no: one sentence, what is valid, what to type; and nothing is left of the attempt."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from submitit.core.utils import JobPaths

from bench.core.errors import UserError
from bench.launch import slurm, slurm_cluster, slurm_intent, slurm_submit
from bench.launch.base import Job, LaunchOptions
from bench.launch.slurm import Slurm
from bench.launch.slurm_cluster import QueuedJob
from bench.launch.slurm_script import write_tasks
from bench.store import atomic
from bench.store.jobs import read_jobs
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
        ({"report": "true", "report_partition": "hihg"}, "try:   --set slurm.report_partition=high"),
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


def test_a_last_job_that_is_refused_leaves_nothing(on_slurm: Cluster, jobs: Jobs) -> None:
    launcher = Slurm(LaunchOptions(settings={"begin": "yesterday-ish"}))
    runs = jobs(1)[0].folder.parents[2]
    folder = runs / ".slurm/submission/report"
    with pytest.raises(UserError, match="Invalid --begin"):
        slurm_submit.submit_report(["1"], runs, [], folder, launcher.settings, launcher.facts)
    assert not folder.exists()


def test_waiting_on_a_controller_that_is_away_is_said_once_a_minute(
    on_slurm: Cluster, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = iter([True, True, True, False])

    def ask() -> dict[str, QueuedJob]:
        if next(away):
            raise slurm_cluster.away("Connection refused")
        return {}

    (job,) = jobs(1)
    job.folder.mkdir(parents=True)
    (job.folder / "record.json").touch()
    monkeypatch.setattr(slurm_cluster, "active_jobs", ask)
    monkeypatch.setattr(slurm, "POLL_S", 0.01)
    assert [o.exit_code for o in Slurm(LaunchOptions())._wait([job], ["1"])] == [0]
    assert capsys.readouterr().err.count("Connection refused") == 1


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


def test_a_file_that_cannot_be_moved_after_sbatch_takes_the_array_back(
    on_slurm: Cluster, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit moves its pickles when Slurm has taken the array already."""

    def full(self: JobPaths, tmp_path: Path, name: str, **_: object) -> None:
        if name == "submitted_pickle":
            assert on_slurm.active()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(JobPaths, "move_temporary_file", full)
    with pytest.raises(UserError, match="Disk quota exceeded; what Slurm had taken of it is cancelled"):
        launch(jobs(3))
    on_slurm.wait_idle()
    (kept,) = jobs(1)[0].folder.parents[2].glob(".slurm/*/000/tasks.txt")
    assert len(kept.read_text().splitlines()) == 3


def test_what_a_command_submitted_before_it_was_ended_is_found_and_not_submitted_again(
    on_slurm: Cluster, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between sbatch and the notes in the run folders."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    mine = jobs(3)
    runs = mine[0].folder.parents[2]
    for job in mine:
        job.folder.mkdir(parents=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(slurm_submit, "note_job", interrupt)
        launch(mine)
    assert len(on_slurm.active()) == 3
    assert not any(read_jobs(job.folder) for job in mine)
    assert len(slurm_intent.unsettled(runs)) == 1
    folders = [job.folder for job in mine]
    found = Slurm(LaunchOptions()).active(folders)
    assert set(found) == set(folders)
    ids = [read_jobs(folder)[0].job_id for folder in folders]
    assert set(ids) == set(on_slurm.active())
    assert [job_id.partition("_")[2] for job_id in ids] == ["0", "1", "2"]
    assert not slurm_intent.unsettled(runs)
    on_slurm.run("scancel", *ids)
    on_slurm.wait_idle()


def test_what_never_came_into_the_queue_is_forgotten_after_an_hour(tmp_path: Path) -> None:
    folder = tmp_path / ".slurm/submission/000"
    folder.mkdir(parents=True)
    write_tasks(folder, [[tmp_path / "run"]])
    slurm_intent.note(folder, "all", "c")
    slurm_intent.adopt([folder], {"7": QueuedJob("PENDING", "another's")}, "c")
    assert slurm_intent.unsettled(tmp_path) == [folder], "sbatch may be under way"
    facts = atomic.read_json(folder / slurm_intent.FILE)
    atomic.write_json(folder / slurm_intent.FILE, {**facts, "at": "2026-01-01T00:00:00+00:00"})
    slurm_intent.adopt([folder], {}, "another")
    assert slurm_intent.unsettled(tmp_path) == [folder], "another cluster's queue says nothing of it"
    slurm_intent.adopt([folder], {}, "c")
    assert not slurm_intent.unsettled(tmp_path)
