"""Several processes tune one run: the same answer, one ledger, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import World

NewWorld = Callable[[], World]


def adapter(world: World, tuner: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(world.folder(tuner) / "snapshots" / "f100" / "adapter" / "pytorch_lora_weights.safetensors")


def ledger(world: World, tuner: str) -> dict[str, float]:
    spent: dict[str, float] = world.record(tuner)["ledger"]["spent"]
    return {kind: amount for kind, amount in spent.items() if kind != "device_s"}


def apart(a: dict[str, Any], b: dict[str, Any]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def followers(world: World) -> list[int]:
    """Process ids of the processes beside the worker of this world's run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "--rank" in words and any(word.startswith(str(world.runs)) for word in words):
            found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("tuner", "settings"), [("drtune", []), ("refl", ["pretrain_weight=0.5", "pretrain_pool=3"])])
def test_two_processes_with_half_the_batch_are_one_with_the_whole(
    new_world: NewWorld, tuner: str, settings: list[str]
) -> None:
    one, two = new_world(), new_world()
    args = ["--budget", "steps=4", *(word for pair in settings for word in ("--set", pair))]
    for world, n in ((one, "1"), (two, "2")):
        done = world.alone("--processes", n, *args, tuner=tuner)
        assert done.returncode == 0, done.stderr
    assert one.folder(tuner).name == two.folder(tuner).name
    assert ledger(two, tuner) == ledger(one, tuner)
    assert apart(adapter(one, tuner), adapter(two, tuner)) < 1e-5
    record = two.record(tuner)
    assert (record["provenance"]["world_size"], record["provenance"]["micro_batch"]) == (2, 1)
    # the reward that is logged is the batch's: the mean over the processes
    column = record["curve"]["columns"].index("reward")
    (a, b) = ([row[column] for row in w.record(tuner)["curve"]["rows"]] for w in (one, two))
    assert a == pytest.approx(b, abs=1e-5)
    assert followers(two) == []


def test_gradients_that_nobody_sums_fail_that_test(new_world: NewWorld) -> None:
    """The pattern of kvablack/ddpo-pytorch #10: the processes' adapters drift apart, and the run says so."""
    one, two = new_world(), new_world()
    assert one.alone(tuner="micro-unsynced").returncode == 0
    done = two.alone("--processes", "2", tuner="micro-unsynced")
    assert done.returncode == 2
    assert "a different adapter in each" in done.stderr
    assert "ctx.all_reduce" in done.stderr
    assert not (two.folder("micro-unsynced") / "record.json").exists()


def test_a_killed_process_ends_the_others_and_the_run_continues(new_world: NewWorld) -> None:
    world, whole = new_world(), new_world()
    args, tuner = ("--processes", "2", "--budget", "denoiser_u=360"), "micro-unhurried"
    command = world.start(*args, tuner=tuner)
    wait_for(lambda: list(world.runs.glob("*/*/*/checkpoints/*/meta.json")))
    (follower,) = followers(world)
    os.kill(follower, signal.SIGKILL)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 2
    assert "process 2 of 2 was killed (SIGKILL)" in errors
    assert "the same command again continues" in errors
    assert not (world.folder(tuner) / "record.json").exists()
    for w in (whole, world):
        done = w.alone(*args, tuner=tuner)
        assert done.returncode == 0, done.stderr
    assert "continuing at unit" in done.stderr
    assert [a["exit"][:16] for a in world.record(tuner)["attempts"]] == ["stopped: process", "done"]
    assert apart(adapter(world, tuner), adapter(whole, tuner)) == 0
    assert ledger(world, tuner) == ledger(whole, tuner)


def test_sigterm_ends_all_at_one_safe_point(world: World) -> None:
    command = world.start("--processes", "2", "--launcher", "inline", "--budget", "denoiser_u=20000")
    wait_for(lambda: list(world.runs.glob("*/*/*/attempts/001/events.jsonl")) and followers(world))
    wait_for(lambda: (world.folder() / "attempts/001/events.jsonl").stat().st_size)
    command.send_signal(signal.SIGTERM)
    command.communicate(timeout=60)
    assert json.loads((world.folder() / "attempts/001/exit.json").read_text())["exit"] == "interrupted"
    assert list(world.folder().glob("checkpoints/*/meta.json"))
    assert followers(world) == []


def test_the_command_killed_leaves_no_process(world: World) -> None:
    command = world.start("--processes", "2", "--budget", "denoiser_u=20000")
    wait_for(lambda: followers(world))
    command.send_signal(signal.SIGKILL)
    command.communicate()
    wait_for(lambda: not followers(world), 20)


@pytest.mark.parametrize(("tuner", "status"), [("micro-failing", "failed"), ("micro-diverging", "diverged")])
def test_what_one_process_meets_is_the_runs_ending(world: World, tuner: str, status: str) -> None:
    """Only process 2 misbehaves; the record tells it as if the run had been one process."""
    done = world.alone("--processes", "2", "--set", "only_rank=1", tuner=tuner)
    assert done.returncode == 1, done.stderr
    record = world.record(tuner)
    assert record["status"] == status
    assert ("out of ideas" if status == "failed" else "nan") in record["reason"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--processes", "3"], "valid: 1, 2"),
        (["--processes", "0"], "valid: 1, 2"),
        (["--micro-batch", "3"], "from 1 to 2"),
        (["--micro-batch", "2", "--processes", "2"], "from 1 to 1"),
    ],
)
def test_batches_that_do_not_divide_are_refused_with_what_is_valid(world: World, args: list[str], says: str) -> None:
    done = world.run(*args)
    assert done.returncode == 2
    assert says in done.stderr
