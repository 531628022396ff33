"""The kinds of pages, in the order in which they are made: modules with ``pages(site) -> Iterator[Page]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from leaderboard import (
    board_page,
    compare_page,
    exports,
    index_page,
    method_page,
    paper_tables,
    prompt_page,
    run_page,
    study_page,
    vega,
)
from leaderboard.page import Page, Site


class Kind(Protocol):
    """A module that makes one kind of page."""

    def pages(self, site: Site) -> Iterator[Page]: ...


KINDS: tuple[Kind, ...] = (
    index_page, board_page, paper_tables, exports, run_page, compare_page, prompt_page, method_page, study_page, vega,
)  # fmt: skip
