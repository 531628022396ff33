"""A suite's TOML card: editions, variants, published files; and which names mean which variant."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown_name
from suites._files import Published

HERE = Path(__file__).parent

EDITIONS = ("sample", "full")


@functools.cache
def card(name: str) -> Mapping[str, Any]:
    """``suites/<name>.toml``, parsed."""
    return tomllib.loads((HERE / f"{name}.toml").read_text("utf-8"))


def names() -> list[str]:
    """The built-in suites: every TOML that has a module of the same name."""
    return sorted(path.stem for path in HERE.glob("*.toml") if path.with_suffix(".py").exists())


def files(name: str) -> dict[str, Published]:
    """The published files of a suite by their key in the card."""
    return {key: published(entry) for key, entry in card(name).get("files", {}).items()}


def published(entry: Mapping[str, Any]) -> Published:
    """A ``[files.*]`` table as a `Published`."""
    spots = tuple((int(i), str(column), str(text)) for i, column, text in entry.get("spots", ()))
    return Published(**{**entry, "columns": tuple(entry.get("columns", ())), "spots": spots})


def settings(name: str, edition: str, variant: str) -> tuple[str, Mapping[str, Any]]:
    """(the variant's own spelling, the edition's table with the variant's over it).

    Raises:
        UserError: unknown edition or variant.
    """
    if edition not in EDITIONS:
        raise unknown_name("edition", edition, EDITIONS, f"bench show suite {name}")
    table = card(name)[edition]
    variant = own_spelling(name, edition, variant)
    return variant, {**table, **table.get("variants", {}).get(variant, {})}


def variants(name: str, edition: str = "full") -> list[str]:
    """The named variants of a suite, without the default."""
    return list(card(name)[edition].get("variants", {}))


def own_spelling(name: str, edition: str, variant: str) -> str:
    """The variant that a name or alias means, in any case; "" for the default."""
    known = _spellings(name, edition)
    if variant.lower() in known:
        return known[variant.lower()]
    if edition == "sample" and variant.lower() in _spellings(name, "full"):
        raise UserError(
            f"the variant {variant!r} of {name} is a list of published prompts: the sample edition does not have it",
            valid="--edition full",
            hint=f"--suite {name}.{variant} --edition full --data DIR",
        )
    if variant in EDITIONS:
        raise UserError(f"{variant!r} is an edition, not a variant", hint=f"--suite {name} --edition {variant}")
    raise unknown_name(f"{edition} variant of {name}", variant, {*variants(name, edition)}, f"bench show suite {name}")


def _spellings(name: str, edition: str) -> dict[str, str]:
    """Every accepted spelling, lower case, to the variant."""
    table = card(name)[edition]
    found = {alias.lower(): "" for alias in ("", *table.get("aliases", ()))}
    for variant, entry in table.get("variants", {}).items():
        found.update({alias.lower(): variant for alias in (variant, *entry.get("aliases", ()))})
    return found
