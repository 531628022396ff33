"""The overview across suites: one row for a tuner on a base model, its held-out win rate by suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.table import Board, Cell, Row

MOST_ROWS = 200
"""Rows on the front page; all of them are in ``data/overview.csv``."""


@dataclass(frozen=True)
class Best:
    """The tuner's best row on one suite."""

    cell: Cell
    board: Board
    row: Row


@dataclass(frozen=True)
class Line:
    tuner: str
    model: str
    by_suite: dict[str, Best]
    mean: float
    """Of the win rates over the suites that it has."""


@dataclass(frozen=True)
class Overview:
    suites: tuple[str, ...]
    lines: tuple[Line, ...]


def overview(boards: Sequence[Board]) -> Overview:
    """Lines in order of how many suites they have and of their mean: a mean over fewer suites is no better evidence.

    Of several budgets, rewards and settings the row with the highest held-out win rate stands for the tuner; the best
    of many looks better than it is, which the page says.
    """
    found: dict[tuple[str, str], dict[str, Best]] = {}
    for board in boards:
        for row in board.rows:
            if row.rank is None:
                continue
            mine = found.setdefault((row.runs[0].tuner, board.model), {})
            known = mine.get(board.suite)
            if known is None or row.rank.value > known.cell.value:
                mine[board.suite] = Best(row.rank, board, row)
    lines = [
        Line(tuner, model, by_suite, sum(best.cell.value for _, best in sorted(by_suite.items())) / len(by_suite))
        for (tuner, model), by_suite in found.items()
    ]
    lines.sort(key=lambda line: (-len(line.by_suite), -line.mean, line.tuner, line.model))
    return Overview(tuple(sorted({board.suite for board in boards})), tuple(lines))
