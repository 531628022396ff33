"""Settings for base models beyond the tiny world, and a user's own in place of the suite's."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from bench.cli import main
from bench.core.budget import Budget
from bench.core.types import SamplerSpec, Scale, Scorer, Suite
from bench.engine.options import Options
from bench.engine.plan import make_plan
from bench.engine.protocol import at_scale, parse_protocol, with_protocol
from suites import _card, coco, hpsv2, parti


def test_real_models_get_gpu_hours_and_tiny_ones_keep_u(real: Path) -> None:
    suite = hpsv2.suite("full", variant="first100", data_dir=real)
    tiny, sd15 = at_scale(suite, "tiny-sd"), at_scale(suite, "sd15")
    assert tiny is suite
    assert tiny.spec.budget.to_json() == {"denoiser_u": 24_000.0, "primary": "denoiser_u"}
    assert sd15.spec.budget.to_json() == {"device_s": 8 * 3600.0, "primary": "device_s"}
    assert (sd15.spec.reward, tiny.spec.reward) == ("hps-v2.1", "tiny-pick")
    assert any("DRTune §4.1: 2 hours on 4 A100" in note for note in sd15.notes)
    assert not any("2 hours" in note for note in at_scale(suite, "sd15", own_budget=True).notes)
    # prompts, samplers and batch are the suite's on every model
    kept = {f.name for f in dataclasses.fields(tiny.spec)} - {"budget", "reward", "metrics"}
    assert all(getattr(tiny.spec, name) == getattr(sd15.spec, name) for name in kept)
    assert at_scale(parti.suite("full", variant="People", data_dir=real), "sd15").spec.reward == "pickscore"


def test_a_tuner_that_fits_its_own_reward_does_not_ask_for_the_suites(
    real: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The published reward judges its images if it is here by then: no plan waits for it, and no run id either."""
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    for tuner, asks in (("drtune", True), ("treereward", False)):
        (run,) = make_plan(Options(suite="hpsv2-first100", tuner=tuner, model="sd15", data=real)).runs
        assert (run.spec.reward, run.spec.reward_revision) == ("hps-v2.1", "")
        assert any("the weights 'hps-v2.1'" in problem for problem in run.problems) == asks


def test_sample_editions_stay_what_they_are_on_every_model() -> None:
    suite = coco.suite()
    assert at_scale(suite, "sd15") is suite


def test_a_third_partys_suite_may_set_nothing() -> None:
    suite = Suite(coco.suite().spec, (), ())
    assert at_scale(suite, "sd15") is suite
    scale = Scale(Budget(steps=3, primary="steps"), "theirs", "symmetry", ("colour",))
    assert at_scale(dataclasses.replace(suite, scale=scale), "sd15").spec.metrics == ("colour",)


def test_scorers_are_a_column_of_ours_or_somewhere_else() -> None:
    assert str(Scorer("FID", "a paper", "fid")) == "FID (a paper): fid"
    assert str(Scorer("D", "a paper", url="https://x")) == "D (a paper): external, not run here: https://x"
    for name in _card.names():
        for scorer in _card.settings(name, "full", "")[1]["scorers"]:
            assert scorer["name"] and scorer["source"]
    external = {
        name for name in _card.names() for s in _card.settings(name, "full", "")[1]["scorers"] if "column" not in s
    }
    # the detectors and readers of these are no part of this program, and no metric here says it is one of them
    assert {"geneval", "t2icompbench", "dpgbench", "genaibench"} <= external


def test_show_suite_says_who_scores_and_what_real_models_get(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "suite", "geneval", "--data", str(real), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["id"] == "geneval-full@1"
    assert any("external, not run here: https://github.com/djghosh13/geneval" in line for line in shown["scorers"])
    assert shown["beyond_tiny_models"]["budget"]["device_s"] == 28_800
    assert not any("geneval" in metric.lower() for metric in shown["metrics"])


def test_protocol_changes_settings_and_no_prompt() -> None:
    suite = coco.suite()
    protocol = parse_protocol(["sampler.n_steps=7", "sampler.scheduler=dpmpp-2m", "train_sampler.guidance=1",
                               "global_batch=4", "eval_seeds=3,5", "sampler.n_steps=9"])  # fmt: skip
    spec = with_protocol(suite, protocol).spec
    assert spec.sampler == dataclasses.replace(suite.spec.sampler, n_steps=9, scheduler="dpmpp-2m")
    assert spec.train_sampler == SamplerSpec("ddim", 20, 1.0)
    assert (spec.global_batch, spec.eval_seeds) == (4, (3, 5))
    assert spec.prompt_hash == suite.spec.prompt_hash
    assert with_protocol(suite, {}) is suite


def test_what_was_set_is_in_the_spec_and_comes_back_by_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    from bench.store import atomic
    from bench.store.runs import spec_from_json
    from leaderboard.rerun import command

    train = tmp_path / "mine.txt"
    train.write_text("".join(f"a red circle and {n} stars\n" for n in ("two", "three", "four", "no")))
    asked = Options(suite="coco", tuner="drtune", protocol=("global_batch=4", "eval_seeds=3,5", "sampler.guidance=2.5"),
                    train_list=str(train), runs=tmp_path)  # fmt: skip
    (run,), (plain,) = make_plan(asked).runs, make_plan(Options(suite="coco", tuner="drtune", runs=tmp_path)).runs
    assert run.spec.run_id != plain.spec.run_id
    assert (plain.spec.protocol, plain.spec.train_list, plain.spec.recipe) == ({}, "", "")
    run.folder.write_spec(run.spec)
    written = atomic.read_json(run.folder.spec_path)
    assert spec_from_json(written).run_id == run.spec.run_id
    main(["plan", *shlex.split(command(written))[4:], "--runs", str(tmp_path), "--json"])
    (again,) = json.loads(capsys.readouterr().out)["runs"]
    assert again["run_id"] == run.spec.run_id


def test_a_suite_that_takes_no_list_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.core import registry
    from bench.core.errors import UserError

    def theirs(edition: str, *, variant: str, data_dir: Path | None, limit: int | None) -> Suite:
        return coco.suite()

    monkeypatch.setattr(registry, "load", lambda group, name: theirs)
    with pytest.raises(UserError, match="takes no list"):
        make_plan(Options(suite="coco", tuner="drtune", train_list="refl"))


def test_every_suite_takes_a_list() -> None:
    import inspect

    for name in _card.names():
        assert "train_list" in inspect.signature(importlib.import_module(f"suites.{name}").suite).parameters
