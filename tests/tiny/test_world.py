"""Scenes, pictures, captions, questions: exactness of the whole loop."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bench.tiny.language import (
    Facts,
    Thing,
    caption_matches,
    caption_of,
    complete,
    describe,
    describe_for_training,
    facts_from_json,
    scene_facts,
)
from bench.tiny.questions import ANSWERS, QUESTION_KINDS, answer, questions, sample_question
from bench.tiny.reference import reference_images, reference_scenes
from bench.tiny.render import render
from bench.tiny.vocabulary import vocabulary, words
from bench.tiny.world import (
    BACKGROUNDS,
    COLOURS,
    LIGHTS,
    OPPOSITE,
    RADIUS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Kind,
    Obj,
    Scene,
    place,
    relation,
    sample_scene,
    sample_split,
    scene_from_json,
    scene_held_out,
)

RED_CIRCLE = Thing("circle", "red")
BLUE_SQUARE = Thing("square", "blue")


def some_scenes(n: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(n)]


def test_scene_goes_through_json_unchanged() -> None:
    for scene in some_scenes(50):
        assert scene_from_json(json.loads(json.dumps(scene.to_json()))) == scene


def test_objects_neither_overlap_nor_leave_the_canvas() -> None:
    for scene in some_scenes(500):
        for i, a in enumerate(scene.objects):
            r = RADIUS[a.size]
            assert r <= a.x <= 64 - r and r <= a.y <= 64 - r
            for b in scene.objects[:i]:
                assert max(abs(a.x - b.x), abs(a.y - b.y)) >= RADIUS[a.size] + RADIUS[b.size]


@pytest.mark.parametrize("where", sorted(OPPOSITE))
def test_place_obeys_the_relation(where: str) -> None:
    rng = np.random.default_rng(1)
    a, b = Kind("circle", "red", "small"), Kind("ring", "blue", "large")
    for _ in range(50):
        first, second = place([(a, 1), (b, 1)], rng, where)
        assert relation(first, second) == where
        assert relation(second, first) == OPPOSITE[where]


def test_unknown_values_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="unknown shape 'hexagon'; valid: circle"):
        Kind("hexagon", "red")
    with pytest.raises(ValueError, match="unknown colour"):
        Thing("circle", "pink")


def test_held_out_share_and_reference_scenes() -> None:
    share = np.mean([scene_held_out(scene) for scene in some_scenes(3000)])
    assert 0.06 < share < 0.20
    assert all(scene_held_out(scene) for scene in reference_scenes(20, seed=3))
    assert list(reference_scenes(5, 3)) == list(reference_scenes(20, 3))[:5]
    assert next(iter(reference_images(1, 0))).shape == (64, 64, 3)


def test_training_captions_are_never_held_out() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        caption = describe_for_training(sample_split(rng, held=False), rng)
        assert not caption.facts.held_out()
    with pytest.raises(ValueError, match="held out"):
        describe_for_training(sample_split(rng, held=True), rng)


def test_every_attribute_alone_is_trained_on() -> None:
    rng = np.random.default_rng(3)
    seen: Counter[str] = Counter()
    for _ in range(1500):
        for item in sample_split(rng, held=False).objects:
            seen.update((f"{item.colour} {item.shape}", item.size, item.texture))
    assert all(seen[f"{colour} {shape}"] > 0 for colour in COLOURS for shape in SHAPES)
    assert all(seen[name] > 0 for name in (*SIZES, *TEXTURES))


# ---------------------------------------------------------------------------------------------------- pictures


def test_render_is_deterministic_and_fresh() -> None:
    scene = some_scenes(1)[0]
    first, second = render(scene), render(scene)
    assert first.dtype == np.uint8 and first.shape == (64, 64, 3)
    assert np.array_equal(first, second)
    first[:] = 0
    assert np.array_equal(render(scene), second)


BASE = Scene((Obj("circle", "red", "small", "plain", 20, 30), Obj("square", "blue", "small", "plain", 46, 30)))


@pytest.mark.parametrize(
    ("name", "values"),
    [("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES), ("x", (20, 16)), ("y", (30, 25))],
)
def test_each_object_attribute_changes_the_picture(name: str, values: tuple[str | int, ...]) -> None:
    pictures = {
        render(replace(BASE, objects=(replace(BASE.objects[0], **{name: v}), BASE.objects[1]))).tobytes()
        for v in values
    }
    assert len(pictures) == len(values)


@pytest.mark.parametrize(("name", "values"), [("background", BACKGROUNDS), ("light", LIGHTS), ("style", STYLES)])
def test_each_setting_changes_the_picture(name: str, values: tuple[str, ...]) -> None:
    pictures = [render(replace(BASE, **{name: v})).astype(float) for v in values]
    for i, a in enumerate(pictures):
        assert all(np.abs(a - b).mean() > 3 for b in pictures[:i])


def test_object_pixels_have_the_object_colour() -> None:
    red = render(BASE)[30, 20]
    blue = render(BASE)[30, 46]
    assert red[0] > 180 and red[2] < 80
    assert blue[2] > 180 and blue[0] < 80


def test_render_scales() -> None:
    large = render(BASE, size=128).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(large - render(BASE)).mean() < 4


# ---------------------------------------------------------------------------------------------------- language


def test_captions_are_true_and_all_their_questions_too() -> None:
    rng = np.random.default_rng(4)
    kinds: Counter[str] = Counter()
    for scene in some_scenes(300, seed=5):
        caption = describe(scene, rng)
        assert caption_matches(scene, caption.facts)
        other = complete(caption.facts, rng)
        assert caption_matches(other, caption.facts)
        for question in questions(caption.facts):
            kinds[question.kind] += 1
            assert question.answer in question.choices
            assert answer(question, scene) == question.answer, (scene, caption, question)
            assert answer(question, other) == question.answer, (other, caption, question)
    assert set(kinds) == set(QUESTION_KINDS)


def test_facts_go_through_json_unchanged() -> None:
    rng = np.random.default_rng(6)
    for scene in some_scenes(50):
        facts = describe(scene, rng).facts
        assert facts_from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_every_word_is_in_the_vocabulary() -> None:
    rng, known = np.random.default_rng(7), set(vocabulary())
    for scene in some_scenes(400):
        question = sample_question(scene, rng)
        assert set(words(describe(scene, rng).text)) <= known
        assert set(words(question.question)) <= known
        assert question.answer in ANSWERS


def test_a_changed_scene_makes_the_caption_false() -> None:
    facts = caption_of(RED_CIRCLE, BLUE_SQUARE, relation="left of", background="street").facts
    assert caption_matches(BASE, facts)
    circle, square = BASE.objects
    wrong = [
        replace(BASE, objects=(replace(circle, colour="green"), square)),
        replace(BASE, objects=(replace(circle, shape="ring"), square)),
        replace(BASE, objects=(replace(circle, x=46), replace(square, x=20))),
        replace(BASE, objects=(replace(circle, colour="blue"), replace(square, colour="red"))),
        replace(BASE, background="sand"),
        replace(BASE, objects=(circle,)),
    ]
    for scene in wrong:
        assert not caption_matches(scene, facts)
        assert any(answer(q, scene) != q.answer for q in questions(facts))


def test_stated_counts_are_exact_and_articles_are_not() -> None:
    two = Scene((Obj("star", "red", "small", "plain", 17, 17), Obj("star", "red", "small", "plain", 47, 47)))
    assert caption_matches(two, Facts((Thing("star", "red", count=2),)))
    assert caption_matches(two, Facts((Thing("star"),)))
    assert not caption_matches(two, Facts((Thing("star", count=1),)))
    assert not caption_matches(two, Facts((Thing("star", count=3),)))


def test_questions_come_in_both_polarities_and_as_choices() -> None:
    facts = caption_of(RED_CIRCLE, BLUE_SQUARE, relation="above", light="night", style="anime").facts
    by_kind: dict[str, set[str]] = {}
    for question in questions(facts):
        by_kind.setdefault(question.kind, set()).add(question.answer)
    assert {"yes", "no", "above"} == by_kind["spatial"]
    assert {"yes", "no", "night"} == by_kind["time"]
    assert {"yes", "no", "anime"} == by_kind["style"]
    assert {"no", "red", "blue"} == by_kind["color"]


def test_wordings_of_a_fixed_caption() -> None:
    assert caption_of(RED_CIRCLE, BLUE_SQUARE).text == "a red circle and a blue square"
    assert caption_of(Thing("cross", "orange", count=3)).text == "three orange crosses"
    assert caption_of(Thing("cross", "orange")).text == "an orange cross"
    assert caption_of(RED_CIRCLE, style="painting", background="sand").text == "a painting of a red circle on the sand"
    template = "{place} {a} stands {relation} {b} {light}"
    text = caption_of(
        RED_CIRCLE, BLUE_SQUARE, relation="left of", background="sky", light="day", template=template
    ).text
    assert text == "in the sky a red circle stands to the left of a blue square during the day"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what color is the circle?", "red"),
        ("what color is the star?", "none"),
        ("what shape is the blue object?", "square"),
        ("how many objects are there?", "two"),
        ("how many stars are there?", "zero"),
        ("is the red circle left of the blue square?", "yes"),
        ("where is the square relative to the circle?", "right of"),
        ("is there an orange star?", "no"),
        ("what style is the picture?", "photo"),
        ("is it night?", "no"),
        ("is the background street?", "yes"),
    ],
)
def test_exact_answers(question: str, expected: str) -> None:
    assert answer(question, BASE) == expected


def test_what_is_no_question_is_refused() -> None:
    with pytest.raises(ValueError, match="not a question"):
        answer("how are you?", BASE)


def test_scene_facts_state_everything() -> None:
    facts = scene_facts(BASE)
    assert facts.relation == "left of" and len(facts.things) == 2
    assert caption_matches(BASE, facts)
