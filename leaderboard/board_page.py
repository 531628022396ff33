"""A page a board: its table, what its rows say of each other, and its exports."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from leaderboard import wording
from leaderboard.board_view import board_chart, board_view
from leaderboard.page import Made, Page, Site, board_path, inputs_of, root_of
from leaderboard.pages import render
from leaderboard.statistics import BoardFacts
from leaderboard.statistics_html import board_statistics_html
from leaderboard.table import Board


def pages(site: Site) -> Iterator[Page]:
    for board in site.boards:
        facts = site.facts[board.key]
        inputs = inputs_of(board.key, board.protocol, [run.digest for run in board.runs], facts.digest)
        yield Page(board_path(board), inputs, partial(board_page, board, facts), group=board.key)


def board_page(board: Board, facts: BoardFacts) -> Made:
    root = root_of(board_path(board))
    return render(
        "board.jinja", root=root, b=board_view(board, facts, root), chart=board_chart(board, facts),
        sample=board.edition == "sample",
        metric_help=wording.METRIC_KINDS, role_help=wording.ROLE_HELP,
        styles=("tables.css", "statistics.css", "plot.css"),
        scripts=("tables.js", "charts.js"),
        statistics=board_statistics_html(board, facts, root),
    ), {}  # fmt: skip
