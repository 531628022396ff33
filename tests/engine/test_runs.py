"""Whole runs from the command line: one path, every ending."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tests.engine.conftest import World

Finished = tuple[World, "subprocess.CompletedProcess[str]"]


def answers(record: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one spec must agree in, bit for bit."""
    keys = ("name", "snapshot", "value", "ci_low", "ci_high", "difference")
    return {
        "metrics": [{k: m[k] for k in keys} for m in record["metrics"]],
        "images": {s["name"]: s["content_hash"] for s in record["snapshots"]},
        "spent": {k: v for k, v in record["ledger"]["spent"].items() if k != "device_s"},
    }


def test_the_command_tunes_scores_records_and_renders(finished: Finished) -> None:
    world, done = finished
    assert done.returncode == 0, done.stderr
    record = world.record()
    assert record["status"] == "done"
    assert record["reason"] == "budget:denoiser_u"
    assert [s["name"] for s in record["snapshots"]] == ["f000", "f050", "f100"]
    assert {s["n_images"] for s in record["snapshots"]} == {6}
    assert (world.runs / "leaderboard" / "index.html").is_file()
    for text in ("micro-mean", "95 % interval", "record:", "leaderboard:"):
        assert text in done.stdout
    for stage in ("tune:", "generate base:", "generate f100:", "score:"):
        assert stage in done.stderr


def test_the_budget_holds_and_every_kind_is_reported(finished: Finished) -> None:
    ledger = finished[0].record()["ledger"]
    spent = ledger["spent"]
    assert spent["denoiser_u"] <= 600
    # what is left is less than one more step: 2 samples x 2 branches x (4 forwards + 1 re-run + 2 for its backward)
    assert spent["denoiser_u"] > 600 - 2 * 2 * (4 + 3)
    assert spent["denoiser_u"] == spent["denoiser_fwd"] + 2 * spent["denoiser_bwd"]
    assert all(spent[kind] > 0 for kind in ("steps", "device_s", "images", "reward_calls", "flops"))
    assert set(ledger["evaluation_s"]) == {"generate", "score"}
    assert not any(ledger["lost"].values())


def test_any_kind_may_be_the_limit(new_world: Callable[[], World]) -> None:
    limits = {"steps": 3.0, "images": 7.0, "reward_calls": 5.0, "flops": 2e8}
    worlds = {kind: new_world() for kind in limits}
    worlds["steps"].bench_each(*(world.command("--budget", f"{kind}={limits[kind]}", "--launcher", "inline")[3:]
                                 for kind, world in worlds.items()))  # fmt: skip
    for kind, limit in limits.items():
        record = worlds[kind].record()
        assert record["reason"] == f"budget:{kind}"
        spent = record["ledger"]["spent"]
        step = spent[kind] / spent["steps"]
        assert limit - step < spent[kind] <= (limit + step if kind == "flops" else limit)


def test_the_same_command_again_says_what_is_done_and_where(finished: Finished) -> None:
    world, _ = finished
    before = (world.folder() / "record.json").stat().st_mtime_ns
    again = world.run()
    assert again.returncode == 0
    assert "already done" in again.stderr
    assert str(world.folder() / "record.json") in again.stderr
    assert (world.folder() / "record.json").stat().st_mtime_ns == before


def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_metrics(
    finished: Finished, new_world: Callable[[], World]
) -> None:
    """kill -9 of the command at random moments; the worker dies with it; nothing of the answer changes."""
    rng = random.Random(0)
    world = new_world()
    took_s = 0.0
    for _ in range(4):
        command = world.start()
        start = time.monotonic()
        wait_s = rng.uniform(3.0, 9.0)
        while time.monotonic() - start < wait_s and command.poll() is None:
            time.sleep(0.05)
        command.send_signal(signal.SIGKILL)
        command.communicate()
        took_s += wait_s
    done = world.run()
    assert done.returncode == 0, done.stderr
    assert answers(world.record()) == answers(finished[0].record())


def test_the_launchers_give_the_same_metrics(finished: Finished, world: World) -> None:
    assert world.run("--launcher", "inline").returncode == 0
    assert answers(world.record()) == answers(finished[0].record())


def test_sigterm_keeps_a_checkpoint_and_the_run_continues(world: World, finished: Finished) -> None:
    command = world.start("--launcher", "inline")
    deadline = time.monotonic() + 120
    while not list(world.runs.glob("*/*/*/attempts/001/events.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    command.send_signal(signal.SIGTERM)
    command.communicate(timeout=60)
    assert not (world.folder() / "record.json").exists()
    assert json.loads((world.folder() / "attempts" / "001" / "exit.json").read_text())["exit"] == "interrupted"
    assert world.alone().returncode == 0
    record = world.record()
    assert [a["exit"] for a in record["attempts"]] == ["interrupted", "done"]
    assert answers(record) == answers(finished[0].record())


def test_code_that_does_not_return_is_ended_from_outside(world: World) -> None:
    start = time.monotonic()
    done = world.run("--hard-limit", "3", tuner="micro-sleeper")
    assert time.monotonic() - start < 60
    assert done.returncode == 1
    record = world.record("micro-sleeper")
    assert (record["status"], record["reason"]) == ("failed", "hard limit")
    assert "hard limit" in (world.runs / "leaderboard" / "index.html").read_text("utf-8")


def test_a_failing_tuner_is_a_row_with_its_reason_and_can_be_retried(world: World) -> None:
    done = world.alone(tuner="micro-failing")
    assert done.returncode == 1
    record = world.record("micro-failing")
    assert record["status"] == "failed"
    assert record["error"]["message"] == "out of ideas"
    assert "out of ideas" in (world.runs / "leaderboard" / "index.html").read_text("utf-8")
    again = world.alone(tuner="micro-failing")
    assert "--retry-failed" in again.stderr
    assert world.alone("--retry-failed", tuner="micro-failing").returncode == 1
    assert (world.folder("micro-failing") / "record.failed-000.json").exists()


def test_a_diverged_run_keeps_its_last_good_snapshot(world: World) -> None:
    assert world.alone("--budget", "steps=100", "--set", "at=2", tuner="micro-diverging").returncode == 1
    record = world.record("micro-diverging")
    assert record["status"] == "diverged"
    assert "nan" in record["reason"]
    assert record["snapshots"][0]["name"] == "f000"


def test_snapshots_from_before_the_divergence_stay_and_are_scored(world: World) -> None:
    assert world.alone("--set", "at=4", tuner="micro-late-diverging").returncode == 1
    record = world.record("micro-late-diverging")
    assert record["status"] == "diverged"
    assert record["reason"] == "the gradient norm is nan"
    assert [s["name"] for s in record["snapshots"]] == ["f000", "f050"]
    assert {m["snapshot"] for m in record["metrics"]} == {"f000", "f050"}
    assert record["snapshots"][1]["spent"]["denoiser_u"] == 300
    # the unit that diverged was paid for
    assert record["ledger"]["spent"]["denoiser_u"] == 500


def wait_for(world: World, pattern: str, command: subprocess.Popen[str]) -> None:
    """Until a file of that pattern is in the run folder."""
    deadline = time.monotonic() + 120
    while not list(world.runs.glob(f"*/*/*/{pattern}")):
        assert command.poll() is None, "the command ended first"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_processes_on_one_run(world: World) -> None:
    """The second says who works on it and touches nothing; the first is not disturbed."""
    first = world.start("--budget", "steps=100", "--set", "units=30", tuner="micro-slow")
    wait_for(world, "attempts/001/events.jsonl", first)
    second = world.run("--budget", "steps=100", "--set", "units=30", tuner="micro-slow")
    assert second.returncode == 2
    assert "another process" in second.stderr
    first.communicate()
    assert first.returncode == 0
    assert [a["exit"] for a in world.record("micro-slow")["attempts"]] == ["done"]


def test_an_unreadable_checkpoint_is_passed_over_with_a_word(world: World) -> None:
    args = ("--budget", "steps=100", "--set", "units=14")
    command = world.start(*args, tuner="micro-slow")
    wait_for(world, "checkpoints/*/meta.json", command)
    command.send_signal(signal.SIGKILL)
    command.communicate()
    time.sleep(0.5)
    for state in world.runs.glob("*/*/*/checkpoints/*/state.pt"):
        state.write_bytes(state.read_bytes()[:100])
    done = world.alone(*args, tuner="micro-slow")
    assert done.returncode == 0, done.stderr
    assert "is unreadable" in done.stderr
    record = world.record("micro-slow")
    assert record["curve"]["rows"][-1][record["curve"]["columns"].index("reward")] == 14
    assert [a["exit"] for a in record["attempts"]] == ["killed", "done"]


def test_a_missing_image_is_a_failed_metric_that_lists_the_prompt(
    finished: Finished, new_world: Callable[[], World]
) -> None:
    world = new_world()
    shutil.copytree(finished[0].runs, world.runs, dirs_exist_ok=True)
    before = answers(world.record())
    (world.folder() / "snapshots" / "f100" / "images" / "000002.png").unlink()
    done = world.bench("score", world.folder().name, "--runs", str(world.runs))
    assert "are missing or damaged; prompts: p1" in done.stdout
    failed = [m for m in world.record()["metrics"] if m["error"]]
    assert [m["snapshot"] for m in failed] == ["f100"]
    assert "p1" in failed[0]["error"]
    mended = world.bench("score", world.folder().name, "--regenerate", "--runs", str(world.runs))
    assert mended.returncode == 0, mended.stderr
    assert answers(world.record()) == before


def test_json_is_alone_on_standard_output(finished: Finished) -> None:
    world, _ = finished
    done = world.run("--json")
    data = json.loads(done.stdout)
    assert data["runs"][0]["status"] == "done"
    status = json.loads(world.bench("status", "--runs", str(world.runs), "--json").stdout)
    assert status["runs"][0]["state"] == "done"


def test_plan_tells_what_is_done_and_what_it_took(finished: Finished) -> None:
    world, _ = finished
    args = ["plan", *world.command("--seeds", "2", "--json")[4:]]
    done = world.bench(*args)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["runs"]
    assert [row["state"] for row in rows] == ["done", "to do"]
    assert rows[1]["expected"]["n_recorded"] == 1
    assert rows[1]["expected"]["wall_s"] > 0


def test_a_limited_run_is_never_ranked(world: World) -> None:
    assert world.alone("--limit", "2").returncode == 0
    record = world.record()
    assert record["ranked"] is False
    assert "first 2 prompts" in record["unranked_reason"]


MISTAKES = [
    (["run", "--suite", "coc", "--tuner", "drtune"], "'coco'"),
    (["run", "--suite", "micro", "--tuner", "drtun"], "'drtune'"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--reward", "symetry"], "'symmetry'"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--model", "tiny-s"], "'tiny-sd'"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--launcher", "locl"], "'local'"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--set", "k=3"], "'K'"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--set", "K=abc"], "not a int"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--set", "K"], "no '='"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--budget", "steps=-1"], "above 0"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--budget", "coffee=3"], "coffee"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--seeds", "x"], "count"),
    (["run", "--suite", "micro", "--tuner", "drtune", "--device", "tpu"], "cpu, cuda"),
    (["run", "--suite", "micro", "--tuner", "./none.py"], "bench new tuner"),
    (["run", "--suite", "coco", "--edition", "full", "--tuner", "drtune", "--data", "/nowhere"], "data status"),
    (["run", "--suite", "micro"], "--tuner"),
    (["show", "suite", "cocoo"], "'coco'"),
    (["list", "tuner"], "'tuners'"),
    (["score", "nope"], "bench status"),
    (["report", "--runs", "/nowhere"], "bench run"),
    (["nope"], "bench --help"),
]


def test_mistakes_are_told_with_what_is_valid_and_what_to_type(world: World) -> None:
    commands = []
    for args, _ in MISTAKES:
        model = ["--model", str(world.model)] if args[0] == "run" and "--model" not in args else []
        commands.append([*args, *model, *(["--runs", str(world.runs)] if args[0] in ("run", "score") else [])])
    for done, (_, says) in zip(world.bench_each(*commands), MISTAKES, strict=True):
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr, done
        assert says in done.stderr, done
    assert not list(world.runs.glob("*/*/*/record.json"))
    # as a process of its own, too
    done = world.bench(*commands[0])
    assert (done.returncode, MISTAKES[0][1] in done.stderr) == (2, True)


def test_adapter_scales_are_scored_beside_the_tuners_own(finished: Finished, new_world: Callable[[], World]) -> None:
    world = new_world()
    shutil.copytree(finished[0].runs, world.runs, dirs_exist_ok=True)
    before = answers(world.record())
    done = world.bench("score", world.folder().name, "--adapter-scale", "1,0.5", "--runs", str(world.runs))
    assert done.returncode == 0, done.stderr
    record = world.record()
    assert answers(record) == before
    half, one = record["scales"]
    assert [e["snapshot"]["name"] for e in (half, one)] == ["f100-s050", "f100-s100"]
    assert [e["snapshot"]["adapter_scale"] for e in (half, one)] == [0.5, 1.0]
    # four steps, two branches
    assert {s["u_per_image"] for s in [*record["snapshots"], half["snapshot"], one["snapshot"]]} == {8.0}
    own = record["snapshots"][-1]
    assert one["snapshot"]["content_hash"] == own["content_hash"] != half["snapshot"]["content_hash"]
    assert one["metrics"][0]["value"] == next(m["value"] for m in record["metrics"] if m["snapshot"] == "f100")
    assert "f100-s050: adapter scale 0.5" in done.stdout
    # scoring all again keeps them
    assert world.bench("score", world.folder().name, "--runs", str(world.runs)).returncode == 0
    assert world.record()["scales"] == record["scales"]
    refused = world.bench("score", world.folder().name, "--adapter-scale", "0", "--runs", str(world.runs))
    assert (refused.returncode, "0.5,0.75" in refused.stderr) == (2, True)


def test_a_budget_that_holds_no_update_is_refused_before_anything_is_written(world: World) -> None:
    done = world.run("--budget", "denoiser_u=2")
    assert (done.returncode, "no update is left" in done.stderr) == (2, True)
    assert not list(world.runs.rglob("spec.json"))


def test_a_tuner_of_unknown_cost_that_made_no_update_gives_no_ranked_run(world: World) -> None:
    done = world.alone("--set", "units=1", tuner="micro-slow")
    assert done.returncode == 0, done.stderr
    assert "not ranked: no optimiser step was taken" in done.stdout
    record = world.record("micro-slow")
    assert (record["ranked"], record["ledger"]["spent"]["steps"]) == (False, 0)
