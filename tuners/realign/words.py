"""Rules on words: the judge and the local captioner that need no language model, and reading the prompt for them.

A noun phrase is what stands between a boundary (the start, punctuation, a preposition, a verb) and a noun: "a small red
circle". Each phrase speaks for as many tags as it has objects to name: one, or any number where it is a plural.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.tiny.world import SHAPES

CERTAIN, POSSIBLE, UNLIKELY = 2.0, 0.5, 0.0
"""Eq. 6."""

_WORD = re.compile(r"[A-Za-z0-9'-]+|[^\sA-Za-z0-9'-]")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DETERMINERS = _set(
    "a an the one two three four five six seven eight nine ten some several many his her its their this that these"
)
_BOUNDARIES = _set(
    "and or with without of in on at by to from near next beside behind under below above over beneath between around "
    "into onto against inside outside through across left right top is are stands stand sits sit has have holding "
    "wearing there can see placed"
)
_LONGEST = 6


@dataclass(frozen=True)
class Phrase:
    """A noun phrase of a prompt."""

    text: str
    """As it stands in the prompt."""
    words: tuple[str, ...]
    """In lower case, without the determiner."""
    plural: bool


def phrases(prompt: str, noun: str) -> list[Phrase]:
    """The phrases of ``prompt`` whose last word is ``noun``, singular or plural, in order.

    >>> [p.text for p in phrases("a red circle and two blue circles on a street", "circle")]
    ['a red circle', 'two blue circles']
    """
    found = []
    marks = list(_WORD.finditer(prompt))
    words = [m[0].lower() for m in marks]
    for end, word in enumerate(words):
        if word != noun and singular(word) != noun:
            continue
        start = end
        while start > 0 and end - start < _LONGEST and words[start - 1][0].isalnum():
            before = words[start - 1]
            if before in _BOUNDARIES or (start < end and words[start] in _DETERMINERS):
                break
            start -= 1
        bare = tuple(w for w in words[start:end] if w not in _DETERMINERS)
        found.append(Phrase(prompt[marks[start].start() : marks[end].end()], (*bare, noun), word != noun))
    return found


def singular(word: str) -> str:
    """The singular of a regular English plural.

    >>> [singular(w) for w in ("circles", "crosses", "cherries", "glass")]
    ['circle', 'cross', 'cherry', 'glass']
    """
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def match(prompt: str, tags: Sequence[str]) -> list[Phrase | None]:
    """The phrase of the prompt that speaks of each tag, whose last word is its noun: "red circle", or "circle".

    Of several phrases with the noun, the one that shares most words. A phrase in the singular speaks of one tag.
    """
    nouns = [tag.lower().split()[-1] for tag in tags]
    pairs = [
        (len(set(tag.lower().split()) & set(phrase.words)), -t, -p, phrase)
        for t, tag in enumerate(tags)
        for p, phrase in enumerate(phrases(prompt, nouns[t]))
    ]
    chosen: list[Phrase | None] = [None] * len(tags)
    taken: set[tuple[str, int]] = set()
    for _, t, p, phrase in sorted(pairs, key=lambda pair: pair[:3], reverse=True):
        if chosen[-t] is None and (phrase.plural or (nouns[-t], p) not in taken):
            chosen[-t] = phrase
            taken.add((nouns[-t], p))
    return chosen


class Rules:
    """Judge and local captioner: a tag whose noun the prompt has is certain and is captioned in the prompt's words; any
    other is possible and is captioned as the tagger calls it."""

    def scores(self, prompt: str, tags: Sequence[str]) -> list[float]:
        """s_i of each tag."""
        return [POSSIBLE if phrase is None else CERTAIN for phrase in match(prompt, tags)]

    def captions(self, prompt: str, tags: Sequence[str]) -> list[str]:
        """l_i of each tag."""
        return [
            phrase.text if phrase else f"{'an' if tag[0].lower() in 'aeiou' else 'a'} {tag}"
            for phrase, tag in zip(match(prompt, tags), tags, strict=True)
        ]


class ClosedWorld(Rules):
    """The rules on words, and a contradiction where it is exact: a caption of the tiny world names every object, so
    what no phrase speaks of is unlikely, unless a phrase leaves its shape open ("a red object")."""

    def scores(self, prompt: str, tags: Sequence[str]) -> list[float]:
        scores = super().scores(prompt, tags)
        nouns = {singular(word.lower()) for word in _WORD.findall(prompt)} & {*SHAPES, "object"}
        if not nouns or "object" in nouns:
            return scores
        return [UNLIKELY if phrase is None else s for phrase, s in zip(match(prompt, tags), scores, strict=True)]
