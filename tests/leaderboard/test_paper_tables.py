"""The papers' tables: DRTune's Table 1, RealignDiff's Table I, HG-DPO's Table 2, TreeReward's Figure 1."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.store import atomic
from leaderboard.paper_tables import DIMENSIONS, colour_shifts, radars, rewards_by_tuners, suites_by_metrics
from leaderboard.read import read_runs
from leaderboard.site import build
from leaderboard.stats import over_seeds
from leaderboard.table import Board, boards
from tests.leaderboard.factories import Fake, entry

ROLES = {"tree": "trained-on", "tiny-judge": "held-out"}


def _with(folder: Path, change: Any) -> None:
    record = atomic.read_json(folder / "record.json")
    change(record)
    atomic.write_json(folder / "record.json", record)


def _six(record: dict[str, Any]) -> None:
    for m in record["metrics"]:
        if m["name"] == "reward/tree":
            lift = 0.1 if m["snapshot"] == "f100" else 0.0
            m["detail"] = {"parts": {d: {"value": 0.1 * i + lift, "ci_low": 0.0, "ci_high": 1.0, "n": 32}
                                     for i, d in enumerate(DIMENSIONS)}}  # fmt: skip


def _shift(record: dict[str, Any]) -> None:
    record["metrics"] += [entry(f"colour-shift/{part}", "f100", value, 32, better="lower", half=0.5)
                          for part, value in (("hue", 0.4), ("saturation", -2.0), ("value", 1.25))]  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    tree = Fake(tuner="treereward", reward="tree", judge_roles=ROLES, fractions=(0.0, 1.0)).write(tmp_path)
    _with(tree, _six)
    _with(Fake(tuner="drtune", fractions=(0.0, 1.0)).write(tmp_path), _shift)
    return tmp_path


def _board(runs: Path) -> Board:
    (board,) = boards(read_runs(runs)[0])
    return board


def test_a_fitted_tree_makes_a_radar_of_its_six_dimensions(runs: Path) -> None:
    (found,) = radars(_board(runs))
    assert found.table.head == DIMENSIONS
    assert [name for name, _, _ in found.table.rows] == ["base model", "treereward"]
    for i, (base, tuned) in enumerate(zip(found.table.rows[0][2], found.table.rows[1][2], strict=True)):
        assert base.sort == pytest.approx(0.1 * i)
        assert tuned.sort == pytest.approx(0.1 * i + 0.1)
    assert found.chart.count('class="area') == 2


def test_the_radar_is_reached_from_the_board_and_stands_on_the_run_page(runs: Path) -> None:
    index = build(runs)
    assert 'href="tables.html"' in index.read_text("utf-8")
    tables = (index.parent / "tables.html").read_text("utf-8")
    for title in ("Rewards by tuners", "Suites by FID, CLIP score and TIFA", "Colour shift", "Six dimensions"):
        assert title in tables
    assert tables.count('class="area') == 2
    page = (index.parent / "runs" / f"{_tree_id(runs)}.html").read_text("utf-8")
    assert page.count('class="area') == 2
    assert re.search(r"<caption>reward/tree parts</caption>", page)


def _tree_id(runs: Path) -> str:
    return next(run.run_id for run in read_runs(runs)[0] if run.tuner == "treereward")


def test_a_reward_without_all_six_has_none(tmp_path: Path) -> None:
    _with(Fake(tuner="treereward", reward="tree", judge_roles=ROLES, fractions=(0.0, 1.0)).write(tmp_path),
          lambda record: [m["detail"].update(parts={"style": {"value": 1.0}, "note": "odd"}) for m in record["metrics"]
                          if m["name"] == "reward/tree"])  # fmt: skip
    assert radars(_board(tmp_path)) == []


def test_rewards_by_tuners_hold_what_each_was_trained_on(runs: Path) -> None:
    found = rewards_by_tuners(_board(runs))
    assert found is not None
    assert found.head == ("tiny-pick ↑", "tree ↑")
    table = {name: [f.sort for f in figures] for name, _, figures in found.rows}
    assert table["drtune"] == [pytest.approx(20.7), None]  # trained for tiny-pick: 20 + 2 * 0.35
    assert table["treereward"] == [None, pytest.approx(20.7)]
    assert table["base model"] == [20.0, 20.0]


def test_rewards_by_tuners_carry_the_records_intervals(tmp_path: Path) -> None:
    """One run: its own interval, 20.7 ± 0.1. Two seeds of one row: wider than either where they disagree. Rows with
    different settings: a mean of both and no interval."""
    Fake(tuner="drtune", fractions=(0.0, 1.0)).write(tmp_path)
    for seed, trained in ((0, 0.8), (1, 0.9)):
        Fake(tuner="refl", seed=seed, trained=trained, fractions=(0.0, 1.0)).write(tmp_path)
    for settings in ({}, {"K": 2}):
        Fake(tuner="draft-lv", settings=settings, fractions=(0.0, 1.0)).write(tmp_path)
    found = rewards_by_tuners(_board(tmp_path))
    assert found is not None
    table = {name: figures[0] for name, _, figures in found.rows}
    assert (table["drtune"].text, table["drtune"].span) == ("20.70", "20.60–20.80")
    assert table["base model"].span == "19.90–20.10"
    mean, low, high = over_seeds([20.6, 20.8], [20.5, 20.7], [20.7, 20.9])
    assert table["refl"].sort == pytest.approx(mean)
    ends = [float(end) for end in table["refl"].span.split("–")]
    assert ends == pytest.approx([low, high], abs=0.06)
    assert ends[0] < 20.5
    assert ends[1] > 20.9
    assert (table["draft-lv"].sort, table["draft-lv"].span) == (pytest.approx(20.7), "")
    site = build(tmp_path).parent
    assert re.search(r"20\.70</span> <span class=\"span\">20\.60–20\.80", (site / "tables.html").read_text("utf-8"))


def _own_tree(weights: str, lift: float, level: float) -> Any:
    """The tree of one run: its weights, the level of its scores and what tuning gained by it."""

    def change(record: dict[str, Any]) -> None:
        for m in record["metrics"]:
            if m["name"] == "reward/tree":
                m["passport"] = {"reward": {"name": "tree", "weights_sha256": weights}}
                m["value"] = level + (lift if m["snapshot"] == "f100" else 0.0)
                ends = {"ci_low": lift - 0.02, "ci_high": lift + 0.02}
                m["difference"] = {"value": lift, **ends} if m["snapshot"] == "f100" else None
            if m["name"] == "winrate/tree":
                m["passport"] = {"reward": {"name": "tree", "fitted_by": "each run itself"}, "against": "base"}

    return change


def test_scores_by_different_trees_are_never_averaged(runs: Path) -> None:
    """Trees at levels 20 and 500 with gains of 0.1 and 0.3, and one of another tuner at level −7 that lost 0.2."""
    for tuner, seed, weights, lift, level in (
        ("treereward", 0, "aa", 0.1, 20.0), ("treereward", 1, "bb", 0.3, 500.0), ("branches", 0, "cc", -0.2, -7.0),
    ):  # fmt: skip
        run = Fake(tuner=tuner, seed=seed, reward="tree", judge_roles=ROLES, fractions=(0.0, 1.0))
        folder = runs / run.suite / tuner / run.run_id
        _with(folder if folder.is_dir() else run.write(runs), _own_tree(weights, lift, level))
    found = rewards_by_tuners(_board(runs))
    assert found is not None
    assert found.head == ("tiny-pick ↑", "tree, gain over own base ↑")
    table = {name: figures[1] for name, _, figures in found.rows}
    assert table["treereward"].sort == pytest.approx(0.2)
    assert (table["treereward"].text, table["treereward"].span) == ("+0.2000", "+0.1000 to +0.3000")
    assert (table["branches"].text, table["branches"].span) == ("−0.200", "−0.220 to −0.180")  # one run's own
    assert (table["base model"].text, table["drtune"].text) == ("–", "–")
    assert next(f[0].sort for name, _, f in found.rows if name == "base model") == 20.0  # one reward has one base


def test_one_tree_alone_is_still_its_runs_own(runs: Path) -> None:
    _with(runs / "coco-sample@1" / "treereward" / _tree_id(runs), _own_tree("aa", 0.1, 20.0))
    found = rewards_by_tuners(_board(runs))
    assert found is not None
    assert found.head[1] == "tree, gain over own base ↑"


def test_a_run_that_fitted_its_reward_never_says_that_it_was_trained_on_the_one_asked_for(tmp_path: Path) -> None:
    """The reward that was asked for only judges: it is held out, and stands nowhere as what was trained on."""
    roles = {"tree": "trained-on", "tiny-pick": "held-out"}
    own = Fake(tuner="treereward", reward="tiny-pick", judge_roles=roles, fractions=(0.0, 1.0)).write(tmp_path)
    _with(own, _own_tree("aa", 0.1, 20.0))
    Fake(tuner="refl", reward="tiny-judge", judge_roles={"tiny-judge": "trained-on", "tiny-pick": "held-out"},
         fractions=(0.0, 1.0)).write(tmp_path)  # fmt: skip
    rewards = {run.tuner: run.trained_reward for run in read_runs(tmp_path)[0]}
    assert rewards == {"treereward": "tree (its own)", "refl": "tiny-judge"}
    site = build(tmp_path).parent
    index = (site / "index.html").read_text("utf-8")
    assert re.findall(r'data-tuner="(.*?)" data-reward="(.*?)"', index) == [
        (name, rewards[name]) for name in re.findall(r'data-tuner="(.*?)"', index)
    ]
    assert "<td>tree (its own)</td>" in index
    assert "<td>tiny-pick</td>" not in index
    assert "trained reward tree (its own)" in (site / "runs" / f"{own.name}.html").read_text("utf-8")
    for path in sorted((site / "data").glob("coco-*")):
        assert "tree (its own)" in path.read_text("utf-8").replace("\\", ""), path
    (board,) = (json.loads(p.read_text("utf-8")) for p in (site / "data").glob("*.json") if "schema" not in p.name)
    assert {row["tuner"]: row["reward"] for row in board["rows"]} == rewards


def test_suites_by_metrics_have_fid_clip_and_tifa(runs: Path) -> None:
    (found,) = suites_by_metrics([_board(runs)])
    assert found.head == ("FID ↓", "CLIP score tiny-clip ↑", "TIFA tiny-vqa ↑")
    table = {name: [f.sort for f in figures] for name, _, figures in found.rows}
    assert table["tiny-sd (base model)"] == pytest.approx([84.0, 0.31, 0.71])
    assert table["drtune"] == pytest.approx([81.0, 0.314, 0.73])


def test_colour_shifts_are_signed_and_carry_intervals(runs: Path) -> None:
    found = colour_shifts(_board(runs))
    assert found is not None
    assert found.head == ("hue, %", "saturation, %", "value, %")
    table = {name: figures for name, _, figures in found.rows}
    assert [f.sort for f in table["drtune"]] == [0.4, -2.0, 1.25]
    assert [f.text for f in table["treereward"]] == ["–"] * 3
