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

SEED = "@"
"""Between the name of a variant that is drawn and the seed of the draw: ``split80-20@0``."""


@functools.cache
def card(name: str) -> Mapping[str, Any]:
    """``suites/<name>.toml``, parsed."""
    return tomllib.loads((HERE / f"{name}.toml").read_text("utf-8"))


def names(edition: str = "full") -> list[str]:
    """The built-in suites with that edition: every TOML that has a module of the same name."""
    found = sorted(path.stem for path in HERE.glob("*.toml") if path.with_suffix(".py").exists())
    return [name for name in found if edition in card(name)]


def has_edition(name: str, edition: str) -> bool:
    return edition in card(name)


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
        UserError: unknown edition or variant, or an edition that the suite does not have.
    """
    if edition not in EDITIONS:
        raise unknown_name("edition", edition, EDITIONS, f"bench show suite {name}")
    if edition not in card(name):
        dotted = f".{variant}" if variant else ""
        raise UserError(
            f"{name} has no {edition} edition: its prompts are published ones, none were written for the tiny world",
            valid="--edition full; suites with a sample edition: " + ", ".join(names("sample")),
            hint=f"--suite {name}{dotted} --edition full --data DIR",
        )
    variant = own_spelling(name, edition, variant)
    rule, _, seed = variant.partition(SEED)
    table = {**card(name)[edition], **card(name)[edition].get("variants", {}).get(rule, {})}
    return variant, {**table, "seed": int(seed)} if seed else table


def variants(name: str, edition: str = "full") -> list[str]:
    """The named variants of a suite, without the default; those that are drawn stand with seed 0."""
    found = card(name).get(edition, {}).get("variants", {})
    return [f"{variant}{SEED}0" if "split" in table else variant for variant, table in found.items()]


def own_spelling(name: str, edition: str, variant: str) -> str:
    """The variant that a name or alias means, in any case; "" for the default."""
    rule, _, seed = variant.lower().partition(SEED)
    known = _spellings(name, edition)
    if rule in known:
        return _drawn(name, edition, known[rule], seed, sign=SEED in variant)
    if edition == "sample" and rule in _spellings(name, "full"):
        raise UserError(
            f"the variant {variant!r} of {name} is a list of published prompts: the sample edition does not have it",
            valid="--edition full",
            hint=f"--suite {name}.{variant} --edition full --data DIR",
        )
    if variant in EDITIONS:
        raise UserError(f"{variant!r} is an edition, not a variant", hint=f"--suite {name} --edition {variant}")
    raise unknown_name(f"{edition} variant of {name}", variant, {*variants(name, edition)}, f"bench show suite {name}")


def _drawn(name: str, edition: str, variant: str, seed: str, *, sign: bool) -> str:
    """The variant with the seed of its draw, 0 where none is given."""
    if "split" in card(name)[edition].get("variants", {}).get(variant, {}):
        if sign and not seed.isdecimal():
            raise UserError(f"{seed!r} is no seed for {name}.{variant}", valid="a whole number from 0",
                            hint=f"--suite {name}.{variant}{SEED}0")  # fmt: skip
        return f"{variant}{SEED}{int(seed or 0)}"
    if sign:
        raise UserError(f"{name}.{variant or 'default'} is not drawn, so it takes no seed", hint=f"--suite {name}")
    return variant


def _spellings(name: str, edition: str) -> dict[str, str]:
    """Every accepted spelling, lower case, to the variant."""
    table = card(name).get(edition, {})
    found = {alias.lower(): "" for alias in ("", *table.get("aliases", ()))}
    for variant, entry in table.get("variants", {}).items():
        found.update({alias.lower(): variant for alias in (variant, *entry.get("aliases", ()))})
    return found
