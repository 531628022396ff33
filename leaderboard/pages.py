"""What every page needs: the templates, and figures ready to print."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from leaderboard.table import Board

SAMPLE_BANNER = "Embedded tiny world: not comparable with published figures"


@dataclass(frozen=True)
class Figure:
    """A figure ready to print, with the number it sorts by."""

    text: str
    span: str = ""
    sort: float | None = None
    unit: str = ""
    role: str = ""
    n: str = ""
    """Images behind it, where the column's heading does not say."""
    title: str = ""
    """Why there is no value."""


def board_text(board: Board) -> str:
    """How other lines refer to a board."""
    return " · ".join(part for part in (board.suite, board.model, board.budget) if part)


@dataclass(frozen=True)
class Script:
    """A script that stands in a page, with the digest by which the page's policy lets it run."""

    text: Markup
    sha256: str


@cache
def _asset(name: str) -> str:
    return (resources.files("leaderboard") / "assets" / name).read_text("utf-8")


@cache
def _script(name: str) -> Script:
    text = _asset(name)
    return Script(Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("leaderboard"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(sample_banner=SAMPLE_BANNER)
    return environment


def render(template: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: Any) -> str:
    """A page with the site's style and script and its own ones (names under ``assets/``).

    Only these very scripts may run, and on pages with charts the library beside the site that they ask for; nothing else
    may be fetched: text that slipped through escaping stays text.
    """
    return _environment().get_template(template).render(
        page_styles=[Markup(_asset(name)) for name in ("site.css", *styles)],
        page_scripts=[_script(name) for name in ("site.js", *scripts)], charts_drawn="charts.js" in scripts,
        **values,
    )  # fmt: skip
