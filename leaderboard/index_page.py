"""The front page: the overview across suites, and the boards themselves or the way to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from leaderboard import wording
from leaderboard.board_view import board_chart, board_view
from leaderboard.overview import MOST_ROWS, Line, Overview, overview
from leaderboard.page import Made, Page, Site, board_path, inputs_of
from leaderboard.pages import Figure, board_text, render
from leaderboard.statistics import row_id
from leaderboard.statistics_html import places_text, profiles_html
from leaderboard.table import Board, unranked

MOST_ROWS_INLINE = 60
"""A site with more rows has its boards on pages of their own only."""
MOST_APART = 40
"""Runs on no board and unreadable files that the front page lists; more have a page of their own."""


def pages(site: Site) -> Iterator[Page]:
    inputs = inputs_of([run.digest for run in site.runs], [asdict(u) for u in site.unreadable],
                       [site.facts[board.key].digest for board in site.boards])  # fmt: skip
    yield Page("index.html", inputs, partial(index_page, site), here=True)
    if _n_apart(site) > MOST_APART:
        yield Page("apart.html", inputs, partial(_apart_page, site), here=True)


def index_page(site: Site) -> Made:
    inline = sum(len(b.rows) + len(b.ended) + len(b.external) for b in site.boards) <= MOST_ROWS_INLINE
    seen = overview(site.boards)
    apart = _n_apart(site) if _n_apart(site) > MOST_APART else 0
    return render(
        "index.jinja", styles=("tables.css", "statistics.css", "plot.css"),
        scripts=("tables.js", "charts.js") if inline else ("tables.js",), root="",
        inline=inline, n_runs=len(site.runs), n_apart=apart,
        boards=[_inline(site, b) if inline else _summary(site, b) for b in site.boards],
        overview=_overview_view(site, seen) if len(seen.suites) > 1 else None,
        profiles=profiles_html(site.boards, site.facts) if len(seen.suites) > 1 else None,
        unranked=[] if apart else unranked(site.runs), unreadable=() if apart else site.unreadable,
        sample="sample" in {*(b.edition for b in site.boards), *(r.edition for r in unranked(site.runs))},
        metric_help=wording.METRIC_KINDS, role_help=wording.ROLE_HELP,
    ), {}  # fmt: skip


def _apart_page(site: Site) -> Made:
    runs = unranked(site.runs)
    return render(
        "apart.jinja", root="", unranked=runs, unreadable=site.unreadable, sample="sample" in {r.edition for r in runs}
    ), {}


def _n_apart(site: Site) -> int:
    return sum(not run.ranked for run in site.runs) + len(site.unreadable)


def _inline(site: Site, board: Board) -> dict[str, Any]:
    facts = site.facts[board.key]
    return {**board_view(board, facts, ""), "chart": board_chart(board, facts)}


def _summary(site: Site, board: Board) -> dict[str, Any]:
    """One line that stands for a board: who cannot be told from the best."""
    facts = site.facts[board.key]
    best = [facts.names[row] for row in facts.rows if row in facts.places and facts.places[row][0] == 1]
    first = board.rows[0] if board.rows else None
    return {
        "board": board, "text": board_text(board), "path": board_path(board), "best": best,
        "first": first.runs[0].tuner if first is not None and first.rank is not None else "",
        "rank": _share(first.rank.value, first.rank.low, first.rank.high) if first and first.rank else Figure("–"),
    }  # fmt: skip


def _overview_view(site: Site, seen: Overview) -> dict[str, Any]:
    def line_view(line: Line) -> dict[str, Any]:
        cells = []
        for suite in seen.suites:
            best = line.by_suite.get(suite)
            cells.append(None if best is None else {
                "figure": _share(best.cell.value, best.cell.low, best.cell.high), "path": board_path(best.board),
                "place": places_text(site.facts[best.board.key].places.get(row_id(best.row))),
                "n": len(best.board.rows),
            })  # fmt: skip
        return {"line": line, "cells": cells, "mean": _share(line.mean, None, None)}

    return {"suites": seen.suites, "lines": [line_view(line) for line in seen.lines[:MOST_ROWS]],
            "n_lines": len(seen.lines)}  # fmt: skip


def _share(value: float, low: float | None, high: float | None) -> Figure:
    return Figure(wording.figure("winrate", value, 1), wording.span("winrate", low, high, 1), value)
