"""What every page needs: the templates, and figures ready to print."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from leaderboard.table import Board

ROLE_WORDS = {"held-out": "held-out", "related": "related", "trained-on": "trained on"}
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


def _compiled() -> FileSystemBytecodeCache | None:
    """Compiled templates beside the templates, as Python keeps its own: else every process of a build spends a second
    on them. Never among the runs, whose folders come from others: what is compiled runs."""
    folder = Path(__file__).parent / "templates" / "__pycache__"
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return None
    return FileSystemBytecodeCache(str(folder), "%s.jinjac") if os.access(folder, os.W_OK) else None


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("leaderboard"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False, bytecode_cache=_compiled(),
    )  # fmt: skip
    environment.globals.update(sample_banner=SAMPLE_BANNER, drawn=_chart)
    return environment


def _chart(c: Mapping[str, Any]) -> Markup:
    """The figure of one chart; a run's page has a dozen, and as a macro each took as long as drawing it."""
    role = f' <span class="role role-{c["role"]}">{ROLE_WORDS[c["role"]]}</span>' if c["role"] else ""
    note = f' <span class="muted">{escape(c["note"])}</span>' if c["note"] else ""
    return Markup(f'<figure class="chart">\n<figcaption>{escape(c["title"])}{role}{note}</figcaption>\n'
                  f'<div role="img" aria-label="{escape(c["alt"])}">{c["svg"]}</div>\n</figure>\n')  # fmt: skip


def render(template: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: Any) -> str:
    """A page with the site's style and script and its own ones (names under ``assets/``).

    Only these very scripts may run, and on pages with charts the site's own library that they ask for; nothing else may
    be fetched: text that slipped through escaping stays text.
    """
    return _environment().get_template(template).render(
        page_styles=[Markup(_asset(name)) for name in ("site.css", *styles)],
        page_scripts=[_script(name) for name in ("site.js", *scripts)], charts_drawn="charts.js" in scripts,
        **values,
    )  # fmt: skip
