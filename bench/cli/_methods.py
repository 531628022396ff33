"""What tuners say of themselves, for the site's method pages: ``leaderboard`` itself loads no tuner."""

from __future__ import annotations

from collections.abc import Collection
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
    kept = {name: _one(entries[name], before.get(name)) for name in sorted(names) if name in entries}
    if kept != before:
        atomic.write_json(path, kept)
    return {name: found["facts"] for name, found in kept.items()}


def _one(entry: registry.Entry, before: dict[str, Any] | None) -> dict[str, Any]:
    from bench.cli import _tuner_page

    key = digest([entry.target, entry.source_digest, Path(_tuner_page.__file__).read_text("utf-8")], 24)
    if before is not None and before.get("key") == key:
        return before
    try:
        from bench.engine.plan import choose_tuner

        facts: dict[str, Any] = _tuner_page.facts(choose_tuner(entry.name))
    except UserError as err:
        facts = {"error": err.problem}
    return {"key": key, "facts": facts}


def _kept(path: Path) -> dict[str, dict[str, Any]]:
    """What an earlier build learnt; nothing where that is damaged, which costs loading the tuners."""
    try:
        found = atomic.read_json(path)
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(v, dict) for v in found.values()) else {}
