"""Recipes: every setting has a source, every one is a setting, and the command line stands above them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.core import registry
from bench.core.errors import UserError
from suites import _recipes

PAPERS = {"drtune-sd15", "drtune-sdxl", "hgdpo", "treereward", "realigndiff"}


def test_the_recipes_of_the_four_papers() -> None:
    assert set(_recipes.names()) == PAPERS


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_every_setting_has_a_source_in_the_paper_or_is_marked_as_ours(name: str) -> None:
    recipe = _recipes.recipe(name)
    assert {"suite", "edition", "model", "tuner", "train_list", "seeds"} <= {s.key for s in recipe.settings}
    for setting in recipe.settings:
        paper = setting.source[0] == "§" or setting.source.split(":")[0].split(",")[0].split(" ")[0] in {
            "Table", "eq.", "A.3", "D.1", "D.2", "D.4",
        }  # fmt: skip
        ours = setting.source.startswith(("not stated", "not published", "published prompts"))
        assert paper != ours, setting
    assert any(s.key.startswith("budget.") for s in recipe.settings)
    assert "arXiv" in recipe.paper or "ACM MM" in recipe.paper


def test_figures_of_the_papers() -> None:
    """The few that decide, as the papers' text has them."""
    values = {name: {s.key: s.value for s in _recipes.recipe(name).settings} for name in PAPERS}
    drtune, fdxl, hgdpo = values["drtune-sd15"], values["drtune-sdxl"], values["hgdpo"]
    assert drtune["budget.device_s"] == 2 * 3600 * 4
    assert (drtune["protocol.global_batch"], drtune["set.lr"], drtune["set.rank"]) == (32, 2e-5, 128)
    assert (fdxl["protocol.global_batch"], fdxl["budget.steps"], fdxl["set.K"]) == (2 * 4 * 8, 1900, 3)
    assert (hgdpo["set.D"], hgdpo["set.N"], hgdpo["protocol.global_batch"]) == (100_000, 20, 16)
    assert hgdpo["budget.steps"] * hgdpo["protocol.global_batch"] == hgdpo["set.D"]
    assert (values["realigndiff"]["budget.steps"], values["realigndiff"]["protocol.eval_seeds"]) == (947, "42")
    assert values["treereward"]["set.loss_scale"] == 0.05


def test_a_wrong_recipe_is_refused() -> None:
    table: dict[str, Any] = {"title": "x", "paper": "y", "settings": {"sute": {"is": "coco", "source": "§1"}}}
    with pytest.raises(UserError, match="there is no setting 'sute'"):
        _recipes.parse("x", table)
    for entry in ({"is": "coco", "source": ""}, "coco", {"is": "coco"}):
        table["settings"] = {"suite": entry}
        with pytest.raises(UserError, match="needs a value and its source"):
            _recipes.parse("x", table)
    table["settings"] = {"hard_limit_s": {"is": "long", "source": "ours"}}
    with pytest.raises(UserError, match="hard_limit_s = 'long'"):
        _recipes.parse("x", table)
    with pytest.raises(UserError, match="there is no settings"):
        _recipes.parse("x", {"title": "x", "paper": "y"})


def test_a_recipe_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "mine"\npaper = "none"\n[settings]\nsuite = { is = "coco", source = "ours" }\n'
        'seeds = { is = 1, source = "ours" }\n'
        '"set.K" = { is = 2, source = "ours" }\n"budget.steps" = { is = 3, source = "ours" }\n'
    )
    (run,) = _plan(capsys, tmp_path, "--recipe", str(path), "--tuner", "drtune")["runs"]
    assert (run["suite"], run["budget"]) == ("coco-sample@1", {"steps": 3.0, "primary": "steps"})
    assert main(["plan", "--recipe", str(path)]) == 2
    assert "no --tuner is named" in capsys.readouterr().err
    path.write_text("title = ")
    assert main(["plan", "--recipe", str(path), "--tuner", "drtune"]) == 2
    assert "is no TOML" in capsys.readouterr().err
    assert main(["plan", "--recipe", str(tmp_path / "none.toml")]) == 2
    assert "none.toml cannot be read" in capsys.readouterr().err
    other = path.rename(tmp_path / "mine.txt")
    assert main(["plan", "--recipe", str(other), "--tuner", "drtune"]) == 2
    assert "mine.txt does not end in .toml" in (said := capsys.readouterr().err) and "mine.toml" in said
    assert main(["plan", "--recipe", "drtune-sd16", "--tuner", "drtune"]) == 2
    assert "no recipe named 'drtune-sd16'" in (said := capsys.readouterr().err) and "drtune-sd15" in said


def _plan(capsys: pytest.CaptureFixture[str], tmp_path: Path, *args: str) -> Mapping[str, Any]:
    code = main(["plan", *args, "--runs", str(tmp_path), "--json"])
    printed = capsys.readouterr()
    assert code in (0, 1), printed.err
    found: dict[str, Any] = json.loads(printed.out)
    return found


@pytest.fixture
def lists(real: Path, tmp_path: Path) -> Path:
    """The data folder, with small stand-ins for training lists that nobody may pass on."""
    root = tmp_path / "data"
    root.mkdir()
    for folder in real.iterdir():
        (root / folder.name).symlink_to(folder)
    (root / "hpdv2").mkdir()
    (root / "hpdv2" / "train.json").write_text(json.dumps([{"prompt": f"a castle, number {i}"} for i in range(50)]))
    (root / "diffusiondb").mkdir()
    (root / "diffusiondb" / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"a castle, number {i}"}) + "\n" for i in range(50))
    )
    (root / "coco").unlink()
    (root / "coco").mkdir()
    for path in (real / "coco").iterdir():
        (root / "coco" / path.name).symlink_to(path)
    captions = [{"image_id": i, "id": i, "caption": f"a castle, number {i}"} for i in range(50)]
    (root / "coco" / "captions_train2014.json").write_text(json.dumps({"annotations": captions}))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PAPERS))
def test_a_recipe_plans_and_says_the_same_as_its_flags(
    name: str, lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the tiny base model, whose judges and backbone are here."""
    stand_ins = ["--model", "tiny-sd", "--data", str(lists)]
    if name in ("drtune-sd15", "drtune-sdxl", "hgdpo"):
        stand_ins += ["--reward", "symmetry"]
    if name == "realigndiff":
        stand_ins += ["--set", "reward=suite"]  # the tiny captioner reads none of these prompts
    if name == "hgdpo":
        stand_ins += ["--set", "D=40", "--set", "optimizer=adamw"]
    planned = _plan(capsys, tmp_path, "--recipe", name, *stand_ins)
    assert planned["problems"] == []
    (run,) = planned["runs"]
    recipe = {s.key: s.value for s in _recipes.recipe(name).settings}
    kind = next(key for key in recipe if key.startswith("budget.")).removeprefix("budget.")
    assert run["budget"] == {kind: recipe[f"budget.{kind}"], "primary": kind}
    main(["show", "recipe", name, "--json"])
    words = shlex.split(json.loads(capsys.readouterr().out)["in_full"])
    flags = words[2:]
    for flag in stand_ins[::2]:
        if flag in ("--model", "--reward") and flag in flags:
            del flags[flags.index(flag) : flags.index(flag) + 2]
    (again,) = _plan(capsys, tmp_path, *flags, *stand_ins)["runs"]
    assert again["run_id"] == run["run_id"]


@pytest.mark.slow
def test_the_command_line_stands_above_the_recipe(
    lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--recipe", "drtune-sd15", "--model", "tiny-sd", "--reward", "symmetry", "--data", str(lists)]
    (own,) = _plan(capsys, tmp_path, *args)["runs"]
    changed = ("--budget", "denoiser_u=99_999", "--seeds", "7,", "--suite", "cc500", "--set", "K=2")
    (run,) = _plan(capsys, tmp_path, *args, *changed)["runs"]
    assert (run["suite"], run["seed"], run["budget"]["denoiser_u"]) == ("cc500-full@1", 7, 99_999)
    assert own["suite"] == "hpsv2.first100-full@1"
    # the same value once more is no change
    (same,) = _plan(capsys, tmp_path, *args, "--set", "K=5", "--protocol", "global_batch=32")["runs"]
    assert same["run_id"] == own["run_id"]
    # another tuner keeps suite, samplers and budget, and none of DRTune's settings
    code = main(["plan", *args, "--tuner", "refl", "--runs", str(tmp_path), "--json"])
    printed = capsys.readouterr()
    assert "its settings of drtune are left out" in printed.err
    (other,) = json.loads(printed.out)["runs"]
    assert (code, other["tuner"], other["budget"]) == (0, "refl", own["budget"])


@pytest.mark.parametrize(("args", "says"), [
    (["plan", "--recipe", "drtune-sd1"], "'drtune-sd15'"),
    (["plan", "--tuner", "drtune"], "no --suite is named"),
    (["run", "--suite", "coco"], "no --tuner is named"),
    (["show", "recipe", "hgdp"], "'hgdpo'"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--protocol", "sampler.n_step=3"], "'sampler.n_steps'"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--protocol", "global_batch"], "is not key=value"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--protocol", "global_batch=x"], "a whole number"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--protocol", "sampler.n_steps=0"], "a whole number from 1"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--protocol", "eval_seeds=1,1"], "different whole numbers"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--protocol", "sampler.guidance=nan"], "a number from 0"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--train-list", "hpdv3"], "'hpdv2'"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--train-list", "hpdv2"], "--data DIR"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--train-list", "./none.txt"], "none.txt cannot be read"),
    (["plan", "--suite", "coco", "--tuner", "drtune", "--limit", "0"], "leaves no prompts"),
    (["plan", "--suite", "coco.val2071", "--tuner", "drtune"], "'val2017'"),
    (["plan", "--suite", "hpsv2-400", "--tuner", "drtune"], "--data DIR"),
    (["plan", "--suite", "drawbench", "--edition", "sample", "--tuner", "drtune"], "--edition full --data DIR"),
    (["plan", "--suite", "drawbensh", "--tuner", "drtune"], "'drawbench'"),
])  # fmt: skip
def test_what_people_mistype_is_told_before_anything_starts(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    assert says in capsys.readouterr().err


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == ["recipes"]
    assert {row["name"] for row in listed["recipes"]} == PAPERS
    assert main(["list", "train-lists"]) == 0
    assert "hpdv2" in capsys.readouterr().out
    assert main(["show", "recipe", "drtune-sdxl"]) == 0
    shown = capsys.readouterr().out
    assert "not stated: ours" in shown
    assert "run it:  bench run --recipe drtune-sdxl --data DIR" in shown
    for setting in _recipes.recipe("drtune-sdxl").settings:
        assert setting.key in shown
        assert setting.source in shown


def test_recipes_name_what_is_registered() -> None:
    """Suites and tuners are here; models and rewards may be a package of somebody's."""
    from bench.engine.choosing import choose_tuner
    from suites import resolve
    from suites._train import lists

    for name in PAPERS:
        recipe = {s.key: s.value for s in _recipes.recipe(name).settings}
        assert resolve(recipe["suite"])[0] in registry.entries("suites")
        assert choose_tuner(recipe["tuner"])
        assert recipe["train_list"] in lists()
