"""What can be asked about a scene: TIFA questions out of a caption's facts, and exact answers out of a scene.

facts -> questions -> Question        question, scene -> answer, equal to Question.answer on every scene of the facts
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from bench.tiny.language import (
    ATTRIBUTES,
    NUMBERS,
    PLURAL,
    SETTINGS,
    Facts,
    Thing,
    article,
    could,
)
from bench.tiny.world import (
    BACKGROUNDS,
    COLOURS,
    LIGHTS,
    MAX_OBJECTS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Obj,
    Scene,
    relation,
)

QUESTION_KINDS = (
    "object", "shape", "color", "attribute", "material", "counting", "spatial", "location", "time", "style",
)  # fmt: skip
"""TIFA's element types as far as they occur here; attribute is size, material is texture, location is background."""
_KIND_OF = {"shape": "shape", "colour": "color", "size": "attribute", "texture": "material"}
_SETTING_KIND = {"background": "location", "light": "time", "style": "style"}


@dataclass(frozen=True, slots=True)
class Question:
    """A TIFA question: one correct choice."""

    question: str
    choices: tuple[str, ...]
    answer: str
    kind: str
    """One of `QUESTION_KINDS`."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"question": self.question, "choices": list(self.choices), "answer": self.answer, "kind": self.kind}


YES_NO = ("yes", "no")
ASK = {
    "colour": ("what color is the {ref}?", "what color are the {refs}?"),
    "shape": ("what shape is the {ref}?", "what shape are the {refs}?"),
    "size": ("what size is the {ref}?", "what size are the {refs}?"),
    "texture": ("what texture does the {ref} have?", "what texture do the {refs} have?"),
}
ASK_EXISTS = "is there {article} {ref}?"
ASK_COUNT = "how many {refs} are there?"
ASK_RELATED = "is the {ref} {relation} the {other}?"
ASK_WHERE = "where is the {ref} relative to the {other}?"
ASK_SETTING = {
    "background": ("what is the background?", "is the background {value}?"),
    "light": ("is it day or night?", "is it {value}?"),
    "style": ("what style is the picture?", "is the picture in {value} style?"),
}


def questions(facts: Facts) -> list[Question]:
    """All questions that a caption answers, in a fixed order: yes/no in both polarities and multiple choice.

    Every answer holds on every scene of `complete(facts, ...)`; a question the facts leave open is not asked.
    """
    asked: dict[str, Question] = {}
    for found in (*_about_things(facts), *_about_relation(facts), *_about_settings(facts)):
        asked.setdefault(found.question, found)
    return list(asked.values())


def _about_things(facts: Facts) -> list[Question]:
    out: list[Question] = []
    for index, thing in enumerate(facts.things):
        own = replace(thing, count=None)
        out.append(_yes_no(_exists(own), True, "object"))
        for name, valid in ATTRIBUTES.items():
            foil = _foil(own, name, valid, facts)
            if foil is not None:
                out.append(_yes_no(_exists(foil), False, "object" if name == "shape" else _KIND_OF[name]))
        for name, valid in ATTRIBUTES.items():
            value = getattr(thing, name)
            ref = _unique_ref(index, facts, without=name) if value is not None else None
            if value is not None and ref is not None:
                one, many = ASK[name]
                text = one.format(ref=_ref(ref)) if thing.number == 1 else many.format(refs=_refs(ref))
                out.append(Question(text, valid, value, _KIND_OF[name]))
        shared = sum(other.shape in (None, thing.shape) for other in facts.things) > 1
        for ref in (Thing(shape=thing.shape), Thing(shape=thing.shape, colour=thing.colour))[: 1 + shared]:
            counted = _count(ref, facts) if thing.shape is not None else None
            if counted is not None:
                out.append(Question(ASK_COUNT.format(refs=_refs(ref)), NUMBERS[1:], NUMBERS[counted], "counting"))
    return out


def _about_relation(facts: Facts) -> list[Question]:
    if facts.relation is None:
        return []
    a, b = _unique_ref(0, facts), _unique_ref(1, facts)
    if a is None or b is None:
        return []
    names = {"ref": _ref(a), "other": _ref(b)}
    return [
        _yes_no(ASK_RELATED.format(**names, relation=facts.relation), True, "spatial"),
        _yes_no(ASK_RELATED.format(**names, relation=OPPOSITE[facts.relation]), False, "spatial"),
        Question(ASK_WHERE.format(**names), RELATIONS, facts.relation, "spatial"),
    ]


def _about_settings(facts: Facts) -> list[Question]:
    out: list[Question] = []
    for name, valid in SETTINGS.items():
        value = getattr(facts, name)
        if value is None:
            continue
        which, whether = ASK_SETTING[name]
        kind = _SETTING_KIND[name]
        other = valid[(valid.index(value) + 1) % len(valid)]
        out.append(Question(which, valid, value, kind))
        out.append(_yes_no(whether.format(value=value), True, kind))
        out.append(_yes_no(whether.format(value=other), False, kind))
    return out


def _yes_no(text: str, truth: bool, kind: str) -> Question:
    return Question(text, YES_NO, "yes" if truth else "no", kind)


def _foil(own: Thing, name: str, valid: Sequence[str], facts: Facts) -> Thing | None:
    """The description with one attribute changed so that nothing in the picture can fit it, or None."""
    value = getattr(own, name)
    if value is None:
        return None
    start = valid.index(value)
    for step in range(1, len(valid)):
        foil = _with(own, name, valid[(start + step) % len(valid)])
        if not any(could(thing, foil) for thing in facts.things):
            return foil
    return None


def _with(thing: Thing, name: str, value: str | None) -> Thing:
    change: dict[str, Any] = {name: value}
    return replace(thing, **change)


def _must(thing: Thing, ref: Thing) -> bool:
    """Whether objects described as `thing` surely fit the description `ref`."""
    return all(getattr(ref, n) in (None, getattr(thing, n)) for n in ATTRIBUTES)


def _count(ref: Thing, facts: Facts) -> int | None:
    total = 0
    for thing in facts.things:
        if _must(thing, ref):
            total += thing.number
        elif could(thing, ref):
            return None
    return total if 1 <= total <= MAX_OBJECTS else None


def _unique_ref(index: int, facts: Facts, without: str | None = None) -> Thing | None:
    """The shortest description, not using one attribute, that can only mean `things[index]`."""
    thing = facts.things[index]
    for names in (("shape",), ("colour",), ("colour", "shape"), ("size", "shape"), ("size", "colour", "shape")):
        if without in names or any(getattr(thing, n) is None for n in names):
            continue
        ref = Thing(**{n: getattr(thing, n) for n in names})
        if not any(could(other, ref) for i, other in enumerate(facts.things) if i != index):
            return ref
    return None


def _exists(ref: Thing) -> str:
    name = _ref(ref)
    return ASK_EXISTS.format(article=article(name), ref=name)


def _ref(ref: Thing) -> str:
    words = (ref.size, ref.texture, ref.colour, ref.shape or "object")
    return " ".join(word for word in words if word)


def _refs(ref: Thing) -> str:
    words = (ref.size, ref.texture, ref.colour, PLURAL[ref.shape] if ref.shape else "objects")
    return " ".join(word for word in words if word)


# ---------------------------------------------------------------------------------------------------- exact answers


def answer(question: Question | str, scene: Scene) -> str:
    """The true answer about a scene; "none" where a question does not apply (no such object, or several that differ).

    Raises:
        ValueError: if the text is not a question of this grammar.
    """
    text = question.question if isinstance(question, Question) else question
    for pattern, handler in _handlers():
        found = pattern.fullmatch(text)
        if found is not None:
            told: str = handler(scene, **found.groupdict())
            return told
    raise ValueError(f"not a question of the tiny world: {text!r}")


def _answer_exists(scene: Scene, ref: str) -> str:
    return "yes" if _find(ref, scene) else "no"


def _answer_count(scene: Scene, ref: str) -> str:
    return NUMBERS[len(_find(ref, scene))]


def _answer_attribute(scene: Scene, name: str, ref: str) -> str:
    values = {str(getattr(item, name)) for item in _find(ref, scene)}
    return values.pop() if len(values) == 1 else "none"


def _answer_related(scene: Scene, ref: str, relation: str, other: str) -> str:
    return "yes" if relation in _standings(scene, ref, other) else "no"


def _answer_where(scene: Scene, ref: str, other: str) -> str:
    values = _standings(scene, ref, other)
    return values.pop() or "none" if len(values) == 1 else "none"


def _standings(scene: Scene, ref: str, other: str) -> set[str | None]:
    return {relation(a, b) for a in _find(ref, scene) for b in _find(other, scene) if a is not b}


def _find(ref: str, scene: Scene) -> list[Obj]:
    thing = _parse_ref(ref)
    return [item for item in scene.objects if thing.fits(item)]


@lru_cache(maxsize=4096)
def _parse_ref(text: str) -> Thing:
    singular = {plural: shape for shape, plural in PLURAL.items()}
    stated: dict[str, Any] = {}
    for raw in text.split():
        word = singular.get(raw, raw)
        if word in ("object", "objects"):
            continue
        name = next((n for n, valid in ATTRIBUTES.items() if word in valid), None)
        if name is None:
            raise ValueError(f"not a word for an object: {raw!r} in {text!r}")
        stated[name] = word
    return Thing(**stated)


@lru_cache(maxsize=1)
def _handlers() -> list[tuple[re.Pattern[str], Any]]:
    """Patterns of the question grammar and the function that answers each."""
    out: list[tuple[re.Pattern[str], Any]] = [
        (_pattern(ASK_EXISTS), _answer_exists),
        (_pattern(ASK_COUNT), _answer_count),
        (_pattern(ASK_RELATED), _answer_related),
        (_pattern(ASK_WHERE), _answer_where),
    ]
    for name, wordings in ASK.items():
        for wording in wordings:
            out.append((_pattern(wording), _bind_attribute(name)))
    for name, (which, whether) in ASK_SETTING.items():
        out.append((_pattern(which), _bind_setting(name)))
        out.append((_pattern(whether), _bind_setting(name)))
    return out


def _bind_attribute(name: str) -> Any:
    return lambda scene, ref: _answer_attribute(scene, name, ref)


def _bind_setting(name: str) -> Any:
    def handler(scene: Scene, value: str | None = None) -> str:
        truth = str(getattr(scene, name))
        return truth if value is None else ("yes" if truth == value else "no")

    return handler


def _pattern(wording: str) -> re.Pattern[str]:
    text = re.escape(wording)
    one_of = {"relation": "|".join(RELATIONS), "value": "|".join((*BACKGROUNDS, *LIGHTS, *STYLES))}
    text = text.replace(re.escape("{article}"), "an?")
    fields = {"ref": "[a-z ]+?", "refs": "[a-z ]+?", "other": "[a-z ]+?", **one_of}
    for field, inner in fields.items():
        name = "ref" if field == "refs" else field
        text = text.replace(re.escape("{" + field + "}"), f"(?P<{name}>{inner})")
    return re.compile(text)


def sample_question(scene: Scene, rng: np.random.Generator) -> Question:
    """A random question about a scene, kinds and polarities balanced; sometimes one whose answer is "none"."""
    kind = QUESTION_KINDS[int(rng.integers(len(QUESTION_KINDS)))]
    text, choices = _SAMPLERS[kind](scene, rng)
    return Question(text, choices, answer(text, scene), kind)


def _sample_object(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    thing = _some_ref(scene, rng, always="shape")
    if rng.random() < 0.5:  # change one stated attribute: usually absent then
        stated = [name for name in ATTRIBUTES if getattr(thing, name) is not None]
        name = stated[int(rng.integers(len(stated)))]
        others = [v for v in ATTRIBUTES[name] if v != getattr(thing, name)]
        thing = _with(thing, name, others[int(rng.integers(len(others)))])
    return _exists(thing), YES_NO


def _sample_attribute(name: str) -> Any:
    def sample(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
        if name in ("colour", "texture", "size") and rng.random() < 0.3:
            return _sample_object(scene, rng)
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        always = "colour" if name == "shape" else "shape"
        ref = _with(_some_ref(scene, rng, always=always, item=item), name, None)
        if rng.random() < 0.08:  # something that may not be there: the answer is "none"
            ref = _with(ref, always, ATTRIBUTES[always][int(rng.integers(len(ATTRIBUTES[always])))])
        many = sum(ref.fits(other) for other in scene.objects) > 1
        one, plural = ASK[name]
        return plural.format(refs=_refs(ref)) if many else one.format(ref=_ref(ref)), ATTRIBUTES[name]

    return sample


def _sample_count(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    ref = _some_ref(scene, rng, always="shape", extra=0.4)
    if rng.random() < 0.2:
        ref = Thing()
    if rng.random() < 0.1:
        ref = replace(ref, shape=SHAPES[int(rng.integers(len(SHAPES)))])
    return ASK_COUNT.format(refs=_refs(ref)), NUMBERS[1:]


def _sample_spatial(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    groups = scene.groups()
    if [len(items) for _, items in groups] != [1, 1]:
        return _sample_object(scene, rng)
    a, b = (scene.objects[int(i)] for i in rng.permutation(2))
    full = (Thing(a.shape, a.colour), Thing(b.shape, b.colour))
    if a.shape != b.shape and rng.random() < 0.5:
        full = (Thing(a.shape), Thing(b.shape))
    elif a.colour != b.colour and rng.random() < 0.3:
        full = (Thing(colour=a.colour), Thing(colour=b.colour))
    names = {"ref": _ref(full[0]), "other": _ref(full[1])}
    if rng.random() < 0.4:
        return ASK_WHERE.format(**names), RELATIONS
    truth = relation(a, b) or "above"
    stated = truth if rng.random() < 0.5 else RELATIONS[int(rng.integers(len(RELATIONS)))]
    return ASK_RELATED.format(**names, relation=stated), YES_NO


def _sample_setting(name: str) -> Any:
    def sample(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
        which, whether = ASK_SETTING[name]
        valid = SETTINGS[name]
        if rng.random() < 0.5:
            return which, valid
        truth = str(getattr(scene, name))
        value = truth if rng.random() < 0.5 else valid[int(rng.integers(len(valid)))]
        return whether.format(value=value), YES_NO

    return sample


_SAMPLERS = {
    "object": _sample_object,
    "shape": _sample_attribute("shape"),
    "color": _sample_attribute("colour"),
    "attribute": _sample_attribute("size"),
    "material": _sample_attribute("texture"),
    "counting": _sample_count,
    "spatial": _sample_spatial,
    "location": _sample_setting("background"),
    "time": _sample_setting("light"),
    "style": _sample_setting("style"),
}


def _some_ref(
    scene: Scene, rng: np.random.Generator, *, always: str, item: Obj | None = None, extra: float = 0.35
) -> Thing:
    """A description of an object of the scene by one attribute and a few more."""
    if item is None:
        item = scene.objects[int(rng.integers(len(scene.objects)))]
    chance = {"shape": 0.7, "colour": 0.6, "size": extra * 0.7, "texture": extra * 0.7}
    return Thing(**{n: getattr(item, n) for n in ATTRIBUTES if n == always or rng.random() < chance[n]})


ANSWERS = tuple(dict.fromkeys((*YES_NO, "none", *NUMBERS, *COLOURS, *SHAPES, *SIZES, *TEXTURES, *RELATIONS,
                               *BACKGROUNDS, *LIGHTS, *STYLES)))  # fmt: skip
"""Every answer that `answer` can give."""
