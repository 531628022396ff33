"""The page that raters see: one file, no address in it, nothing but this very script may run."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any


def render(study: Mapping[str, Any], source: Callable[[str], str], config: Mapping[str, Any]) -> str:
    """The page of ``study.json``.

    Args:
        source: address of an image by its blinded name: a ``data:`` URL or a path beside the page.
        config: ``server``: whether votes are sent; ``rater`` and ``votes`` where the server knows them.
    """
    shown = {k: study[k] for k in ("id", "kind", "title", "instruction", "salt", "questions", "prompts", "variants")}
    shown["images"] = {name: {**facts, "src": source(name)} for name, facts in study["images"].items()}
    style, script = _asset("page.css"), _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    connect = "'self'" if config["server"] else "'none'"
    policy = (
        "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    page = _asset("page.html")
    for mark, text in (("POLICY", policy), ("STYLE", style), ("SCRIPT", script), ("STUDY", _data(shown)),
                       ("CONFIG", _data(config))):  # fmt: skip
        before, sign, after = page.partition(f"%%{mark}%%")
        assert sign, mark
        page = before + text + after
    return page


def data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _data(value: Any) -> str:
    """JSON inside a script element: a prompt is hostile input, so nothing in it may end the element."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    return (resources.files("bench.study") / "assets" / name).read_text("utf-8")
