"""Vega, Vega-Lite and Vega-Embed, once a site: the bundle that the installed converter carries, in ``assets/vega.js``.

Only pages with charts ask for it, and only when one comes into view. Links to the network that are written in it (the
editor's, a schema's, an issue's) are cut out; what is left are the names of SVG's namespaces, which nobody fetches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, partial
from importlib import metadata
from pathlib import Path

from bench.core.identity import digest
from bench.store import atomic
from leaderboard.page import Made, Page, Site

PATH = "assets/vega.js"
VEGA_LITE = "6.4"
"""Fixed, so that an update of the converter does not redraw every chart."""
NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink", "http://www.w3.org/2000/xmlns/")
_ADDRESS = re.compile(r"https?://[^\s\"'`)]*")
_RULES = 1
"""Raised when what is done to the bundle changes."""


def pages(site: Site) -> Iterator[Page]:
    if site.runs:
        yield Page(PATH, _inputs(), partial(_asset, kept_at(site.cache)), here=True)


def kept_at(folder: Path) -> Path:
    """Where the bundle is kept from one build to the next."""
    return folder / f"vega-{_inputs()}.js"


def keep(path: Path) -> None:
    """Writes the bundle to ``path``. The converter runs an engine of its own for it, whose memory goes with the process
    alone: where memory is short, call this in another one."""
    atomic.write_text(path, _bundle())


def _inputs() -> str:
    return digest([_RULES, VEGA_LITE, metadata.version("vl-convert-python")], 24)


def _asset(kept: Path) -> Made:
    try:
        return kept.read_text("utf-8"), {}
    except OSError:
        return _bundle(), {}


@cache
def _bundle() -> str:
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    text = _ADDRESS.sub(lambda found: found[0] if found[0] in NAMESPACES else "", text)
    # In a function of its own, as its short names would else be the pages' too.
    return f"(() => {{\n{text}\n}})();\n"
