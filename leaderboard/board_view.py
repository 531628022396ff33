"""A board ready to print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from bench.core.budget import KINDS
from leaderboard import charts, wording
from leaderboard.columns import Column
from leaderboard.page import board_name, board_path
from leaderboard.pages import Figure, board_text
from leaderboard.published import PublishedRow, published
from leaderboard.run import Run
from leaderboard.statistics import BoardFacts, row_id
from leaderboard.statistics_html import places_text
from leaderboard.table import Board, Cell, Row

_MOST_DRAWN = 24
"""Rows in a board's chart: the first ones."""


def board_view(board: Board, facts: BoardFacts, root: str) -> dict[str, Any]:
    """What ``board_parts.jinja`` prints.

    Args:
        root: from the page to the site's folder.
    """
    shown = (*board.rows, *board.ended, *board.external)
    decimals = {c.key: _decimals(c, [r.cells[c.key] for r in shown if c.key in r.cells]) for c in board.columns}
    by_key = {c.key: c for c in board.columns}
    rank_places = max((decimals[c.key] for c in board.columns if wording.kind_of(c.metric) == "winrate"), default=1)

    def row_view(row: Row) -> dict[str, Any]:
        head = row.runs[0]
        hacking = facts.hacking.get(row_id(row))
        return {
            "row": row, "head": head, "seeds": row.runs, "repeats": row.repeats, "spent": spent_over(row.runs),
            "place": places_text(facts.places.get(row_id(row))), "ties": _ties_with_the_first(row, facts),
            "hacking": hacking.flag if hacking is not None else "",
            "changed": ", ".join(f"{k} = {wording.plain_value(v)}" for k, v in sorted(head.changed.items())),
            "rank": _cell_figure("winrate", row.rank, rank_places, None) if row.rank else Figure("–"),
            "missing": [(m, e) for m, e in sorted(row.errors.items())],
            "cells": [_cell_figure(c.metric, row.cells.get(c.key), decimals[c.key], c, _error(c, row))
                      for c in board.columns],
            "u_per_image": row.u_per_image,
            "scaled": [{"scale": scale, "u": u, "figures": [
                (wording.full_label(c.metric), wording.figure(c.metric, cells[c.key].value, decimals[c.key]))
                for c in board.columns if c.key in cells
            ]} for scale, u, cells in row.scaled],
        }  # fmt: skip

    columns = [_column_view(c, board) for c in board.columns]
    costs = any(r.u_per_image is not None for r in shown)
    rewards = {r.runs[0].trained_reward for r in (*board.rows, *board.ended)}
    return {
        "board": board, "text": board_text(board), "root": root, "path": board_path(board), "name": board_name(board),
        "columns": columns, "behind": _behind(columns, costs),
        "rows": [row_view(r) for r in board.rows], "ended": [row_view(r) for r in board.ended],
        "external": [row_view(r) for r in board.external],
        "published": [{"row": p, "cells": [_published_figure(c, p, decimals[c.key]) for c in board.columns]}
                      for p in published(board)],
        "base": [_base_figure(c, board, decimals[c.key]) for c in board.columns],
        "judges": [wording.subject_of(by_key[key].metric) for key in board.rank_columns],
        "mean_rank": len(board.rank_columns) != 1 and bool(board.rows),
        "notes": _board_notes(board), "reward": rewards.pop() if len(rewards) == 1 else None,
        "seeded": any(len(r.runs) > 1 for r in board.rows),
        "costs": costs,
    }  # fmt: skip


def best_rows(board: Board, facts: BoardFacts) -> set[str]:
    """The rows that the statistics do not tell from the best one, by ``row_id``; none where nothing is compared."""
    return {row for row, (first, _) in facts.places.items() if first == 1}


def _ties_with_the_first(row: Row, facts: BoardFacts) -> bool:
    """By all pairs under Holm where these are known, else by the two intervals."""
    if row_id(row) in facts.places:
        return facts.places[row_id(row)][0] == 1 and row.place > 1
    return row.separable is False


def _error(column: Column, row: Row) -> str:
    """Why a cell is empty: a metric that failed altogether goes by its kind alone."""
    return row.errors.get(column.metric) or row.errors.get(wording.kind_of(column.metric), "")


def _column_view(column: Column, board: Board) -> dict[str, Any]:
    kind = wording.kind_of(column.metric)
    return {
        "column": column, "label": wording.metric_label(column.metric),
        "subject": wording.subject_of(column.metric) if kind in wording.METRIC_KINDS else "",
        "unit": "%" if wording.is_share(column.metric) else column.unit,
        "help": wording.METRIC_KINDS[kind][1] if kind in wording.METRIC_KINDS else "",
        "extra": kind not in wording.METRIC_KINDS or kind in wording.BEHIND, "mixed": column.role == "mixed",
        "judged": kind == "winrate", "ranks": board.rank_columns == (column.key,),
    }  # fmt: skip


def _behind(columns: Sequence[dict[str, Any]], costs: bool) -> dict[str, Any] | None:
    """What a board shows on demand, so that what was spent, the seeds and the status need no scrolling."""
    labels = [*(["U an image"] if costs else []), *(c["label"] for c in columns if c["extra"])]
    return {"n": len(labels), "labels": list(dict.fromkeys(labels))} if labels else None


def _decimals(column: Column, cells: Sequence[Cell]) -> int:
    halves = [(c.high - c.low) / 2 for c in cells if c.low is not None and c.high is not None]
    return wording.places(column.metric, [c.value for c in cells], halves)


def _cell_figure(metric: str, cell: Cell | None, decimals: int, column: Column | None, error: str = "") -> Figure:
    if cell is None:
        return Figure("failed" if error else "–", title=error)
    return Figure(
        wording.figure(metric, cell.value, decimals), wording.span(metric, cell.low, cell.high, decimals), cell.value,
        role=cell.role, n=f"n = {cell.n:,}" if column is not None and column.n is None else "",
    )  # fmt: skip


def _base_figure(column: Column, board: Board, decimals: int) -> Figure:
    if column.key not in board.base:
        return Figure("–")
    low, high = board.base[column.key]
    low_text, high_text = (wording.figure(column.metric, v, decimals) for v in (low, high))
    # Machines may disagree in the last digits; when they disagree in a printed one, the page says so.
    return Figure(low_text if low_text == high_text else f"{low_text} to {high_text}", sort=low)


def _published_figure(column: Column, row: PublishedRow, decimals: int) -> Figure:
    if column.key not in row.figures:
        return Figure("–")
    found = row.figures[column.key]
    low, high = (wording.figure(column.metric, v, decimals) for v in (found.low, found.high))
    return Figure(low if low == high else f"{low} to {high}", sort=found.low)


def spent_over(runs: Sequence[Run]) -> dict[str, Any]:
    """Spent against limit over the seeds of a row: the mean of the primary kind, and every kind."""
    budget = runs[0].budget
    kinds = []
    for kind in KINDS:
        spent = [r.spent[kind] for r in runs if kind in r.spent]
        lost = [r.lost.get(kind, 0.0) for r in runs]
        cap = budget.limit(kind)
        if spent:
            kinds.append({
                "kind": kind, "spent": _spent(kind, math.fsum(spent) / len(spent), cap),
                "limit": "" if cap is None else wording.amount(kind, cap),
                "lost": wording.amount(kind, math.fsum(lost) / len(lost)) if any(lost) else "",
            })  # fmt: skip
    limit = budget.limit(budget.primary) or 1.0
    used = [r.spent.get(budget.primary, 0.0) for r in runs]
    mean = math.fsum(used) / len(used)
    return {
        "kinds": kinds, "share": mean / limit,
        "text": wording.beside(budget.primary, mean, limit),
        "limit": wording.amount(budget.primary, limit),
        "over": f"{wording.share(max(used) / limit - 1, 1)} over the limit" if max(used) > limit else "",
    }  # fmt: skip


def _spent(kind: str, value: float, cap: float | None) -> str:
    return wording.amount(kind, value) if cap is None else wording.beside(kind, value, cap)


def _board_notes(board: Board) -> list[str]:
    """What a reader must know about this board's order."""
    notes = []
    ranked = [r for r in board.rows if r.rank is not None]
    if len(board.rank_columns) > 1:
        notes.append("Ordered by the mean win rate over the judges that are held out for every row; the interval is "
                     "the mean of theirs, which is never too narrow.")  # fmt: skip
    if not board.rank_columns and ranked:
        notes.append("The rows were trained on different rewards and no judge is held out for all of them: each is "
                     "placed by the mean of its own held-out judges, and no row is called separable.")  # fmt: skip
    if not ranked and board.rows:
        notes.append("No row has a held-out win rate: the order is by name.")
    if any(c.differs for c in board.columns):
        notes.append("Some figures of one metric were made under different protocols and are not comparable: they "
                     "stand in columns of their own, whose headings name what differs.")  # fmt: skip
    return notes


def board_chart(board: Board, facts: BoardFacts) -> Markup | None:
    """Win rates of the first rows with their intervals; None where there is nothing to compare."""
    columns = [c for c in board.columns if wording.kind_of(c.metric) == "winrate"]
    rows = board.rows[:_MOST_DRAWN]
    points = [
        charts.Point(x=i, value=cell.value, low=cell.low, high=cell.high, series=_series(c), role=cell.role)
        for i, row in enumerate(rows) for c in columns if (cell := row.cells.get(c.key)) is not None
    ]  # fmt: skip
    if len(rows) < 2 or not points:
        return None
    names = [facts.names[row_id(row)] for row in rows]
    return charts.forest(points, names, charts.Axis("win rate against the base", ".0%"), neutral=0.5)


def _series(column: Column) -> str:
    return " ".join([wording.subject_of(column.metric) or column.metric, *column.differs])
