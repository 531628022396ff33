"""Reference rows with figures that others published, never mixed with what was measured here.

A row is on a board when the board is of a full edition of the row's suite and variant with all of its prompts, and a
figure is in a column when the column's metric is the figure's and its passport agrees in every fact that the figure
names. Sample editions are another world and have none. A row without a figure on a board is not on it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from leaderboard.columns import Column
from leaderboard.table import Board


@dataclass(frozen=True)
class Range:
    """What was published: one figure, or the lowest and the highest of several."""

    low: float
    high: float


@dataclass(frozen=True)
class PublishedRow:
    name: str
    source: str
    """Where the figures stand."""
    conditions: str
    """How the images were made, which is not the board's way."""
    figures: dict[str, Range]
    """By column key."""


def published(board: Board) -> tuple[PublishedRow, ...]:
    """The published rows that belong on a board, in the order of ``published.toml``."""
    if board.edition != "full" or not board.runs:
        return ()
    spec = board.runs[0].spec
    found = []
    for row in _rows():
        same = spec.get("suite_name") == row["suite"] and str(spec.get("variant") or "") == row["variant"]
        if not same or spec.get("limit") is not None:
            continue
        figures = {
            column.key: Range(figure["low"], figure["high"])
            for figure in row["figures"] for column in board.columns if _agrees(figure, column, row["n_prompts"])
        }  # fmt: skip
        if figures:
            found.append(PublishedRow(row["name"], row["source"], row["conditions"], figures))
    return tuple(found)


def _agrees(figure: dict[str, Any], column: Column, n_prompts: int) -> bool:
    absent = object()
    facts = {"n": n_prompts, **figure["passport"]}
    return column.metric == figure["metric"] and all(
        column.passport.get(name, absent) == value for name, value in facts.items()
    )


@cache
def _rows() -> list[dict[str, Any]]:
    text = (resources.files("leaderboard") / "published.toml").read_text("utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)["row"]
    return rows
