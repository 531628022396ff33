"""What the site is made of: pages, each with a digest of all it is made from, and the view that page makers get.

A kind of page is a module with ``def pages(site: Site) -> Iterator[Page]``; ``leaderboard.kinds`` lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.core.identity import digest
from leaderboard.evidence import Picture
from leaderboard.program import program
from leaderboard.read import Unreadable
from leaderboard.run import Run
from leaderboard.spelling import short_digest
from leaderboard.statistics import BoardFacts, board_facts
from leaderboard.table import Board

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}")

Made = tuple[str, Mapping[str, Picture]]
"""A page's text, and the pictures it shows by file name under ``images/``."""


@dataclass(frozen=True)
class Page:
    """One file of the site. Two pages with equal ``path`` and ``inputs`` have equal bytes."""

    path: str
    """Relative to the site, such as ``runs/0a1b2c.html``."""
    inputs: str
    """Digest of everything that the text depends on (``inputs_of``): a page whose digest did not change since the
    previous build is not made again."""
    render: Callable[[], Made]
    """Makes the text. ``functools.partial`` of a module-level function whose arguments can be pickled: with many pages
    to make, other processes do it."""
    group: str = ""
    """Pages of one group share much of what they are made from: one process makes them all and gets it once."""
    here: bool = False
    """Make it in this process: its arguments are much of the site, so that sending them costs more than the page."""

    @property
    def root(self) -> str:
        """From this page to the site's folder: ``../`` for every folder in between."""
        return root_of(self.path)


@dataclass(frozen=True)
class Site:
    """What page makers may look at; nobody changes it."""

    roots: tuple[Path, ...]
    """The runs folders; ``Run.root`` is the one that a run is from."""
    runs: tuple[Run, ...]
    """By run id."""
    boards: tuple[Board, ...]
    unreadable: tuple[Unreadable, ...]
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What tuners say of themselves, by name; see ``leaderboard.method_page``."""

    @property
    def cache(self) -> Path:
        """What may be kept from one build to the next; safe to delete."""
        return cache_of(self.roots)

    @cached_property
    def facts(self) -> dict[str, BoardFacts]:
        """What the paired statistics say of each board, by its key."""
        return {board.key: board_facts(board, self.cache) for board in self.boards}

    @cached_property
    def run_by_id(self) -> dict[str, Run]:
        return {run.run_id: run for run in self.runs}

    @cached_property
    def board_by_run(self) -> dict[str, Board]:
        """The board that shows a run, by run id; runs that are not ranked have none."""
        return {run.run_id: board for board in self.boards for row in (*board.rows, *board.ended) for run in row.shown}


def cache_of(roots: Sequence[Path]) -> Path:
    return roots[0] / ".cache" / "leaderboard"


def run_path(run_id: str) -> str:
    """Where a run's page is."""
    return f"runs/{run_id}.html"


def board_path(board: Board) -> str:
    """Where a board's page is."""
    return f"boards/{board_name(board)}.html"


def board_name(board: Board) -> str:
    """What a board's page and exports are called."""
    name = "-".join(re.findall(r"[A-Za-z0-9_.]+", f"{board.suite} {board.model}")).strip(".")[:60]
    return f"{name}-{board.key}" if name else board.key


def root_of(path: str) -> str:
    """``../`` for every folder between ``path`` and the site's folder."""
    return "../" * path.count("/")


def slug(text: str) -> str:
    """A file name for ``text``: itself where that is harmless, else what is harmless of it and a digest.

    >>> slug("drtune"), slug("../my tuner")
    ('drtune', 'my-tuner-3d60f0b5')
    """
    if _SAFE.fullmatch(text) and ".." not in text:
        return text
    kept = "-".join(re.findall(r"[A-Za-z0-9_]+", text))[:40]
    return f"{kept or 'x'}-{digest(text, 8)}"


def inputs_of(*values: Any) -> str:
    """Digest of ``values`` (plain data) together with the program that makes pages of them."""
    return short_digest([program(), *values], 24)
