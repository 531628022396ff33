"""What the command line tells of tuners, and what ``--tuner all`` carries out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.cli import main
from bench.core import registry
from bench.core.errors import UserError
from bench.engine.options import Options
from bench.engine.plan import make_plan

PATH_TUNERS = {"alignprop", "draft", "drtune", "refl"}


def page(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["show", "tuner", *args]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", list(registry.entries("tuners")))
def test_a_page_says_everything_within_100_columns(capsys: pytest.CaptureFixture[str], name: str) -> None:
    shown = page(capsys, name)
    assert max(map(len, shown.splitlines())) <= 100
    tuner = registry.load("tuners", name)
    words = " ".join(shown.split())
    for text in (tuner.paper, tuner.equations, *tuner.deviations, *tuner.presets):
        assert " ".join(text.split()) in words
    facts = json.loads(page(capsys, name, "--json"))
    for setting, s in facts["settings"].items():
        assert f" {setting} " in shown
        assert " ".join(f"{s['help']}".split()) in words
        assert s["source"] in words
        assert s["unit"] is not None
    assert not any(s["changed"] for s in facts["settings"].values())


def test_a_presets_page_marks_what_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = page(capsys, "drtune-noes")
    assert shown.startswith("drtune, preset drtune-noes (version ")
    changed = [line.split()[1:5] for line in shown.splitlines() if line.startswith("  * ")]
    assert changed == [["m", "0", "(default", "-1)"]]
    facts = json.loads(page(capsys, "drtune-noes", "--json"))
    assert [name for name, s in facts["settings"].items() if s["changed"]] == ["m"]
    assert facts["settings"]["clip"]["unit"] == "L2 norm"
    assert facts["settings"]["K"]["low"] == 0


def test_presets_are_listed_with_their_tuner_and_without_torch() -> None:
    code = (
        "import sys; from bench.cli import main; main(['list', 'tuners', '--json']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed = {t["name"]: t["presets"] for t in json.loads(done.stdout)["tuners"]}
    assert listed == {e.name: list(e.load().presets) for e in registry.entries("tuners").values()}


def test_all_leaves_out_what_cannot_train_for_this_reward_and_says_why() -> None:
    plan = make_plan(Options(suite="coco", tuner="all", reward="tiny-caption-cosine"))
    kept = {run.spec.tuner for run in plan.to_start()}
    assert kept.isdisjoint(PATH_TUNERS)
    assert {"raft", "hgdpo"} <= kept
    for tuner in PATH_TUNERS:
        assert any(reason.startswith(f"{tuner} ") and "choose a differentiable reward" in reason
                   for reason in plan.left_out)  # fmt: skip


def test_tuners_that_are_named_stop_the_others_unless_asked_not_to() -> None:
    options = {"suite": "coco", "tuner": "drtune,raft", "reward": "tiny-caption-cosine"}
    plan = make_plan(Options(**options))
    assert plan.left_out == []
    with pytest.raises(UserError, match="tiny-caption-cosine") as refused:
        plan.to_start()
    assert "--skip-invalid" in refused.value.valid
    plan = make_plan(Options(**options, skip_invalid=True))
    assert [run.spec.tuner for run in plan.to_start()] == ["raft"]
    assert len(plan.left_out) == 1


def test_a_plan_of_which_nothing_is_left_is_an_error() -> None:
    plan = make_plan(Options(suite="coco", tuner="drtune,refl", reward="tiny-caption-cosine", skip_invalid=True))
    with pytest.raises(UserError, match="tiny-caption-cosine"):
        plan.to_start()


def test_processes_and_micro_batch_name_no_run() -> None:
    ids = {make_plan(Options(suite="coco", tuner="drtune", processes=n, micro_batch=m)).runs[0].spec.run_id
           for n, m in ((1, None), (2, None), (1, 1), (2, 1))}  # fmt: skip
    assert len(ids) == 1
