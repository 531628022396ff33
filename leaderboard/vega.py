"""Vega, Vega-Lite and Vega-Embed, once a site: the bundle that the installed converter carries, in ``assets/vega.js``.

Only pages with charts ask for it, and only when one comes into view. Links to the network that are written in it (the
editor's, a schema's, an issue's) are cut out; what is left are the names of SVG's namespaces, which nobody fetches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import metadata

from bench.core.identity import digest
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
        inputs = digest([_RULES, VEGA_LITE, metadata.version("vl-convert-python")], 24)
        yield Page(PATH, inputs, _bundle)


@cache
def _bundle() -> Made:
    import vl_convert  # some hundred MiB, for one page in a site

    text: str = vl_convert.javascript_bundle(vl_version=VEGA_LITE)
    text = _ADDRESS.sub(lambda found: found[0] if found[0] in NAMESPACES else "", text)
    # In a function of its own, as its short names would else be the pages' too.
    return f"(() => {{\n{text}\n}})();\n", {}
