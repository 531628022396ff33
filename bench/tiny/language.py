"""What can be said about a scene: facts, and captions of them with paraphrases.

`Facts` is what a caption states. A caption names every object of its scene (nothing else is in the picture) but may
leave attributes, places, light and style open. The loop closes: facts -> caption_of -> text, and facts -> complete -> a
scene that the caption is true of. What can be asked about facts and scenes is in ``bench.tiny.questions``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

ATTRIBUTES: dict[str, tuple[str, ...]] = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
SETTINGS: dict[str, tuple[str, ...]] = {"background": BACKGROUNDS, "light": LIGHTS, "style": STYLES}


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
        for name, valid in ATTRIBUTES.items():
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
        return all(getattr(self, name) in (None, getattr(item, name)) for name in ATTRIBUTES)


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
        for name, valid in SETTINGS.items():
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
    for name in SETTINGS:
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
    return any(other is not thing and could(other, thing) for other in facts.things)


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


def could(thing: Thing, ref: Thing) -> bool:
    """Whether objects described as `thing` may fit the description `ref`."""
    return all(getattr(thing, n) is None or getattr(ref, n) in (None, getattr(thing, n)) for n in ATTRIBUTES)


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
PLURAL = {shape: shape + "s" for shape in SHAPES} | {"cross": "crosses"}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
TEXTURE_WORDS = {"plain": ("plain",), "striped": ("striped",), "dotted": ("dotted", "spotted")}
PLACE_WORDS = {
    "grass": ("on the grass", "on grass", "in a meadow", "in a green field"),
    "sand": ("on the sand", "on sand", "on a beach", "in the desert"),
    "sky": ("in the sky", "against the sky", "in the air"),
    "street": ("on the street", "on a street", "on a road"),
    "room": ("in a room", "in a pink room", "indoors"),
}
LIGHT_WORDS = {"day": ("during the day", "in daylight"), "night": ("at night", "in the dark")}
STYLE_WORDS = {
    "photo": ("a photo of {core}", "a photograph of {core}", "a photo with {core}"),
    "anime": ("an anime drawing of {core}", "{core}, anime style", "anime art of {core}", "a cartoon of {core}"),
    "concept-art": ("concept art of {core}", "{core}, concept art", "a digital concept art of {core}"),
    "painting": ("a painting of {core}", "an oil painting of {core}", "{core}, painted in oil"),
}
SINGLE = ("{a}", "{a}", "{a}", "there is {a}", "a picture of {a}", "an image of {a}", "one can see {a}")
PAIR = (
    "{a} and {b}",
    "{a} and {b}",
    "{a} next to {b}",
    "{a} with {b}",
    "there is {a} and {b}",
    "{a} beside {b}",
    "{a}, {b}",
)
RELATED = {
    "left of": ("{a} to the left of {b}", "{a} left of {b}", "{a} on the left of {b}", "{b} to the right of {a}"),
    "right of": ("{a} to the right of {b}", "{a} right of {b}", "{a} on the right of {b}", "{b} to the left of {a}"),
    "above": ("{a} above {b}", "{a} over {b}", "{a} on top of {b}", "{b} below {a}"),
    "below": ("{a} below {b}", "{a} under {b}", "{a} beneath {b}", "{b} above {a}"),
}
PATTERNS = ("{core} {place}", "{core} {place}", "{place}, {core}", "{core} placed {place}")


def phrase(thing: Thing, rng: np.random.Generator | None = None) -> str:
    """Noun phrase of a thing, such as "a small striped red circle" or "two red circles"."""
    words = [
        _pick(SIZE_WORDS[thing.size], rng) if thing.size else "",
        _pick(TEXTURE_WORDS[thing.texture], rng) if thing.texture else "",
        thing.colour or "",
    ]
    if thing.number > 1:
        words.append(PLURAL[thing.shape] if thing.shape else "objects")
    else:
        words.append(thing.shape or "object")
    noun = " ".join(word for word in words if word)
    if thing.count is not None:
        return f"{NUMBERS[thing.count]} {noun}"
    return f"{article(noun)} {noun}"


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
    where = _pick(PLACE_WORDS[facts.background], rng) if facts.background else ""
    light = _pick(LIGHT_WORDS[facts.light], rng) if facts.light else ""
    if template is not None:
        between = {"left of": "to the left of", "right of": "to the right of"}.get(facts.relation or "", facts.relation)
        return template.format(**names, relation=between or "", place=where, light=light)
    if facts.relation is not None:
        core = _pick(RELATED[facts.relation], rng).format(**names)
    elif len(facts.things) == 1:
        core = _pick(SINGLE, rng).format(**names)
    elif len(facts.things) == 2:
        if rng is not None and rng.random() < 0.5:
            names = {"a": names["b"], "b": names["a"]}
        core = _pick(PAIR, rng).format(**names)
    else:
        *first, last = names.values()
        core = f"{', '.join(first)} and {last}"
    if where:
        core = _pick(PATTERNS, rng).format(core=core, place=where)
    if light:
        core = f"{core} {light}"
    if facts.style:
        core = _pick(STYLE_WORDS[facts.style], rng).format(core=core)
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


def article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
