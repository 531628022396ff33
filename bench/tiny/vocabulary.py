"""The words of the tiny world: all that captions, questions and answers are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.tiny.language import (
    LIGHT_WORDS,
    NUMBERS,
    PAIR,
    PATTERNS,
    PLACE_WORDS,
    PLURAL,
    RELATED,
    SINGLE,
    SIZE_WORDS,
    STYLE_WORDS,
    TEXTURE_WORDS,
)
from bench.tiny.questions import ANSWERS, ASK, ASK_COUNT, ASK_EXISTS, ASK_RELATED, ASK_SETTING, ASK_WHERE

_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks of a text, as the tokenizer splits it."""
    return _WORD.findall(text.lower())


def vocabulary() -> tuple[str, ...]:
    """Every word and mark of captions, questions and answers, in a fixed order; anything else is an unknown word."""
    tables: list[Sequence[str]] = [
        NUMBERS, tuple(PLURAL.values()), ("a", "an", "object", "objects", "the", "stand"), tuple(".,?-!':"),
        SINGLE, PAIR, PATTERNS, ANSWERS, (ASK_EXISTS, ASK_COUNT, ASK_RELATED, ASK_WHERE),
    ]  # fmt: skip
    for table in (SIZE_WORDS, TEXTURE_WORDS, PLACE_WORDS, LIGHT_WORDS, STYLE_WORDS, RELATED, ASK, ASK_SETTING):
        tables.extend(table.values())
    found: set[str] = set()
    for rows in tables:
        for row in rows:
            found.update(words(re.sub(r"\{\w+\}", " ", row)))
    return tuple(sorted(found))
