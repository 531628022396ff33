"""What can be said and asked about a scene: captions with paraphrases, TIFA questions, and exact answers.

`Facts` is what a caption states. A caption names every object of its scene (nothing else is in the picture) but may
leave attributes, places, light and style open; so questions about things that are absent have an answer too. The loop
closes:

    facts -> caption_of -> text            facts -> complete -> a scene the caption is true of
    facts -> questions  -> Question        question, scene -> answer, equal to Question.answer on every such scene
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np

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
    Kind,
    Obj,
    Scene,
    held_out,
    place,
    relation,
    sample_kind,
    sample_scene,
    scene_held_out,
)

NUMBERS = ("zero", "one", "two", "three", "four")
QUESTION_KINDS = (
    "object", "shape", "color", "attribute", "material", "counting", "spatial", "location", "time", "style",
)  # fmt: skip
"""TIFA's element types as far as they occur here; attribute is size, material is texture, location is background."""

_ATTRIBUTES: dict[str, tuple[str, ...]] = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
_KIND_OF = {"shape": "shape", "colour": "color", "size": "attribute", "texture": "material"}
_SETTINGS: dict[str, tuple[str, ...]] = {"background": BACKGROUNDS, "light": LIGHTS, "style": STYLES}
_SETTING_KIND = {"background": "location", "light": "time", "style": "style"}


# ---------------------------------------------------------------------------------------------------- facts


@dataclass(frozen=True, slots=True)
class Thing:
    """Objects as a caption describes them; None leaves an attribute open."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None
    count: int | None = None
    """How many, exactly; None is the article, "a circle"."""

    def __post_init__(self) -> None:
        for name, valid in _ATTRIBUTES.items():
            value = getattr(self, name)
            if value is not None and value not in valid:
                raise ValueError(f"unknown {name} {value!r}; valid: {', '.join(valid)}")
        if self.count is not None and not 1 <= self.count <= MAX_OBJECTS:
            raise ValueError(f"count must be 1 to {MAX_OBJECTS}, got {self.count}")

    @property
    def number(self) -> int:
        """How many objects this describes."""
        return self.count or 1

    def fits(self, item: Obj | Kind) -> bool:
        """Whether an object has every attribute that is stated."""
        return all(getattr(self, name) in (None, getattr(item, name)) for name in _ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything one caption states."""

    things: tuple[Thing, ...]
    relation: str | None = None
    """Where `things[0]` stands as seen from `things[1]`."""
    background: str | None = None
    light: str | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        if not self.things:
            raise ValueError("a caption describes at least one thing")
        if self.relation is not None:
            if self.relation not in RELATIONS:
                raise ValueError(f"unknown relation {self.relation!r}; valid: {', '.join(RELATIONS)}")
            if [thing.number for thing in self.things] != [1, 1]:
                raise ValueError("a relation needs exactly two single things")
        for name, valid in _SETTINGS.items():
            value = getattr(self, name)
            if value is not None and value not in valid:
                raise ValueError(f"unknown {name} {value!r}; valid: {', '.join(valid)}")

    def held_out(self) -> bool:
        """Whether no model was trained on this combination of things."""
        return held_out((t.number, t.colour, t.shape) for t in self.things)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON without the open attributes; `facts_from_json` gives back equal facts."""
        out: dict[str, Any] = {"things": [_stated(asdict(thing)) for thing in self.things]}
        for name in ("relation", "background", "light", "style"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        return out


def facts_from_json(data: Mapping[str, Any]) -> Facts:
    """Inverse of `Facts.to_json`."""
    return Facts(**{**data, "things": tuple(Thing(**thing) for thing in data["things"])})


@dataclass(frozen=True, slots=True)
class Caption:
    """A text and exactly what it states."""

    text: str
    facts: Facts


def scene_facts(scene: Scene) -> Facts:
    """All that a caption could state about a scene."""
    groups = scene.groups()
    things = tuple(Thing(k.shape, k.colour, k.size, k.texture, len(items)) for k, items in groups)
    where = relation(scene.objects[0], scene.objects[1]) if [len(g) for _, g in groups] == [1, 1] else None
    return Facts(things, where, scene.background, scene.light, scene.style)


def caption_matches(scene: Scene, facts: Facts) -> bool:
    """Whether a caption is true of a scene.

    Each thing must be there, different things must be different objects; a stated count is exact ("two red circles" is
    false of three), the article means at least one. Objects the caption does not name are allowed.
    """
    for name in _SETTINGS:
        if getattr(facts, name) not in (None, getattr(scene, name)):
            return False
    for thing in facts.things:
        if thing.count is not None:
            fitting = sum(thing.fits(item) for item in scene.objects)
            if fitting < thing.count or (fitting > thing.count and not _other_thing_explains(thing, facts)):
                return False
    wanted = [thing for thing in facts.things for _ in range(thing.number)]
    if len(wanted) > len(scene.objects):
        return False
    for chosen in permutations(scene.objects, len(wanted)):
        fits = all(thing.fits(item) for thing, item in zip(wanted, chosen, strict=True))
        if fits and (facts.relation is None or relation(chosen[0], chosen[1]) == facts.relation):
            return True
    return False


def _other_thing_explains(thing: Thing, facts: Facts) -> bool:
    """Whether another thing of the caption may fit the same description, so that more objects than stated may too."""
    return any(other is not thing and _could(other, thing) for other in facts.things)


def complete(facts: Facts, rng: np.random.Generator) -> Scene:
    """A random scene that holds exactly the things of a caption, open attributes drawn at random."""
    groups: list[tuple[Kind, int]] = []
    for thing in facts.things:
        while True:
            kind = _fill(thing, rng)
            if all((kind.colour, kind.shape) != (k.colour, k.shape) for k, _ in groups) or _fixed(thing):
                break
        groups.append((kind, thing.number))
    total = sum(count for _, count in groups)
    if total >= 3 and any(t.size == "large" and (t.number > 1 or total == MAX_OBJECTS) for t in facts.things):
        raise ValueError("large objects of a group of three or more do not fit the canvas")
    random = sample_scene(rng)
    return Scene(
        place(groups, rng, facts.relation),
        facts.background or random.background,
        facts.light or random.light,
        facts.style or random.style,
    )


def _fixed(thing: Thing) -> bool:
    return thing.shape is not None and thing.colour is not None


def _fill(thing: Thing, rng: np.random.Generator) -> Kind:
    drawn = sample_kind(rng)
    return Kind(
        thing.shape or drawn.shape,
        thing.colour or drawn.colour,
        thing.size or drawn.size,
        thing.texture or drawn.texture,
    )


def _stated(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# ---------------------------------------------------------------------------------------------------- captions

# First wording of each row is the canonical one, used without a generator.
_PLURAL = {shape: shape + "s" for shape in SHAPES} | {"cross": "crosses"}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
_TEXTURE_WORDS = {"plain": ("plain",), "striped": ("striped",), "dotted": ("dotted", "spotted")}
_PLACE_WORDS = {
    "grass": ("on the grass", "on grass", "in a meadow", "in a green field"),
    "sand": ("on the sand", "on sand", "on a beach", "in the desert"),
    "sky": ("in the sky", "against the sky", "in the air"),
    "street": ("on the street", "on a street", "on a road"),
    "room": ("in a room", "in a pink room", "indoors"),
}
_LIGHT_WORDS = {"day": ("during the day", "in daylight"), "night": ("at night", "in the dark")}
_STYLE_WORDS = {
    "photo": ("a photo of {core}", "a photograph of {core}", "a photo with {core}"),
    "anime": ("an anime drawing of {core}", "{core}, anime style", "anime art of {core}", "a cartoon of {core}"),
    "concept-art": ("concept art of {core}", "{core}, concept art", "a digital concept art of {core}"),
    "painting": ("a painting of {core}", "an oil painting of {core}", "{core}, painted in oil"),
}
_SINGLE = ("{a}", "{a}", "{a}", "there is {a}", "a picture of {a}", "an image of {a}", "one can see {a}")
_PAIR = (
    "{a} and {b}",
    "{a} and {b}",
    "{a} next to {b}",
    "{a} with {b}",
    "there is {a} and {b}",
    "{a} beside {b}",
    "{a}, {b}",
)
_RELATED = {
    "left of": ("{a} to the left of {b}", "{a} left of {b}", "{a} on the left of {b}", "{b} to the right of {a}"),
    "right of": ("{a} to the right of {b}", "{a} right of {b}", "{a} on the right of {b}", "{b} to the left of {a}"),
    "above": ("{a} above {b}", "{a} over {b}", "{a} on top of {b}", "{b} below {a}"),
    "below": ("{a} below {b}", "{a} under {b}", "{a} beneath {b}", "{b} above {a}"),
}
_PATTERNS = ("{core} {place}", "{core} {place}", "{place}, {core}", "{core} placed {place}")


def phrase(thing: Thing, rng: np.random.Generator | None = None) -> str:
    """Noun phrase of a thing, such as "a small striped red circle" or "two red circles"."""
    words = [
        _pick(_SIZE_WORDS[thing.size], rng) if thing.size else "",
        _pick(_TEXTURE_WORDS[thing.texture], rng) if thing.texture else "",
        thing.colour or "",
    ]
    if thing.number > 1:
        words.append(_PLURAL[thing.shape] if thing.shape else "objects")
    else:
        words.append(thing.shape or "object")
    noun = " ".join(word for word in words if word)
    if thing.count is not None:
        return f"{NUMBERS[thing.count]} {noun}"
    return f"{_article(noun)} {noun}"


def caption_of(
    *things: Thing,
    relation: str | None = None,
    background: str | None = None,
    light: str | None = None,
    style: str | None = None,
    template: str | None = None,
    rng: np.random.Generator | None = None,
) -> Caption:
    """Put facts into words.

    Args:
        things: one to three descriptions.
        relation: where the first stands as seen from the second.
        background: one of `BACKGROUNDS`, or open.
        light: one of `LIGHTS`, or open.
        style: one of `STYLES`, or open.
        template: fixed wording with the fields {a}, {b}, {c}, {relation}, {place}, {light}; it must say what is stated.
        rng: draws among paraphrases; without it the wording is canonical.

    >>> red, blue = Thing("circle", "red"), Thing("square", "blue")
    >>> caption_of(red, blue, relation="left of", light="night").text
    'a red circle to the left of a blue square at night'
    >>> caption_of(red, blue, background="sand", template="{place} stand {a} and {b}").text
    'on the sand stand a red circle and a blue square'
    """
    facts = Facts(things, relation, background, light, style)
    return Caption(_word(facts, template, rng), facts)


def _word(facts: Facts, template: str | None, rng: np.random.Generator | None) -> str:
    names = {field: phrase(thing, rng) for field, thing in zip("abcd", facts.things, strict=False)}
    where = _pick(_PLACE_WORDS[facts.background], rng) if facts.background else ""
    light = _pick(_LIGHT_WORDS[facts.light], rng) if facts.light else ""
    if template is not None:
        between = {"left of": "to the left of", "right of": "to the right of"}.get(facts.relation or "", facts.relation)
        return template.format(**names, relation=between or "", place=where, light=light)
    if facts.relation is not None:
        core = _pick(_RELATED[facts.relation], rng).format(**names)
    elif len(facts.things) == 1:
        core = _pick(_SINGLE, rng).format(**names)
    elif len(facts.things) == 2:
        if rng is not None and rng.random() < 0.5:
            names = {"a": names["b"], "b": names["a"]}
        core = _pick(_PAIR, rng).format(**names)
    else:
        *first, last = names.values()
        core = f"{', '.join(first)} and {last}"
    if where:
        core = _pick(_PATTERNS, rng).format(core=core, place=where)
    if light:
        core = f"{core} {light}"
    if facts.style:
        core = _pick(_STYLE_WORDS[facts.style], rng).format(core=core)
    return core


def describe(scene: Scene, rng: np.random.Generator, *, detail: float = 0.5) -> Caption:
    """A random caption of a scene that names all its objects and some of the rest.

    Args:
        scene: what to describe.
        rng: draws what is said and how.
        detail: probability of stating size and background; what stands out (texture, night, an unusual style) is stated
            more often, what is usual less. 1 states everything.
    """

    def say(chance: float) -> bool:
        return bool(rng.random() < chance) or detail >= 1

    full = scene_facts(scene)
    things: list[Thing] = []
    for thing in full.things:
        patterned = thing.texture != "plain"
        things.append(
            replace(
                thing,
                colour=thing.colour if say(0.95) else None,
                size=thing.size if say(0.7 * detail) else None,
                texture=thing.texture if say(0.9 if patterned else 0.2 * detail) else None,
                count=thing.count if thing.number > 1 or (rng.random() < 0.12) else None,
            )
        )
    if len(things) == 2 and things[0].shape == things[1].shape and things[0].colour != things[1].colour:
        things = [replace(t, colour=f.colour) for t, f in zip(things, full.things, strict=True)]
    if len(things) == 2 and full.relation is not None and rng.random() < 0.5:
        things.reverse()
        full = replace(full, relation=OPPOSITE[full.relation])
    return caption_of(
        *things,
        relation=full.relation if say(0.6) else None,
        background=full.background if say(detail) else None,
        light=full.light if say(0.8 if full.light == "night" else 0.4 * detail) else None,
        style=full.style if say(0.9 if full.style != "photo" else 0.3 * detail) else None,
        rng=rng,
    )


def describe_for_training(scene: Scene, rng: np.random.Generator, *, detail: float = 0.5) -> Caption:
    """Like `describe`, and never a caption of the held-out part; the scene must not be held out either."""
    if scene_held_out(scene):
        raise ValueError("this scene is held out from training")
    while True:
        caption = describe(scene, rng, detail=detail)
        if not caption.facts.held_out():
            return caption


def _pick(options: Sequence[str], rng: np.random.Generator | None) -> str:
    return options[0] if rng is None else options[int(rng.integers(len(options)))]


# ---------------------------------------------------------------------------------------------------- questions


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
_ASK = {
    "colour": ("what color is the {ref}?", "what color are the {refs}?"),
    "shape": ("what shape is the {ref}?", "what shape are the {refs}?"),
    "size": ("what size is the {ref}?", "what size are the {refs}?"),
    "texture": ("what texture does the {ref} have?", "what texture do the {refs} have?"),
}
_ASK_EXISTS = "is there {article} {ref}?"
_ASK_COUNT = "how many {refs} are there?"
_ASK_RELATED = "is the {ref} {relation} the {other}?"
_ASK_WHERE = "where is the {ref} relative to the {other}?"
_ASK_SETTING = {
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
        for name, valid in _ATTRIBUTES.items():
            foil = _foil(own, name, valid, facts)
            if foil is not None:
                out.append(_yes_no(_exists(foil), False, "object" if name == "shape" else _KIND_OF[name]))
        for name, valid in _ATTRIBUTES.items():
            value = getattr(thing, name)
            ref = _unique_ref(index, facts, without=name) if value is not None else None
            if value is not None and ref is not None:
                one, many = _ASK[name]
                text = one.format(ref=_ref(ref)) if thing.number == 1 else many.format(refs=_refs(ref))
                out.append(Question(text, valid, value, _KIND_OF[name]))
        shared = sum(other.shape in (None, thing.shape) for other in facts.things) > 1
        for ref in (Thing(shape=thing.shape), Thing(shape=thing.shape, colour=thing.colour))[: 1 + shared]:
            counted = _count(ref, facts) if thing.shape is not None else None
            if counted is not None:
                out.append(Question(_ASK_COUNT.format(refs=_refs(ref)), NUMBERS[1:], NUMBERS[counted], "counting"))
    return out


def _about_relation(facts: Facts) -> list[Question]:
    if facts.relation is None:
        return []
    a, b = _unique_ref(0, facts), _unique_ref(1, facts)
    if a is None or b is None:
        return []
    names = {"ref": _ref(a), "other": _ref(b)}
    return [
        _yes_no(_ASK_RELATED.format(**names, relation=facts.relation), True, "spatial"),
        _yes_no(_ASK_RELATED.format(**names, relation=OPPOSITE[facts.relation]), False, "spatial"),
        Question(_ASK_WHERE.format(**names), RELATIONS, facts.relation, "spatial"),
    ]


def _about_settings(facts: Facts) -> list[Question]:
    out: list[Question] = []
    for name, valid in _SETTINGS.items():
        value = getattr(facts, name)
        if value is None:
            continue
        which, whether = _ASK_SETTING[name]
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
        if not any(_could(thing, foil) for thing in facts.things):
            return foil
    return None


def _with(thing: Thing, name: str, value: str | None) -> Thing:
    change: dict[str, Any] = {name: value}
    return replace(thing, **change)


def _could(thing: Thing, ref: Thing) -> bool:
    """Whether objects described as `thing` may fit the description `ref`."""
    return all(getattr(thing, n) is None or getattr(ref, n) in (None, getattr(thing, n)) for n in _ATTRIBUTES)


def _must(thing: Thing, ref: Thing) -> bool:
    """Whether objects described as `thing` surely fit the description `ref`."""
    return all(getattr(ref, n) in (None, getattr(thing, n)) for n in _ATTRIBUTES)


def _count(ref: Thing, facts: Facts) -> int | None:
    total = 0
    for thing in facts.things:
        if _must(thing, ref):
            total += thing.number
        elif _could(thing, ref):
            return None
    return total if 1 <= total <= MAX_OBJECTS else None


def _unique_ref(index: int, facts: Facts, without: str | None = None) -> Thing | None:
    """The shortest description, not using one attribute, that can only mean `things[index]`."""
    thing = facts.things[index]
    for names in (("shape",), ("colour",), ("colour", "shape"), ("size", "shape"), ("size", "colour", "shape")):
        if without in names or any(getattr(thing, n) is None for n in names):
            continue
        ref = Thing(**{n: getattr(thing, n) for n in names})
        if not any(_could(other, ref) for i, other in enumerate(facts.things) if i != index):
            return ref
    return None


def _exists(ref: Thing) -> str:
    name = _ref(ref)
    return _ASK_EXISTS.format(article=_article(name), ref=name)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _ref(ref: Thing) -> str:
    words = (ref.size, ref.texture, ref.colour, ref.shape or "object")
    return " ".join(word for word in words if word)


def _refs(ref: Thing) -> str:
    words = (ref.size, ref.texture, ref.colour, _PLURAL[ref.shape] if ref.shape else "objects")
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
    singular = {plural: shape for shape, plural in _PLURAL.items()}
    stated: dict[str, Any] = {}
    for raw in text.split():
        word = singular.get(raw, raw)
        if word in ("object", "objects"):
            continue
        name = next((n for n, valid in _ATTRIBUTES.items() if word in valid), None)
        if name is None:
            raise ValueError(f"not a word for an object: {raw!r} in {text!r}")
        stated[name] = word
    return Thing(**stated)


@lru_cache(maxsize=1)
def _handlers() -> list[tuple[re.Pattern[str], Any]]:
    """Patterns of the question grammar and the function that answers each."""
    out: list[tuple[re.Pattern[str], Any]] = [
        (_pattern(_ASK_EXISTS), _answer_exists),
        (_pattern(_ASK_COUNT), _answer_count),
        (_pattern(_ASK_RELATED), _answer_related),
        (_pattern(_ASK_WHERE), _answer_where),
    ]
    for name, wordings in _ASK.items():
        for wording in wordings:
            out.append((_pattern(wording), _bind_attribute(name)))
    for name, (which, whether) in _ASK_SETTING.items():
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
        stated = [name for name in _ATTRIBUTES if getattr(thing, name) is not None]
        name = stated[int(rng.integers(len(stated)))]
        others = [v for v in _ATTRIBUTES[name] if v != getattr(thing, name)]
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
            ref = _with(ref, always, _ATTRIBUTES[always][int(rng.integers(len(_ATTRIBUTES[always])))])
        many = sum(ref.fits(other) for other in scene.objects) > 1
        one, plural = _ASK[name]
        return plural.format(refs=_refs(ref)) if many else one.format(ref=_ref(ref)), _ATTRIBUTES[name]

    return sample


def _sample_count(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    ref = _some_ref(scene, rng, always="shape", extra=0.4)
    if rng.random() < 0.2:
        ref = Thing()
    if rng.random() < 0.1:
        ref = replace(ref, shape=SHAPES[int(rng.integers(len(SHAPES)))])
    return _ASK_COUNT.format(refs=_refs(ref)), NUMBERS[1:]


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
        return _ASK_WHERE.format(**names), RELATIONS
    truth = relation(a, b) or "above"
    stated = truth if rng.random() < 0.5 else RELATIONS[int(rng.integers(len(RELATIONS)))]
    return _ASK_RELATED.format(**names, relation=stated), YES_NO


def _sample_setting(name: str) -> Any:
    def sample(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
        which, whether = _ASK_SETTING[name]
        valid = _SETTINGS[name]
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
    return Thing(**{n: getattr(item, n) for n in _ATTRIBUTES if n == always or rng.random() < chance[n]})


# ---------------------------------------------------------------------------------------------------- words

ANSWERS = tuple(dict.fromkeys((*YES_NO, "none", *NUMBERS, *COLOURS, *SHAPES, *SIZES, *TEXTURES, *RELATIONS,
                               *BACKGROUNDS, *LIGHTS, *STYLES)))  # fmt: skip
"""Every answer that `answer` can give."""

_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks of a text, as the tokenizer splits it."""
    return _WORD.findall(text.lower())


def vocabulary() -> tuple[str, ...]:
    """Every word and mark of captions, questions and answers, in a fixed order; anything else is an unknown word."""
    tables: list[Sequence[str]] = [
        NUMBERS, tuple(_PLURAL.values()), ("a", "an", "object", "objects", "the", "stand"), tuple(".,?-!':"),
        _SINGLE, _PAIR, _PATTERNS, ANSWERS, (_ASK_EXISTS, _ASK_COUNT, _ASK_RELATED, _ASK_WHERE),
    ]  # fmt: skip
    for table in (_SIZE_WORDS, _TEXTURE_WORDS, _PLACE_WORDS, _LIGHT_WORDS, _STYLE_WORDS, _RELATED, _ASK, _ASK_SETTING):
        tables.extend(table.values())
    found: set[str] = set()
    for rows in tables:
        for row in rows:
            found.update(words(re.sub(r"\{\w+\}", " ", row)))
    return tuple(sorted(found))
