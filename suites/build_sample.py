"""Writes the prompts of the sample editions: ``python -m suites.build_sample`` (same bytes every time, numpy only).

Each suite gets evaluation prompts, training prompts and TIFA questions in its own form, said in the grammar of the tiny
world. Evaluation prompts name combinations of things that `bench.tiny.world.held_out` keeps away from all training of
the tiny models, training prompts never do. Evaluation rows also keep the ``facts`` that the prompt states
(`bench.tiny.language.facts_from_json`), so that its scenes can be drawn and its questions checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.identity import canonical_json
from bench.core.seeds import derive_seed
from bench.tiny.language import Caption, Facts, Thing, caption_of, describe
from bench.tiny.questions import Question, questions
from bench.tiny.world import BACKGROUNDS, COLOURS, LIGHTS, RELATIONS, SHAPES, SIZES, STYLES, TEXTURES, sample_split
from suites._card import HERE
from suites._text import normalised
from suites.cc500 import pair_up

N_QUESTIONS = 8
"""At most so many questions a prompt; TIFA v1.0 asks about six."""

N_TRAIN_PER_EVAL = 4
"""Training prompts for each evaluation prompt."""

CLUMSY = re.compile(
    r"there is (two|three|four)|(of|with) (there is|one can see|a picture|an image|(on|in|against) |indoors)"
)
"""Wordings of `describe` that are right for training and unpleasant to read as a prompt."""

Rng = np.random.Generator
Make = Callable[[Rng], Caption]
Line = tuple[str, Caption, dict[str, str]]
"""(id, caption, tags)"""


# --------------------------------------------------------------------------------------------------- parts of a caption


def _pick(options: Sequence[str], rng: Rng) -> str:
    return options[int(rng.integers(len(options)))]


def _things(rng: Rng, n: int, *stated: str) -> list[Thing]:
    """``n`` things of different shapes and colours; ``stated`` adds size and texture."""
    shapes, colours = rng.permutation(len(SHAPES))[:n], rng.permutation(len(COLOURS))[:n]
    return [
        Thing(
            SHAPES[int(s)],
            COLOURS[int(c)],
            _pick(SIZES, rng) if "size" in stated else None,
            # nobody says that a thing is plain
            _pick(TEXTURES[1:], rng) if "texture" in stated else None,
        )
        for s, c in zip(shapes, colours, strict=True)
    ]


def _counted(rng: Rng) -> Thing:
    return replace(_things(rng, 1)[0], count=int(rng.integers(2, 5)))


def _settings(rng: Rng, *names: str) -> dict[str, Any]:
    """Random values for those of background, light, style and relation that are named."""
    valid = {"background": BACKGROUNDS, "light": LIGHTS, "style": STYLES, "relation": RELATIONS}
    return {name: _pick(valid[name], rng) for name in names}


# ---------------------------------------------------------------------------------------------------- forms of a suite


def _scene(rng: Rng, held: bool) -> Caption:
    return describe(sample_split(rng, held=held), rng)


def _in_style(rng: Rng, held: bool, style: str) -> Caption:
    facts = _scene(rng, held).facts
    return caption_of(*facts.things, relation=facts.relation, background=facts.background, light=facts.light,
                      style=style, rng=rng)  # fmt: skip


def _placed(rng: Rng, make: Callable[[Rng, dict[str, Any]], Caption], places: Sequence[str]) -> Caption:
    return make(rng, {"background": _pick(places, rng)} if places else {})


def _drawn(rng: Rng, styles: Sequence[str]) -> Caption:
    return caption_of(*_things(rng, int(rng.integers(1, 3))), style=_pick(styles, rng), rng=rng)


def _colors(rng: Rng) -> Caption:
    return caption_of(*_things(rng, int(rng.integers(1, 3))))


VILG300: Mapping[tuple[str, str], Make] = {
    ("DrawBench", "Colors"): _colors,
    ("DrawBench", "Counting"): lambda rng: caption_of(_counted(rng)),
    ("DrawBench", "Positional"): lambda rng: caption_of(*_things(rng, 2), **_settings(rng, "relation")),
    ("DrawBench", "Descriptions"): lambda rng: caption_of(
        *_things(rng, 2, "size"), **_settings(rng, "relation", "background", "light", "style"), rng=rng),
    ("ERNIE-VILG", "One object with attributes"): lambda rng: caption_of(*_things(rng, 1, "size", "texture"), rng=rng),
    ("ERNIE-VILG", "Several objects with attributes and relations"): lambda rng: caption_of(
        *_things(rng, 2, "size", "texture"), **_settings(rng, "relation"), rng=rng),
    ("ERNIE-VILG", "Geography"): lambda rng: caption_of(*_things(rng, 1), **_settings(rng, "background"), rng=rng),
    ("ERNIE-VILG", "Styles"): lambda rng: caption_of(
        *_things(rng, int(rng.integers(1, 3))), **_settings(rng, "style"), rng=rng),
    ("ERNIE-VILG", "Times and scenes"): lambda rng: caption_of(
        *_things(rng, int(rng.integers(1, 3))), **_settings(rng, "background", "light"), rng=rng),
}  # fmt: skip
"""(source, category) to what the tiny world can say of it; seven of the sixteen categories have no counterpart."""

CHALLENGES: Mapping[str, Callable[[Rng, dict[str, Any]], Caption]] = {
    "Basic": lambda rng, place: caption_of(*_things(rng, 1), **place),
    "Simple Detail": lambda rng, place: caption_of(*_things(rng, 1, "size", "texture"), **place, rng=rng),
    "Fine-grained Detail": lambda rng, place: caption_of(*_things(rng, 2, "size", "texture"), **place, rng=rng),
    "Quantity": lambda rng, place: caption_of(_counted(rng), **place, rng=rng),
    "Properties & Positioning": lambda rng, place: caption_of(
        *_things(rng, 2), **place, **_settings(rng, "relation"), rng=rng),
    "Complex": lambda rng, place: caption_of(
        *_things(rng, 2, "size"), **place, **_settings(rng, "relation", "light"), rng=rng),
}  # fmt: skip
"""PartiPrompts' challenges that do not depend on style."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "Abstract": (),
    "Outdoor Scenes": ("grass", "sand", "sky", "street"),
    "Indoor Scenes": ("room",),
}
"""PartiPrompts' categories as backgrounds."""

DRAWN: Mapping[str, tuple[str, ...]] = {"Arts": ("painting",), "Illustrations": ("anime", "concept-art")}
"""PartiPrompts' categories as styles."""


# --------------------------------------------------------------------------------------------------------------- suites


class _Drawer:
    """Draws captions from one half of the world and never the same text twice."""

    def __init__(self, suite: str, *, held: bool) -> None:
        self.held = held
        self.rng = np.random.default_rng(
            derive_seed(0, "sample-prompts", suite=suite, half="eval" if held else "train")
        )
        self.seen: set[str] = set()

    def fresh(self, caption: Caption) -> bool:
        """Whether the caption belongs to this half, reads well and is new; it counts as seen afterwards."""
        text = normalised(caption.text)
        if caption.facts.held_out() != self.held or text in self.seen or CLUMSY.search(text):
            return False
        self.seen.add(text)
        return True

    def draw(self, n: int, make: Make) -> list[Caption]:
        found: list[Caption] = []
        while len(found) < n:
            caption = make(self.rng)
            if self.fresh(caption):
                found.append(caption)
        return found


def _numbered(lines: Iterable[tuple[Caption, dict[str, str]]], prefix: str) -> list[Line]:
    return [(f"{prefix}{i:05d}", caption, tags) for i, (caption, tags) in enumerate(lines)]


def _coco(drawer: _Drawer, factor: int) -> list[Line]:
    return _numbered(((c, {}) for c in drawer.draw(64 * factor, partial(_scene, held=drawer.held))), "")


def _vilg300(drawer: _Drawer, factor: int) -> list[Line]:
    return _numbered(
        ((caption, {"category": category, "source": source})
         for (source, category), make in VILG300.items() for caption in drawer.draw(8 * factor, make)), "")  # fmt: skip


def _parti(drawer: _Drawer, factor: int) -> list[Line]:
    lines: list[tuple[Caption, dict[str, str]]] = []
    for (challenge, make), (category, places) in product(CHALLENGES.items(), PLACES.items()):
        captions = drawer.draw(4 * factor, partial(_placed, make=make, places=places))
        lines += [(caption, {"category": category, "challenge": challenge}) for caption in captions]
    for category, styles in DRAWN.items():
        captions = drawer.draw(4 * factor, partial(_drawn, styles=styles))
        lines += [(caption, {"category": category, "challenge": "Style & Format"}) for caption in captions]
    return _numbered(lines, "")


def _hpsv2(drawer: _Drawer, factor: int) -> list[Line]:
    names = {"anime": "anime", "concept-art": "concept-art", "painting": "paintings", "photo": "photo"}
    lines: list[Line] = []
    for style, name in names.items():
        captions = drawer.draw(16 * factor, partial(_in_style, held=drawer.held, style=style))
        lines += _numbered(((caption, {"style": name}) for caption in captions), f"{name}-")
    return lines


def _cc500(drawer: _Drawer, factor: int) -> list[Line]:
    """Partners first, as far as both are in this half; the others have their partner in the other one."""
    combinations = _swaps(drawer, (None,))
    captions = [c for pair in combinations for c in pair if drawer.fresh(c)][: 64 * factor]
    captions += drawer.draw(64 * factor - len(captions), lambda rng: caption_of(*_things(rng, 2)))
    pairs = pair_up([caption.text for caption in captions])
    return _numbered(
        ((caption, {"pair": f"{pair:04d}", "member": member})
         for caption, (pair, member) in zip(captions, pairs, strict=True)), "")  # fmt: skip


def _abc6k(drawer: _Drawer, factor: int) -> list[Line]:
    """Pairs that differ in nothing but two exchanged colours, both members in this half of the world."""
    combinations = _swaps(drawer, (None, 2))
    lines: list[tuple[Caption, dict[str, str]]] = []
    k = 0
    while len(lines) < 64 * factor:
        first, second = combinations[k % len(combinations)]
        k += 1
        names = ["background", "light", *(["relation"] if first.facts.things[0].count is None else [])]
        stated = _settings(drawer.rng, *(name for name in names if drawer.rng.random() < 0.6))
        pair = [caption_of(*caption.facts.things, **stated) for caption in (first, second)]
        if not all(drawer.fresh(caption) for caption in pair):
            continue
        for member, caption in zip(("original", "exchanged"), pair, strict=True):
            lines.append((caption, {"pair": f"{len(lines) // 2:04d}", "member": member, "null_pair": "no"}))
    return _numbered(lines, "")


def _swaps(drawer: _Drawer, counts: Sequence[int | None]) -> list[tuple[Caption, Caption]]:
    """All pairs that exchange two colours and stay in this half, shuffled; ``counts`` are those of the first thing."""
    found: list[tuple[Caption, Caption]] = []
    for count, (s1, s2), (c1, c2) in product(counts, product(SHAPES, SHAPES), product(COLOURS, COLOURS)):
        # c1 < c2 takes each pair once; two single things also come in one order of shapes only
        if s1 == s2 or c1 >= c2 or (count is None and s1 > s2):
            continue
        pair = [caption_of(Thing(s1, a, count=count), Thing(s2, b)) for a, b in ((c1, c2), (c2, c1))]
        if all(caption.facts.held_out() == drawer.held for caption in pair):
            found.append((pair[0], pair[1]))
    return [found[int(i)] for i in drawer.rng.permutation(len(found))]


SUITES: Mapping[str, Callable[[_Drawer, int], list[Line]]] = {
    "abc6k": _abc6k, "cc500": _cc500, "coco": _coco, "hpsv2": _hpsv2, "parti": _parti, "vilg300": _vilg300,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- files


def few_questions(facts: Facts) -> list[Question]:
    """Up to `N_QUESTIONS` questions, every kind once before any kind twice, choices before yes and no."""
    by_kind: dict[str, list[Question]] = {}
    for question in sorted(questions(facts), key=lambda q: len(q.choices) == 2):
        by_kind.setdefault(question.kind, []).append(question)
    rounds = zip_longest(*by_kind.values())
    return [question for asked in rounds for question in asked if question is not None][:N_QUESTIONS]


def build() -> dict[str, str]:
    """File name to content, for all suites."""
    files: dict[str, str] = {}
    for name, lines_of in SUITES.items():
        lines = lines_of(_Drawer(name, held=True), 1)
        train = lines_of(_Drawer(name, held=False), N_TRAIN_PER_EVAL)
        files[f"{name}.jsonl"] = _jsonl(
            {"id": i, "text": caption.text, "tags": tags, "facts": caption.facts.to_json()}
            for i, caption, tags in lines
        )
        files[f"{name}.train.jsonl"] = _jsonl(
            {"id": f"train-{i}", "text": caption.text, "tags": tags} for i, caption, tags in train
        )
        files[f"{name}.questions.jsonl"] = _jsonl(
            {"prompt_id": i, **question.to_json()}
            for i, caption, _ in lines
            for question in few_questions(caption.facts)
        )
    return files


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(canonical_json(row) + "\n" for row in rows)


def main(folder: Path = HERE / "sample") -> None:
    """Writes all files into ``folder``."""
    folder.mkdir(exist_ok=True)
    for name, text in build().items():
        (folder / name).write_text(text, "utf-8", newline="\n")


if __name__ == "__main__":
    main()
