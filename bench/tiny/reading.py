"""Reading: a caption of the tiny world back into the facts that it states, the inverse of `language.caption_of`.

Every paraphrase of the grammar is read. What it does not explain as a whole is no caption: half of one is not taken for
all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

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
    Facts,
    Thing,
)
from bench.tiny.world import COLOURS, SHAPES


def facts_of(text: str) -> Facts | None:
    """The facts that a caption states, or None where it is no caption of the tiny world.

    Of a relation the thing named first is ``things[0]``: "a circle right of a star" and "a star left of a circle" state
    the same in two orders.

    >>> facts_of("two tiny red circles on a beach").to_json()
    {'things': [{'shape': 'circle', 'colour': 'red', 'size': 'small', 'count': 2}], 'background': 'sand'}
    >>> facts_of("a red circle and a dream") is None
    True
    """
    core = " ".join(text.lower().split())
    style, core = _strip(core, STYLE_WORDS, ("{core}",))
    light, core = _strip(core, LIGHT_WORDS, ("{core} {words}",))
    background, core = _strip(core, PLACE_WORDS, tuple(p.replace("{place}", "{words}") for p in PATTERNS))
    said = _things(core)
    if said is None:
        return None
    things, relation = said
    try:
        return Facts(things, relation, background, light, style)
    except ValueError:  # a relation of groups
        return None


def _strip(text: str, words: Mapping[str, Sequence[str]], patterns: Sequence[str]) -> tuple[str | None, str]:
    """(value, rest): the value whose words stand around the rest; the longest wording counts."""
    found: list[tuple[int, str, str]] = []
    for value, wordings in words.items():
        for wording in wordings:
            for pattern in patterns:
                whole = wording if "{core}" in wording else pattern.replace("{words}", wording)
                before, after = whole.split("{core}")
                rest = text[len(before) : len(text) - len(after)]
                if rest and text == before + rest + after:
                    found.append((len(whole), value, rest))
    return max(found)[1:] if found else (None, text)


def _things(core: str) -> tuple[tuple[Thing, ...], str | None] | None:
    for pattern, relation in _cores():
        match = pattern.fullmatch(core)
        if match:
            return tuple(_thing(match[0] if not name else match[name]) for name in _fields(match)), relation
    parts = re.split(r", | and ", core)
    if all(_phrase().fullmatch(part) for part in parts) and len(parts) > 2:
        return tuple(_thing(part) for part in parts), None
    return None


def _fields(match: re.Match[str]) -> list[str]:
    """Named things in the order in which they stand."""
    return sorted(match.groupdict(), key=match.start)


@lru_cache(maxsize=1)
def _cores() -> list[tuple[re.Pattern[str], str | None]]:
    rows: list[tuple[str, str | None]] = [*((w, None) for w in (*SINGLE, *PAIR))]
    for relation, wordings in RELATED.items():
        rows += [(wording, relation) for wording in wordings if wording.startswith("{a}")]
    return [(_with_phrases(wording), relation) for wording, relation in rows]


def _with_phrases(wording: str) -> re.Pattern[str]:
    text = re.escape(wording)
    for name in "ab":
        text = text.replace(re.escape("{" + name + "}"), f"(?P<{name}>{_phrase().pattern})")
    return re.compile(text)


@lru_cache(maxsize=1)
def _phrase() -> re.Pattern[str]:
    """A noun phrase, without named groups: it occurs twice in a pattern."""
    nouns = (*SHAPES, *PLURAL.values(), "object", "objects")
    adjectives = (_flat(SIZE_WORDS), _flat(TEXTURE_WORDS), COLOURS)
    middle = "".join(f"(?:(?:{_any(group)}) )?" for group in adjectives)
    return re.compile(f"(?:{_any(('an', 'a', *NUMBERS[1:]))}) {middle}(?:{_any(nouns)})")


def _thing(phrase: str) -> Thing:
    singular = {plural: shape for shape, plural in PLURAL.items()}
    number, *rest = phrase.split()
    stated: dict[str, Any] = {"count": NUMBERS.index(number) if number in NUMBERS else None}
    for word in rest:
        for name, words in (("size", SIZE_WORDS), ("texture", TEXTURE_WORDS)):
            stated.update((name, value) for value, known in words.items() if word in known)
        if word in COLOURS:
            stated["colour"] = word
        if singular.get(word, word) in SHAPES:
            stated["shape"] = singular.get(word, word)
    return Thing(**stated)


def _flat(words: Mapping[str, Sequence[str]]) -> list[str]:
    return [word for row in words.values() for word in row]


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))
