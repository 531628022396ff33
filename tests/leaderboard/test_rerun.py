"""The command on a run's page asks for that very run: the same id, through the real command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.engine import plan
from bench.engine.options import Options
from bench.engine.plan import Plan, make_plan
from bench.store import atomic
from leaderboard.rerun import command


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"suite": "coco", "tuner": "drtune"},
        {
            "suite": "cc500", "tuner": "hgdpo-lan", "seeds": "7,", "reward": "symmetry+0.5*tiny-clip", "limit": 8,
            "settings": ("lr=0.003", "D=64"), "budget": ("steps=300", "device_s=90.5"), "fractions": "0,0.25,1",
            "hard_limit_s": 77.0,
        },
        {"suite": "coco", "tuner": "drtune", "metrics": "clipscore,colour"},
        {"suite": "coco", "tuner": "drtune", "metrics": "+kid"},
        {"suite": "parti", "tuner": "treereward", "settings": ("literal=true", "structure=global")},
    ],
)  # fmt: skip
def test_the_same_run_comes_out_of_its_command(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = make_plan(Options(**asked, runs=tmp_path)).runs
    run.folder.write_spec(run.spec)
    words = shlex.split(command(atomic.read_json(run.folder.spec_path)))
    assert words[:4] == ["python", "-m", "bench", "run"]
    assert words[words.index("--metrics") + 1].split(",") == list(run.spec.metrics)
    planned: list[Plan] = []
    monkeypatch.setattr(plan, "make_plan", lambda options: planned.append(make_plan(options)) or planned[-1])
    main(["plan", *words[4:], "--runs", str(tmp_path), "--json"])
    (again,) = json.loads(capsys.readouterr().out)["runs"]
    assert again["run_id"] == run.spec.run_id
    assert planned[0].runs[0].spec.metrics == run.spec.metrics  # no part of an id: what is measured changes no image
