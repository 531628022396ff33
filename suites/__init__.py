"""The suites: one TOML card, one small module and prompts each.

``bench.core.registry`` finds them by entry point; here are only the names that people type.
"""

from __future__ import annotations

import inspect

from bench.core import registry
from suites._card import EDITIONS, has_edition, names, own_spelling
from suites._questions import FORMAT as QUESTION_FORMAT
from suites._questions import with_questions
from suites._text import Leak, leaks, normalised, refuse_leaks

__all__ = ["QUESTION_FORMAT", "Leak", "edition_of", "leaks", "normalised", "refuse_leaks", "resolve", "with_questions"]


def resolve(name: str) -> tuple[str, str]:
    """(suite, variant) that a name means: ``coco`` · ``coco.val2017`` · ``coco-val2017`` · ``coco/val2017``.

    A name that belongs to no suite comes back unchanged: the registry says what is close to it.

    Raises:
        UserError: the suite exists and the variant does not.

    >>> resolve("hpsv2-400")
    ('hpsv2', 'first100')
    >>> resolve("parti-people")
    ('parti', 'People')
    """
    known = set(registry.entries("suites")) | set(names())
    if name in known:
        return name, ""
    for suite in sorted(known, key=len, reverse=True):
        if name.startswith((f"{suite}.", f"{suite}-", f"{suite}/")):
            variant = name[len(suite) + 1 :]
            # a third party's variants are its own business
            return suite, own_spelling(suite, "full", variant) if suite in names() else variant
    return name, ""


def edition_of(suite: str, variant: str, edition: str | None) -> str:
    """The edition that is meant: the one that was named, else the only one that has such prompts, else ``sample``.

    Variants, and suites without prompts of ours, are published lists: whoever names one means the full edition.
    """
    if edition is not None:
        return edition
    if suite in names():
        return "full" if variant or not has_edition(suite, EDITIONS[0]) else "sample"
    if suite in registry.entries("suites"):
        # a suite without a card says by its own default which edition it has
        parameter = inspect.signature(registry.load("suites", suite)).parameters.get("edition")
        if parameter is not None and parameter.default in EDITIONS:
            return str(parameter.default)
    return "sample"
