"""Several runs at once on this machine: no more than asked for, each legible, and none left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from bench.core import exits
from bench.launch.local import _gpus_for
from bench.store.fence import read_fence
from tests.engine.conftest import World
from tests.engine.test_processes import wait_for

ARGS = ("--budget", "steps=100", "--set", "units=8")
TUNER = "micro-slow"


def folders(world: World) -> list[Path]:
    return sorted(world.runs.glob(f"micro-sample@1/{TUNER}/*"))


def begun(world: World) -> list[Path]:
    return [f for f in folders(world) if list(f.glob("attempts/*/events.jsonl"))]


def workers(world: World) -> list[int]:
    """Process ids that work in this world's run folders."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(world.runs / "micro-sample@1") in word for word in words):
            found.append(int(path.parent.name))
    return found


def test_two_of_three_at_once_a_killed_worker_starts_again_and_lines_name_their_run(world: World) -> None:
    command = world.start("--seeds", "3", "--jobs", "2", *ARGS, tuner=TUNER)
    wait_for(lambda: len(begun(world)) >= 2)
    assert len(begun(world)) == 2, "more than --jobs"
    first = begun(world)[0]
    holder = read_fence(first)
    assert holder is not None
    os.kill(holder["pid"], signal.SIGKILL)
    _, said = command.communicate(timeout=500)
    assert command.returncode == 0, said
    name = f"{TUNER}/{first.name[:8]}"
    assert f"{name} | the worker was killed (SIGKILL); starting it again" in said
    assert f"{name} | done" in said
    of_workers = [line for line in said.splitlines() if re.match(r"\S+ \| tune: ", line)]
    assert {line.split(" | ")[0] for line in of_workers} == {f"{TUNER}/{f.name[:8]}" for f in folders(world)}
    attempts = json.loads((first / "record.json").read_text())["attempts"]
    assert [a["exit"] for a in attempts] == ["killed", "done"]
    assert workers(world) == []


def test_ctrl_c_stops_all_with_a_checkpoint_each_and_leaves_no_process(world: World) -> None:
    command = world.start("--seeds", "2", "--jobs", "2", "--budget", "steps=1000", "--set", "units=900", tuner=TUNER)
    wait_for(lambda: sum(f.stat().st_size > 0 for f in world.runs.glob("*/*/*/attempts/001/events.jsonl")) == 2)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=200)
    assert command.returncode == exits.INTERRUPTED, said
    assert "the same command again continues" in said
    assert workers(world) == []
    for folder in folders(world):
        assert json.loads((folder / "attempts/001/exit.json").read_text())["exit"] == "interrupted"
        assert list(folder.glob("checkpoints/*/meta.json"))
    states = json.loads(world.bench("status", "--runs", str(world.runs), "--json").stdout)["runs"]
    assert {row["state"] for row in states} == {"interrupted"}


def test_a_run_is_cancelled_by_name_and_the_others_go_on(world: World) -> None:
    command: subprocess.Popen[str] = world.start("--seeds", "2", *ARGS, tuner=TUNER)
    wait_for(lambda: any(f.stat().st_size for f in world.runs.glob("*/*/*/attempts/001/events.jsonl")))
    (first,) = begun(world)
    said = world.bench("cancel", first.name, "--runs", str(world.runs)).stdout
    assert "was asked to leave" in said
    command.communicate(timeout=500)
    assert command.returncode == exits.INTERRUPTED
    (other,) = (f for f in folders(world) if f != first)
    assert (other / "record.json").exists()
    assert not (first / "record.json").exists()
    assert world.run("--seeds", "2", *ARGS, tuner=TUNER).returncode == 0
    assert (first / "record.json").exists()


def test_gpus_are_shared_out_evenly() -> None:
    eight = [str(k) for k in range(8)]
    assert [_gpus_for(k, 2, eight)["CUDA_VISIBLE_DEVICES"] for k in range(2)] == ["0,1,2,3", "4,5,6,7"]
    assert [_gpus_for(k, 4, ["0", "1"])["CUDA_VISIBLE_DEVICES"] for k in range(4)] == ["0", "1", "0", "1"]
    assert _gpus_for(0, 1, eight) == {}
    assert _gpus_for(0, 4, []) == {}
