"""What tuners say of themselves, for the site's method pages: ``leaderboard`` itself loads no tuner."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.errors import UserError
from bench.core.identity import digest
from bench.store import atomic

_FILE = "methods.json"


def describe(names: Collection[str], cache: Path) -> dict[str, dict[str, Any]]:
    """The page of ``bench show tuner`` for every one of ``names`` that is installed, as plain data.

    Loading a tuner takes seconds (it imports torch), so what it said is kept under the digest of its sources: a site of
    known tuners is built without.

    Returns:
        By name; ``{"error": why}`` for one that is installed and does not load. Others are left out.
    """
    path = cache / _FILE
    before = _kept(path)
    entries = registry.entries("tuners")
    keys = {name: _key(entries[name]) for name in sorted(names) if name in entries}
    unknown = [name for name, key in keys.items() if before.get(name, {}).get("key") != key]
    asked = _asked_elsewhere(unknown) if unknown and "torch" not in sys.modules else _ask(unknown)
    kept: dict[str, dict[str, Any]] = {
        name: {"key": key, "facts": asked[name]} if name in asked else before[name] for name, key in keys.items()
    }
    if kept != before:
        atomic.write_json(path, kept)
    return {name: found["facts"] for name, found in kept.items()}


def _key(entry: registry.Entry) -> str:
    page = Path(__file__).with_name("_tuner_page.py")
    return digest([entry.target, entry.source_digest, page.read_text("utf-8")], 24)


def _asked_elsewhere(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``_ask`` in a process of its own: a tuner imports torch, whose memory stays as long as its process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:
        return beside.submit(_ask, names).result()


def _ask(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    if not names:
        return {}
    from bench.cli import _tuner_page
    from bench.engine.choosing import choose_tuner

    found: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            found[name] = _tuner_page.facts(choose_tuner(name))
        except UserError as err:
            found[name] = {"error": err.problem}
    return found


def _kept(path: Path) -> dict[str, dict[str, Any]]:
    """What an earlier build learnt; nothing where that is damaged, which costs loading the tuners."""
    try:
        found = atomic.read_json(path)
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(v, dict) for v in found.values()) else {}
