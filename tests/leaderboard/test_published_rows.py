"""Published figures stand on a board only where its protocol is theirs, and always marked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from leaderboard.board_page import board_page
from leaderboard.exports import _markdown
from leaderboard.published import published
from leaderboard.read import read_runs
from leaderboard.statistics import board_facts
from leaderboard.table import Board, boards
from tests.leaderboard.factories import Fake

FID = {"protocol": "pytorch-fid", "n": 5000, "n_reference": 40504, "reference": "of val2014"}


def _board(runs: Path, *, suite: str = "coco-full@1", passport: dict[str, Any] | None = None) -> Board:
    Fake(suite=suite, model="sd15", fractions=(0.0, 1.0), fid_passport=passport or FID).write(runs)
    (board,) = boards(read_runs(runs)[0])
    return board


def test_a_board_of_the_same_protocol_shows_the_row_marked_with_its_source(tmp_path: Path) -> None:
    board = _board(tmp_path)
    (row,) = published(board)
    assert row.name == "SDXL base 1.0"
    (column,) = (c for c in board.columns if c.metric == "fid")
    assert row.figures == {column.key: row.figures[column.key]}  # no CLIP figure: the board's CLIP is another one
    facts = board_facts(board, None)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", board_page(board, facts)[0]))
    assert "SDXL base 1.0published, not measured here: 20 steps, guidance 8" in text
    assert "MLPerf Inference" in text
    assert "23.01 to 23.95" in text
    assert "SDXL base 1.0 \\(published: MLPerf" in _markdown(board, facts)[0]


@pytest.mark.parametrize(
    "changed", [{"n": 64}, {"n_reference": 5000}, {"protocol": "clean-fid"}, {"n_reference": None}]
)
def test_any_fact_that_differs_keeps_it_away(tmp_path: Path, changed: dict[str, Any]) -> None:
    passport = {k: v for k, v in {**FID, **changed}.items() if v is not None}
    assert published(_board(tmp_path, passport=passport)) == ()


@pytest.mark.parametrize("suite", ["coco-sample@1"])
def test_sample_editions_and_other_suites_have_none(tmp_path: Path, suite: str) -> None:
    assert published(_board(tmp_path / "sample", suite=suite)) == ()


@pytest.mark.parametrize(("field", "value"), [("suite_name", "parti"), ("variant", "esd30k"), ("limit", 64)])
def test_other_prompts_have_none(tmp_path: Path, field: str, value: object) -> None:
    board = _board(tmp_path)
    board.runs[0].spec[field] = value
    assert published(board) == ()
