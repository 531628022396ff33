"""Two copies of one run, as a node failure leaves them: the older lives on where no lock reaches the newer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core import exits
from bench.engine.attempt import read_units
from bench.store.runs import RunFolder
from tests.engine.conftest import World
from tests.engine.test_processes import wait_for
from tests.engine.test_runs import Finished, answers


def shared_files(root: Path) -> dict[str, bytes]:
    """All that attempts share: not what is attempt 1's own."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*"))
            if p.is_file() and "attempts/001" not in p.as_posix()}  # fmt: skip


def test_the_older_copy_changes_nothing_and_the_run_equals_an_uninterrupted_one(
    world: World, finished: Finished
) -> None:
    in_job = {**world.env, "SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "c"}
    command = [*world.command("--launcher", "inline")]
    older = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=in_job)
    wait_for(lambda: any(p.stat().st_size for p in world.runs.glob("*/*/*/attempts/001/events.jsonl")))
    # an unreachable node: the copy stands still, holds its lock, and comes back later
    os.kill(older.pid, signal.SIGSTOP)
    root = world.folder()
    kept = RunFolder(root).load_checkpoint()[1].get("spent", {"denoiser_u": 0})["denoiser_u"]
    worker = [sys.executable, "-m", "bench.engine.worker", str(root)]
    again = {**in_job, "SLURM_RESTART_COUNT": "1"}
    newer = subprocess.Popen(worker, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=again)
    wait_for((root / "attempts/002/events.jsonl").exists)
    # the newer copy in the middle of its work: the older one goes on tuning beside it
    os.kill(older.pid, signal.SIGCONT)
    _, said = older.communicate(timeout=400)
    assert older.returncode == exits.STALE, said
    assert f"run {root.name} was started anew by attempt 2 on" in said
    assert "job 7; this copy, attempt 1, stops" in said
    _, errors = newer.communicate(timeout=400)
    assert newer.returncode == exits.DONE, errors
    record = world.record()
    assert answers(record) == answers(finished[0].record())
    assert [a["exit"].split(":")[0] for a in record["attempts"]] == ["stopped", "done"]
    assert [a["job_id"] for a in record["attempts"]] == ["7", "7"]
    assert record["attempts"][1]["token"] == json.loads((root / "fence.json").read_text())["token"]
    # one curve: that of the newer copy
    units = [row[0] for row in record["curve"]["rows"]]
    assert units == list(range(1, len(units) + 1))
    # all that the older copy did beyond the checkpoint, also what it did after the newer one had begun
    reached = list(read_units(root / "attempts/001"))[-1]["spent"]["denoiser_u"]
    ledger = record["ledger"]
    assert ledger["lost"]["denoiser_u"] == record["attempts"][1]["lost"]["denoiser_u"] == reached - kept > 0


def test_a_copy_that_comes_back_after_the_end_changes_no_byte(world: World) -> None:
    in_job = {**world.env, "SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "c"}
    command = [*world.command("--launcher", "inline")]
    older = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=in_job)
    wait_for(lambda: any(p.stat().st_size for p in world.runs.glob("*/*/*/attempts/001/events.jsonl")))
    os.kill(older.pid, signal.SIGSTOP)
    root = world.folder()
    done = subprocess.run([sys.executable, "-m", "bench.engine.worker", str(root)], capture_output=True, text=True,
                          check=False, env={**in_job, "SLURM_RESTART_COUNT": "1"}, timeout=400)  # fmt: skip
    assert done.returncode == exits.DONE, done.stderr
    before = shared_files(root)
    os.kill(older.pid, signal.SIGCONT)
    older.communicate(timeout=400)
    assert older.returncode == exits.STALE
    assert shared_files(root) == before


def test_stages_are_separate_and_evaluation_waits_for_tuning(world: World, finished: Finished) -> None:
    """``--stage``: what a cluster submits as two jobs ends in the record of one."""

    def stage(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "bench.engine.worker", str(world.folder()), "--stage", name],
                              capture_output=True, text=True, check=False, env=world.env, timeout=400)  # fmt: skip

    command = world.start("--launcher", "inline")
    wait_for(lambda: any(p.stat().st_size for p in world.runs.glob("*/*/*/attempts/001/events.jsonl")))
    command.send_signal(signal.SIGUSR2)
    command.communicate(timeout=60)
    assert command.returncode == exits.REQUEUE
    early = stage("evaluate")
    assert early.returncode == exits.USER
    assert "is not tuned yet:" in early.stderr and "% of its denoiser_u budget" in early.stderr
    assert stage("tune").returncode == exits.DONE
    assert not (world.folder() / "record.json").exists()
    assert stage("evaluate").returncode == exits.DONE
    record = world.record()
    assert answers(record) == answers(finished[0].record())
    assert [(a["stage"], a["exit"]) for a in record["attempts"]] == [
        ("all", "requeue"), ("tune", "tuned"), ("evaluate", "done"),
    ]  # fmt: skip
    for number in ("001", "002", "003"):
        assert (world.folder() / "attempts" / number / "log.txt").stat().st_size
    assert "score: " in (world.folder() / "attempts/003/log.txt").read_text()
    assert record["attempts"][0]["checkpoints"] >= 1


def test_a_log_keeps_what_c_code_and_a_crash_print(new_world: Callable[[], World]) -> None:
    world = new_world()
    done: Any = world.run(tuner="micro-exiting")
    assert done.returncode == 1
    record = world.record("micro-exiting")
    assert (record["status"], record["reason"]) == ("failed", "the worker left with exit code 7")
    log = (world.folder("micro-exiting") / "attempts/001/log.txt").read_text()
    assert "written past Python" in log
    assert "written past Python" in record["error"]["tail"]
    assert "written past Python" in done.stderr
    shown = world.bench("logs", world.folder("micro-exiting").name, "--runs", str(world.runs))
    assert shown.stdout == log
