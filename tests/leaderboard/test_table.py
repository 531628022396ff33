"""Boards: what shares one, what shares a column, and in which order."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from scipy import stats as reference

from bench.core.budget import Budget
from leaderboard.board_view import spent_over
from leaderboard.read import Run, read_runs
from leaderboard.table import Board, boards, long_table, unranked
from tests.leaderboard.factories import Fake

ENDS = (0.0, 1.0)


def _runs(tmp_path: Path, *fakes: Fake) -> list[Run]:
    for fake in fakes:
        fake.write(tmp_path)
    runs, unreadable = read_runs(tmp_path)
    assert unreadable == []
    return runs


def _board(tmp_path: Path, *fakes: Fake) -> Board:
    (board,) = boards(_runs(tmp_path, *fakes))
    return board


def _tuners(board: Board) -> list[str]:
    return [row.runs[0].tuner for row in board.rows]


def test_order_is_by_held_out_win_rate_and_never_by_the_trained_one(tmp_path: Path) -> None:
    board = _board(
        tmp_path,
        Fake(tuner="hacker", held_out=0.44, trained=0.99, fractions=ENDS),
        Fake(tuner="honest", held_out=0.70, trained=0.75, fractions=ENDS),
        Fake(tuner="close", held_out=0.65, trained=0.80, fractions=ENDS),
    )
    assert _tuners(board) == ["honest", "close", "hacker"]
    assert [row.place for row in board.rows] == [1, 2, 3]
    # intervals are ± 0.06: 0.64 to 0.76, 0.59 to 0.71, 0.38 to 0.50
    assert [row.separable for row in board.rows] == [None, False, True]
    assert [row.beats_base for row in board.rows] == [True, True, False]
    column = next(c for c in board.columns if c.key == board.rank_columns[0])
    assert (column.metric, column.role) == ("winrate/tiny-judge", "held-out")


def test_a_seed_that_ran_twice_with_other_snapshots_counts_once(tmp_path: Path) -> None:
    twice = [Fake(seed=0, fractions=ENDS), Fake(seed=1, fractions=ENDS), Fake(seed=1, again=1)]
    once = [twice[0], twice[2]]
    (row,) = _board(tmp_path / "twice", *twice).rows
    (alone,) = _board(tmp_path / "once", *once).rows
    assert [r.seed for r in row.runs] == [0, 1]
    # the one that shows more of the budget counts; the other is linked
    assert [r.run_id for r in row.runs] == [fake.run_id for fake in once]
    assert [r.run_id for r in row.repeats] == [twice[1].run_id]
    assert row.cells == alone.cells
    # what was measured beside it makes no other run of it, another seed does
    path = tmp_path / "twice" / twice[1].suite / twice[1].tuner / twice[1].run_id / "record.json"
    path.write_text(path.read_text().replace('"metrics": [\n   "fid"\n  ]', '"metrics": ["fid", "kid"]'))
    assert '"metrics": ["fid", "kid"]' in path.read_text()
    (other,) = _board(tmp_path / "twice", Fake(seed=2, again=2)).rows
    assert ([r.seed for r in other.runs], len(other.repeats)) == ([0, 1, 2], 1)


def test_columns_stand_by_kind_and_role_and_judges_means_stay_off_the_board(tmp_path: Path) -> None:
    board = _board(tmp_path, Fake(fractions=ENDS))
    assert [(c.metric, c.role) for c in board.columns] == [
        ("winrate/tiny-judge", "held-out"), ("winrate/tiny-clip", "related"), ("winrate/tiny-pick", "trained-on"),
        ("clipscore/tiny-clip", "held-out"), ("tifa/tiny-vqa", "held-out"), ("fid", "held-out"), ("kid", "held-out"),
        ("diversity/tiny-clip", "held-out"), ("fid-to-base", "held-out"),
    ]  # fmt: skip
    assert {c.metric: c.higher_is_better for c in board.columns}["fid"] is False
    assert board.base[next(c.key for c in board.columns if c.metric == "fid")] == (84.0, 84.0)


def test_figures_with_different_passports_never_share_a_column(tmp_path: Path) -> None:
    clean = {"protocol": "clean", "resize": "bicubic", "n": 64}
    board = _board(tmp_path, Fake(fractions=ENDS), Fake(tuner="refl", fid_passport=clean, fractions=ENDS))
    fids = [c for c in board.columns if c.metric == "fid"]
    assert [c.differs for c in fids] == [
        ("protocol = clean", "resize = bicubic"), ("protocol = pytorch-fid", "resize = bilinear"),
    ]  # fmt: skip
    for row in board.rows:
        assert sum(c.key in row.cells for c in fids) == 1


def test_a_metric_that_failed_is_told_on_its_row(tmp_path: Path) -> None:
    board = _board(tmp_path, Fake(fractions=ENDS), Fake(tuner="refl", failed_metric="tifa", fractions=ENDS))
    assert [c.metric for c in board.columns if c.metric.startswith("tifa")] == ["tifa/tiny-vqa"]
    assert [row.errors for row in board.rows] == [{}, {"tifa": "3 images are missing"}]


def test_the_field_inside_a_passport_is_named(tmp_path: Path) -> None:
    first = {"reward": {"name": "x", "weights_sha256": "a" * 64}}
    second = {"reward": {"name": "x", "weights_sha256": "b" * 64}}
    board = _board(
        tmp_path, Fake(fid_passport=first, fractions=ENDS), Fake(tuner="refl", fid_passport=second, fractions=ENDS)
    )
    fids = [c.differs for c in board.columns if c.metric == "fid"]
    assert fids == [("reward.weights_sha256 = aaaaaaaaaaaa…",), ("reward.weights_sha256 = bbbbbbbbbbbb…",)]


def test_seeds_of_one_configuration_make_one_row(tmp_path: Path) -> None:
    fakes = [Fake(seed=s, held_out=h, fractions=ENDS) for s, h in enumerate((0.60, 0.66, 0.72))]
    board = _board(tmp_path, *fakes, Fake(settings={"K": 2}, held_out=0.5, fractions=ENDS))
    assert [[r.seed for r in row.runs] for row in board.rows] == [[0, 1, 2], [0]]
    cell = board.rows[0].rank
    assert cell is not None
    from_prompts, from_seeds = (0.06 / 1.96) ** 2, 0.06**2 / 3  # each seed's interval is ± 0.06
    half = reference.t.ppf(0.975, 2 * (1 + from_prompts / from_seeds) ** 2) * (from_prompts + from_seeds) ** 0.5
    assert (cell.value, cell.low, cell.high) == pytest.approx((0.66, 0.66 - half, 0.66 + half), rel=0.01)


def test_failed_runs_come_last_and_limited_ones_stay_off(tmp_path: Path) -> None:
    runs = _runs(
        tmp_path,
        Fake(fractions=ENDS),
        Fake(tuner="burnt", held_out=0.99, status="failed", fractions=(0.0, 0.1)),
        Fake(tuner="short", held_out=0.99, ranked=False, unranked_reason="limited", fractions=ENDS),
    )
    (board,) = boards(runs)
    assert _tuners(board) == ["drtune"]
    assert [row.runs[0].tuner for row in board.ended] == ["burnt"]
    assert [run.tuner for run in unranked(runs)] == ["short"]


def test_suite_budget_model_and_protocol_each_make_a_board_of_their_own(tmp_path: Path) -> None:
    runs = _runs(
        tmp_path,
        Fake(fractions=ENDS),
        Fake(suite="parti-sample@1", fractions=ENDS),
        Fake(model="sd15", fractions=ENDS),
        Fake(limit_u=24000.0, fractions=ENDS),
        Fake(tuner="refl", n_seeds=1, fractions=ENDS),
    )
    made = boards(runs)
    assert len(made) == 5
    assert len({b.key for b in made}) == 5
    split = [b.protocol for b in made if b.protocol]
    assert sorted(split) == [("eval_seeds = [0,1]",), ("eval_seeds = [0]",)]


def test_device_seconds_are_compared_on_one_kind_of_hardware(tmp_path: Path) -> None:
    """An hour of one GPU is not an hour of another, nor is one that began elsewhere; a U is a U everywhere."""
    h200, a100 = "NVIDIA H200", "NVIDIA A100"
    asked = [(h200, "drtune"), (h200, "refl"), (a100, "drtune"), (f"{a100} + {h200}", "drtune")]
    # hardware is in no id: the same run on two kinds is one id with two contents, so seeds differ here
    hours = [Fake(tuner=t, seed=i, primary="device_s", limit_u=28_800.0, hardware=h, fractions=ENDS)
             for i, (h, t) in enumerate(asked)]  # fmt: skip
    runs = _runs(tmp_path / "hours", *hours, Fake(seed=9, primary="device_s", limit_u=28_800.0, fractions=ENDS))
    made = boards(runs)
    assert {board.budget: sorted(_tuners(board)) for board in made} == {
        "8.00 device-hours on NVIDIA H200": ["drtune", "refl"], "8.00 device-hours on NVIDIA A100": ["drtune"],
        "8.00 device-hours on NVIDIA A100 + NVIDIA H200": ["drtune"], "8.00 device-hours": ["drtune"],
    }  # fmt: skip
    assert len({board.key for board in made}) == 4
    # seconds may also be the second limit
    both = Budget(denoiser_u=12_000.0, device_s=600.0)
    assert dataclasses.replace(runs[0], budget=both).terms.endswith(f" on {runs[0].hardware}")
    told = long_table(runs)
    assert set(told["budget"]) == {board.budget for board in made}
    (one,) = boards(_runs(tmp_path / "u", *(Fake(tuner=t, hardware=h, fractions=ENDS) for h, t in asked[1:3])))
    assert (one.budget, sorted(_tuners(one))) == ("12,000 U", ["drtune", "refl"])


@pytest.mark.parametrize(
    ("primary", "spent", "limit", "shown"),
    [("device_s", 28_500.0, 28_800.0, "7.92 / 8.00 device-hours"), ("device_s", 43.4, 40.0, "43.4 / 40 device-s"),
     ("denoiser_u", 11_880.0, 12_000.0, "11,880 / 12,000 U")],
)  # fmt: skip
def test_what_was_spent_is_in_the_unit_of_its_limit(
    tmp_path: Path, primary: str, spent: float, limit: float, shown: str
) -> None:
    found = spent_over(_runs(tmp_path, Fake(primary=primary, spent_u=spent, limit_u=limit, fractions=ENDS)))
    assert f"{found['text']} / {found['limit']}" == shown


def test_without_a_judge_that_is_held_out_for_all_no_row_is_called_separable(tmp_path: Path) -> None:
    swapped = {"tiny-pick": "held-out", "tiny-judge": "trained-on", "tiny-clip": "related"}
    board = _board(
        tmp_path,
        Fake(held_out=0.9, fractions=ENDS),
        Fake(tuner="refl", reward="tiny-judge", judge_roles=swapped, held_out=0.4, fractions=ENDS),
    )
    assert board.rank_columns == ()
    assert _tuners(board) == ["drtune", "refl"]
    assert [row.separable for row in board.rows] == [None, None]
    assert {c.metric: c.role for c in board.columns}["winrate/tiny-judge"] == "mixed"


def test_several_held_out_judges_count_together(tmp_path: Path) -> None:
    roles = {"tiny-pick": "trained-on", "tiny-judge": "held-out", "tiny-clip": "held-out"}
    board = _board(
        tmp_path, Fake(judge_roles=roles, fractions=ENDS), Fake(tuner="refl", judge_roles=roles, fractions=ENDS)
    )
    assert len(board.rank_columns) == 2


def test_input_order_changes_nothing(tmp_path: Path) -> None:
    runs = _runs(tmp_path, *(Fake(tuner=t, seed=s, fractions=ENDS) for t in ("a", "b", "c") for s in (0, 1)))
    shuffled = list(runs)
    random.Random(3).shuffle(shuffled)
    assert boards(shuffled) == boards(runs)
    assert long_table(shuffled).equals(long_table(runs))


def test_no_runs_make_no_boards() -> None:
    assert boards([]) == []
    assert long_table([]).empty
