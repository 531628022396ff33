"""``bench status``, ``logs`` and ``cancel`` on run folders and a real queue; what works there needs no torch."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli.status import _now
from bench.core.identity import canonical_json, plain
from bench.store import atomic
from bench.store.fence import Fence
from bench.store.jobs import SubmittedJob, note_job, now
from bench.store.runs import RunFolder, run_folder
from tests.core.test_identity import SPEC
from tests.launch.cluster import Cluster

N = 1000


def make_runs(runs: Path, n: int) -> list[RunFolder]:
    """Prepared run folders that nobody has worked on."""
    folders = []
    for seed in range(n):
        spec = replace(SPEC, seed=seed)
        folder = run_folder(runs, spec)
        # not flushed to the disk as ``write_spec`` does, which a thousand times over is minutes
        folder.root.mkdir(parents=True)
        folder.spec_path.write_text(canonical_json(plain(spec)))
        folders.append(folder)
    return folders


def bench(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench", *args], capture_output=True, text=True, check=False,
                          env=env or dict(os.environ), timeout=200)  # fmt: skip


def hold(slurm: Cluster, n: int) -> str:
    """An array of jobs that wait until somebody lets them go."""
    return slurm.run(
        "sbatch", "--parsable", "--hold", f"--array=0-{n - 1}", "-o", "/dev/null", "--wrap", "true"
    ).strip()


def start(*args: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "bench", *args], stdout=subprocess.PIPE, text=True,
                            env=env or dict(os.environ))  # fmt: skip


def status(runs: Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = bench("status", "--runs", str(runs), "--json", env=env)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def test_a_thousand_runs_are_one_question_to_the_cluster(slurm: Cluster, tmp_path: Path) -> None:
    folders = make_runs(tmp_path, N)
    array = slurm.run(
        "sbatch", "--parsable", "--hold", f"--array=0-{N - 1}", "-o", "/dev/null", "--wrap", "true"
    ).strip()
    for k, folder in enumerate(folders):
        atomic_free_note(folder, f"{array}_{k}")
        if k % 2:
            folder.record_path.write_text(
                json.dumps({"status": "done", "reason": "budget:steps", "more": [0.1] * 20_000})
            )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = status(tmp_path, slurm.env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # processor time: the machine may have others to serve
    took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    slurm.run("scancel", array)
    slurm.wait_idle()
    assert shown["cluster"] == {"calls": 1, "problem": ""}
    assert [row["state"] for row in shown["runs"]].count("queued") == N // 2
    assert [row["state"] for row in shown["runs"]].count("done") == N // 2
    assert "JobHeldUser" in next(row["reason"] for row in shown["runs"] if row["state"] == "queued")
    assert took_s < 6, f"{took_s:.1f} s"


def atomic_free_note(folder: RunFolder, job_id: str) -> None:
    """``note_job`` without its flush to the disk, which a thousand times over is most of this test."""
    path = folder.root / "jobs" / f"{job_id}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"job_id": job_id, "submitted": now(), "cluster": "c"}))


def test_without_slurm_and_with_its_controller_away_the_folders_speak(slurm: Cluster, tmp_path: Path) -> None:
    (folder,) = make_runs(tmp_path, 1)
    note_job(folder.root, SubmittedJob("12_3", now()))
    bare = status(tmp_path, {**os.environ, "PATH": str(tmp_path)})
    assert "no squeue" in bare["cluster"]["problem"]
    assert bare["runs"][0]["state"] == "queued"
    # a port at which nobody answers: what a user sees while the controller is down
    away = tmp_path / "slurm.conf"
    conf = (slurm.base / "slurm.conf").read_text()
    away.write_text(conf.replace(f"SlurmctldPort={slurm.settings.port}", "SlurmctldPort=1").replace(
        "SlurmctldTimeout=10", "SlurmctldTimeout=10\nMessageTimeout=2"))  # fmt: skip
    done = bench("status", "--runs", str(tmp_path), env={**slurm.env, "SLURM_CONF": str(away)})
    assert done.returncode == 0
    assert len([line for line in done.stdout.splitlines() if "the cluster does not answer" in line]) == 1
    assert "queued" in done.stdout


def test_a_queued_run_is_cancelled_and_says_what_continues_it(slurm: Cluster, tmp_path: Path) -> None:
    one, two = make_runs(tmp_path, 2)
    job = hold(slurm, 2)
    for k, folder in enumerate((one, two)):
        note_job(folder.root, SubmittedJob(f"{job}_{k}", now(), slurm.settings.name))
    assert bench("cancel", "--runs", str(tmp_path), env=slurm.env).returncode == 2
    done = bench("cancel", one.root.name, "--runs", str(tmp_path), env=slurm.env)
    assert done.returncode == 0, done.stderr
    assert f"job {job}_0 is cancelled; the same bench run command continues" in done.stdout
    slurm.wait(lambda: slurm.active() == {f"{job}_1": "PENDING"})
    again = bench("cancel", one.root.name, "--runs", str(tmp_path), env=slurm.env)
    assert "nothing to cancel: it is cancelled" in again.stdout
    rest = bench("cancel", "--all", "--runs", str(tmp_path), env=slurm.env)
    assert f"{two.root.name}: job {job}_1 is cancelled" in rest.stdout
    assert one.root.name not in rest.stdout
    slurm.wait_idle()


def test_watching_ends_when_nothing_waits_or_runs_any_more(slurm: Cluster, tmp_path: Path) -> None:
    (folder,) = make_runs(tmp_path, 1)
    job = slurm.run("sbatch", "--parsable", "--hold", "-o", "/dev/null", "--wrap", "true").strip()
    note_job(folder.root, SubmittedJob(job, now(), slurm.settings.name))
    with start("status", "--watch", "--every", "0.5", "--runs", str(tmp_path), env=slurm.env) as watching:
        assert watching.stdout is not None
        assert f": queued (job {job}: JobHeldUser" in watching.stdout.readline()
        slurm.run("scontrol", "release", job)
        lines = watching.stdout.read().splitlines()
    assert watching.returncode == 0
    assert lines[-1].endswith(f": failed (job {job}: COMPLETED)"), "it ended, and left no record"
    slurm.wait_idle()


@pytest.mark.parametrize(
    ("stage", "spent", "shown"),
    [
        # the first unit of an attempt that goes on from a checkpoint
        ({"name": "tune", "count": 0, "total": 2400, "rate_per_s": 0.0, "eta_s": None}, 320, "tune 13 %, – U/s"),
        ({"name": "tune", "count": 600, "total": 2400, "rate_per_s": 12.0, "eta_s": 150.0}, 600,
         "tune 25 %, 12 U/s, 2 min left"),
        ({"name": "score", "count": 1, "total": 4, "rate_per_s": 0.5, "eta_s": 6.0}, 2400,
         "score 25 %, 0.5 U/s, 6 s left"),
    ],
)  # fmt: skip
def test_the_share_is_of_what_is_spent_and_no_rate_is_shown_before_there_is_one(
    stage: dict[str, Any], spent: float, shown: str
) -> None:
    assert _now({**stage, "unit": "U"}, spent) == shown


def claim(folder: RunFolder, **facts: Any) -> Fence:
    return Fence.claim(folder.root, {"host": "elsewhere", "pid": 1, "job_id": None, "started": now(), **facts})


def test_a_run_on_another_machine_is_known_by_its_pulse(tmp_path: Path) -> None:
    (folder,) = make_runs(tmp_path, 1)
    fence = claim(folder)
    stage = {"name": "tune", "count": 45, "total": 100, "unit": "U", "rate_per_s": 11.0, "eta_s": 5.0, "info": ""}
    pulse = fence.attempt / "pulse.json"
    pulse.write_text(json.dumps({"beat": 3, "stage": stage}))
    shown = bench("status", "--runs", str(tmp_path)).stdout
    assert "running" in shown
    assert "tune 45 %, 11 U/s, 5 s left" in shown
    said = bench("cancel", folder.root.name, "--runs", str(tmp_path)).stdout
    assert "ssh elsewhere kill 1" in said
    for path in (pulse, fence.attempt / "env.json"):
        os.utime(path, (time.time() - 600,) * 2)
    (row,) = status(tmp_path)["runs"]
    assert row["state"] == "lost"
    assert row["reason"] == "no sign of life for 10 min from elsewhere"
    assert "the same bench run command continues it" in row["hint"]


def test_logs_show_the_newest_attempt_or_one_and_follow_over_attempts(tmp_path: Path) -> None:
    (folder,) = make_runs(tmp_path, 1)
    name, runs = folder.root.name, ("--runs", str(tmp_path))
    assert "no attempt has begun" in bench("logs", name, *runs).stderr
    first = claim(folder)
    (first.attempt / "log.txt").write_text("one\n")
    second = claim(folder)
    (second.attempt / "log.txt").write_text("two\n")
    assert bench("logs", name, *runs).stdout == "two\n"
    assert bench("logs", name, "--attempt", "1", *runs).stdout == "one\n"
    assert "valid: 1, 2" in bench("logs", name, "--attempt", "3", *runs).stderr

    with start("logs", name, "--follow", *runs) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "two\n"
        with (second.attempt / "log.txt").open("a") as log:
            log.write("more\n")
        assert following.stdout.readline() == "more\n"
        third = claim(folder)
        (third.attempt / "log.txt").write_text("three\n")
        assert following.stdout.readline() == "three\n"
        with third:
            atomic.write_json(folder.record_path, {"status": "done", "reason": ""})
        assert following.stdout.read() == ""
    assert following.returncode == 0


@pytest.mark.parametrize("words", [["--json", "--watch"]])
def test_what_does_not_go_together_is_refused(tmp_path: Path, words: list[str]) -> None:
    assert bench("status", *words, "--runs", str(tmp_path)).returncode == 2
