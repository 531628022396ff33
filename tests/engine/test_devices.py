"""What ``--device`` may be, and that a wrong one is told before anything is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.cli import main
from bench.core.errors import UserError
from bench.engine.attempt import tuned_on
from bench.engine.devices import hardware, resolve
from bench.store.runs import RunFolder


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(n_gpus: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)

    machine(0)
    assert (resolve("auto"), resolve("cpu")) == ("cpu", "cpu")
    with pytest.raises(UserError, match="sees no CUDA device"):
        resolve("cuda")
    machine(2)
    assert [resolve(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    with pytest.raises(UserError, match="sees 2 CUDA devices") as err:
        resolve("cuda:2")
    assert err.value.valid == "cpu, cuda, cuda:0, cuda:1, auto"


@pytest.mark.parametrize("command", [
    ["run", "--suite", "coco", "--tuner", "drtune", "--runs", "runs"],
    ["run", "--suite", "coco", "--tuner", "drtune", "--runs", "runs", "--launcher", "slurm"],
    ["eval", "--suite", "coco", "--images", "none", "--name", "x", "--runs", "runs"],
    ["refs", "build", "none", "--protocol", "clean", "--out", "x.npz"],
    ["reward", "train", "tree", "--votes", "none", "--out", "tree"],
    ["tifa", "questions", "--suite", "coco", "--llm", "none", "--out", "x.json"],
])  # fmt: skip
def test_a_word_that_is_no_device(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("tpu", "cuda:x", "cpu0"):
        assert main([*command, "--device", word]) == 2
        said = capsys.readouterr()
        assert f"--device {word!r} is no device" in said.err and "cpu, cuda, cuda:N, auto" in said.err
        assert not said.out and "starting" not in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("launcher", ["local", "inline"])
def test_a_gpu_that_is_not_here_is_told_before_a_run_is_started(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--suite", "coco", "--tuner", "drtune", "--launcher", launcher, "--device", "cuda"]) == 2
    said = capsys.readouterr()
    assert "sees no CUDA device" in said.err and "starting" not in said.err
    assert not list(tmp_path.iterdir())


def attempts(folder, *told):
    """Attempts of (hardware, the units they did), oldest first."""
    for number, (name, units) in enumerate(told, 1):
        attempt = folder.attempts / f"{number:03d}"
        attempt.mkdir(parents=True)
        (attempt / "env.json").write_text(json.dumps({"hardware": name} if name else {}))
        events = [{"event": "warning"}, *({"event": "unit", "unit": k, "spent": {}, "scalars": {}} for k in units)]
        (attempt / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    return folder


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([("NVIDIA H200", [1, 2])], "NVIDIA H200"),
        ([("NVIDIA H200", [1, 2]), ("NVIDIA A100", [3])], "NVIDIA A100 + NVIDIA H200"),
        # what only generated and scored spent none of the budget
        ([("NVIDIA H200", [1, 2]), ("NVIDIA L4", [])], "NVIDIA H200"),
        # all that the first one did was lost
        ([("NVIDIA A100", [1, 2]), ("NVIDIA H200", [1, 2, 3])], "NVIDIA H200"),
        # of before it was noted
        ([("", [1]), ("NVIDIA H200", [2])], "NVIDIA H200 + unknown"),
        ([("", [1, 2]), ("NVIDIA L4", [])], ""),
        # it ended before its first update
        ([("NVIDIA H200", [])], "NVIDIA H200"),
        ([], ""),
    ],
)
def test_the_hardware_of_a_run_is_what_its_updates_were_made_on(tmp_path, told, expected):
    assert tuned_on(attempts(RunFolder(tmp_path), *told)) == expected


def test_a_cpu_has_a_name():
    assert hardware("cpu").strip()
