"""The front page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from leaderboard.page import Made, Page, Site, inputs_of
from leaderboard.pages import index_page
from leaderboard.table import unranked


def pages(site: Site) -> Iterator[Page]:
    inputs = inputs_of([run.digest for run in site.runs], [asdict(u) for u in site.unreadable])
    yield Page("index.html", inputs, partial(_render, site), here=True)


def _render(site: Site) -> Made:
    return index_page(site.boards, unranked(site.runs), site.unreadable, len(site.runs)), {}
