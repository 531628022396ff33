"""Two runs side by side: pairs by rule, refusals by field, figures with known answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.core import paired
from bench.core.errors import UserError
from leaderboard import compare_page, compare_tables
from leaderboard.evidence import Evidence, Side
from leaderboard.read import read_runs
from leaderboard.run import Run
from leaderboard.site import build
from leaderboard.table import boards
from tests.leaderboard.factories import Fake

ENDS = (0.0, 1.0)


def _runs(runs: Path) -> dict[str, Run]:
    found, unreadable = read_runs(runs)
    assert unreadable == []
    return {run.tuner: run for run in found}


def _set_scores(folder: Path, metric: str, value: Any) -> None:
    """``value`` of (prompt id, seed) in the tuned model's score file."""
    path = folder / "scores" / f"{metric}__f100.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    made = [{**line, "value": value(line["prompt_id"], line["seed"])} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in made), "utf-8")


def _edit(folder: Path, change: Any) -> None:
    record = json.loads((folder / "record.json").read_text("utf-8"))
    change(record)
    (folder / "record.json").write_text(json.dumps(record), "utf-8")


def _figures(a: Run, b: Run) -> dict[str, dict[str, Any]]:
    first, second = Side.tuned(Evidence(a)), Side.tuned(Evidence(b))
    changes, roles = compare_tables.comparable(first, second), compare_tables.joint_roles(first, second)
    return {row["entry"].name: row for row in compare_tables.metrics(first, second, changes, roles)}


def test_figures_are_paired_by_prompt_and_noise_and_corrected_for_all_metrics(tmp_path: Path) -> None:
    folders = [Fake(tuner=name, fractions=ENDS).write(tmp_path) for name in ("drtune", "refl")]
    for folder, lift in zip(folders, (1.0, 0.0), strict=True):
        # the prompts differ by far more than the runs: only a paired comparison sees the difference
        _set_scores(folder, "reward_tiny-judge", lambda p, s, lift=lift: 10.0 * int(p) + s + lift)
        _set_scores(folder, "reward_tiny-clip", lambda p, s, lift=lift: float(int(p) + (lift if int(p) % 2 else -lift)))
        _set_scores(folder, "reward_tiny-pick", lambda p, s: 3.0)
    runs = _runs(tmp_path)
    rows = _figures(runs["drtune"], runs["refl"])
    judge = rows["reward/tiny-judge"]
    assert judge["difference"].sort == 1.0
    assert judge["difference"].span.startswith("+1.0")
    assert judge["rate"].text == "100.0 %"  # 16 of 16 prompts
    assert judge["reading"] == "A better"
    assert judge["p"] == f"{3 * paired.sign_test(16, 0):.3f}" or judge["p"] == "< 0.001"
    assert rows["reward/tiny-clip"]["rate"].text.startswith("50")
    assert rows["reward/tiny-clip"]["reading"] == "not separable"
    assert rows["reward/tiny-pick"]["rate"].sort == 0.5  # ties count half
    assert rows["reward/tiny-pick"]["difference"].sort == 0.0
    assert rows["fid"]["unpaired"]
    turned = _figures(runs["refl"], runs["drtune"])["reward/tiny-judge"]
    assert (turned["difference"].sort, turned["rate"].sort, turned["reading"]) == (-1.0, 0.0, "B better")


def test_a_win_rates_row_says_what_its_judge_says_of_a_against_b(tmp_path: Path) -> None:
    """Once more the same test, so the correction does not count it twice."""
    folders = [Fake(tuner=name, fractions=ENDS).write(tmp_path) for name in ("drtune", "refl")]
    for folder, lift in zip(folders, (1.0, 0.0), strict=True):
        _set_scores(folder, "reward_tiny-judge", lambda p, s, lift=lift: 10.0 * int(p) + s + lift)
        _set_scores(folder, "reward_tiny-clip", lambda p, s: 3.0)
        _set_scores(folder, "reward_tiny-pick", lambda p, s: 3.0)
    runs = _runs(tmp_path)
    rows = _figures(runs["drtune"], runs["refl"])
    mine, judges = rows["winrate/tiny-judge"], rows["reward/tiny-judge"]
    for field in ("rate", "p", "reading", "title"):
        assert mine[field] == judges[field]
    assert mine["p"] == "< 0.001"
    assert paired.sign_test(16, 0) * 3 < 0.001
    assert mine["difference"].text == "–"  # of two win rates against the base it would be no win rate of A over B


def test_a_win_rate_by_each_runs_own_reward_model_compares_nothing(tmp_path: Path) -> None:
    for name, weights in (("drtune", "aa"), ("refl", "bb")):
        _edit(Fake(tuner=name, fractions=ENDS).write(tmp_path), lambda record, weights=weights: [
            m.update(passport={"reward": {"name": "tiny-pick", "weights_sha256": weights}})
            for m in record["metrics"] if m["name"] == "reward/tiny-pick"
        ])  # fmt: skip
    runs = _runs(tmp_path)
    rows = _figures(runs["drtune"], runs["refl"])
    assert (rows["winrate/tiny-pick"]["rate"].text, rows["winrate/tiny-pick"]["reading"]) == ("–", "")


def test_a_lower_is_better_metric_is_won_by_the_lower_one(tmp_path: Path) -> None:
    folders = [Fake(tuner=name, fractions=ENDS).write(tmp_path) for name in ("drtune", "refl")]
    for folder, value in zip(folders, (1.0, 2.0), strict=True):
        _set_scores(folder, "reward_tiny-judge", lambda p, s, value=value: value)
        _edit(folder, lambda record: [m.update(higher_is_better=False) for m in record["metrics"]
                                      if m["name"] == "reward/tiny-judge"])  # fmt: skip
    runs = _runs(tmp_path)
    row = _figures(runs["drtune"], runs["refl"])["reward/tiny-judge"]
    assert (row["difference"].sort, row["rate"].sort, row["reading"]) == (-1.0, 1.0, "A better")


def test_a_metric_made_under_another_protocol_is_not_compared_and_says_which_field(tmp_path: Path) -> None:
    Fake(tuner="drtune", fractions=ENDS).write(tmp_path)
    Fake(tuner="refl", fractions=ENDS, fid_passport={"protocol": "pytorch-fid", "resize": "bicubic", "n": 64}).write(
        tmp_path
    )
    runs = _runs(tmp_path)
    row = _figures(runs["drtune"], runs["refl"])["fid"]
    assert row["problem"] == "not comparable: resize: bilinear and bicubic"
    assert row["difference"].text == "–"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("prompt_hash", "other", "prompt_hash: f00d and other"),
        ("eval_seeds", [0, 7], "eval_seeds: [0,1] and [0,7]"),
        ("sampler", {"scheduler": "ddim", "n_steps": 50, "guidance": 5.0, "eta": 0.0, "resolution": None},
         "sampler.n_steps: 20 and 50"),
        ("model_revision", "other", "model_revision: c0ffee and other"),
    ],
)  # fmt: skip
def test_images_that_are_no_pairs_are_refused_by_the_field_that_differs(
    tmp_path: Path, field: str, value: Any, said: str
) -> None:
    Fake(tuner="drtune", fractions=ENDS).write(tmp_path)
    _edit(Fake(tuner="refl", fractions=ENDS).write(tmp_path), lambda record: record["spec"].update({field: value}))
    runs = _runs(tmp_path)
    by_id = {run.run_id: run for run in runs.values()}
    assert compare_page.refusal(runs["drtune"], runs["refl"]) == said
    with pytest.raises(UserError, match=re.escape(said)):
        compare_page.request(tmp_path, by_id, runs["drtune"].run_id, runs["refl"].run_id)
    assert not (tmp_path / "comparisons.json").exists()


def test_pairs_are_those_of_the_rule(tmp_path: Path) -> None:
    for i in range(9):
        Fake(tuner=f"t{i}", held_out=0.9 - 0.04 * i, fractions=ENDS).write(tmp_path)
    (board,) = boards(read_runs(tmp_path)[0])
    assert [row.runs[0].tuner for row in board.rows] == [f"t{i}" for i in range(9)]
    pairs = [(pair.a.tuner, pair.b.tuner) for pair in compare_page.pairs_of(board)]
    best = [("t0", f"t{i}") for i in range(1, 7)]
    assert sorted(pairs) == sorted([*best, *((f"t{i}", f"t{i + 1}") for i in range(1, 6))])
    assert "next 6 rows" in compare_page.RULE


def test_a_pair_asked_for_stays_in_later_builds(tmp_path: Path) -> None:
    fakes = [Fake(tuner=f"t{i}", held_out=0.9 - 0.04 * i, fractions=ENDS) for i in range(9)]
    for fake in fakes:
        fake.write(tmp_path)
    last, first = fakes[8].run_id, fakes[2].run_id
    by_id = {run.run_id: run for run in read_runs(tmp_path)[0]}
    path = compare_page.request(tmp_path, by_id, last, first)
    assert path == f"compare/{last}--{first}.html"
    for _ in range(2):
        site = build(tmp_path).parent
        assert (site / path).is_file()
    assert f"{last}--{first}.html" in (site / "compare" / "index.html").read_text("utf-8")
    compare_page.request(tmp_path, by_id, last, first)
    assert json.loads((tmp_path / "comparisons.json").read_text("utf-8")) == [[last, first]]
    with pytest.raises(UserError, match="nonesuch"):
        compare_page.request(tmp_path, by_id, "nonesuch", first)
    with pytest.raises(UserError, match="itself"):
        compare_page.request(tmp_path, by_id, first, first)


def test_hours_of_two_gpus_are_said_to_be_no_equal_budgets(tmp_path: Path) -> None:
    for tuner, hardware in (("drtune", "NVIDIA H200"), ("refl", "NVIDIA A100"), ("draft", "NVIDIA H200")):
        Fake(tuner=tuner, primary="device_s", limit_u=28_800.0, hardware=hardware, fractions=ENDS).write(tmp_path)
    runs = _runs(tmp_path)
    (told,) = compare_tables.budgets(runs["drtune"], runs["refl"])
    assert "8.00 device-hours on NVIDIA H200 for A, 8.00 device-hours on NVIDIA A100 for B" in told
    assert compare_tables.budgets(runs["drtune"], runs["draft"]) == []


def test_the_page_shows_what_differs(tmp_path: Path) -> None:
    Fake(tuner="drtune", held_out=0.9, seed=3, fractions=(0.0, 0.5, 1.0)).write(tmp_path)
    Fake(tuner="refl", settings={"lr": 3e-4}, fractions=(0.0, 0.5, 1.0)).write(tmp_path)
    site = build(tmp_path).parent
    (page,) = (site / "compare").glob("*--*.html")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text("utf-8")))
    assert "A drtune against B refl" in text
    assert re.search(r"lr 0\.0001 0\.0003", text)
    assert re.search(r"seed 3 0", text)
    assert "best for A under reward/tiny-judge" in text
    assert "by category" in text
    assert page.read_text("utf-8").count("A drtune: ") >= 16  # points of the curves and the images' words
