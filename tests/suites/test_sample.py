"""The embedded prompts: as the script writes them, held out, answerable, and in each suite's form."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suites
from bench.core.types import Suite
from bench.tiny.language import Facts, caption_matches, complete, facts_from_json
from bench.tiny.questions import answer
from bench.tiny.vocabulary import vocabulary, words
from bench.tiny.world import scene_held_out
from suites import _card, build_sample

NAMES = _card.names("sample")
FOLDER = Path(suites.__file__).parent / "sample"


def _suite(name: str, **options: Any) -> Suite:
    return importlib.import_module(f"suites.{name}").suite(**options)  # type: ignore[no-any-return]


def _facts(name: str) -> dict[str, Facts]:
    rows = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return {row["id"]: facts_from_json(row["facts"]) for row in rows}


def test_rebuilding_gives_the_same_bytes(tmp_path: Path) -> None:
    build_sample.main(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in FOLDER.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_settings(name: str) -> None:
    suite = _suite(name)
    spec = suite.spec
    assert spec.id == f"{name}-sample@1"
    assert spec.n_prompts == len({p.text for p in suite.prompts}) >= 64
    assert spec.n_train_prompts == len({p.text for p in suite.train_prompts}) >= 256
    assert len({p.id for p in (*suite.prompts, *suite.train_prompts)}) == spec.n_prompts + spec.n_train_prompts
    assert {"fid", "tifa"} <= set(spec.metrics)
    assert spec.eval_seeds == (0, 1)
    assert spec.budget.primary == "denoiser_u"


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_prompts_are_held_out_and_training_prompts_are_not(name: str) -> None:
    suite, facts = _suite(name), _facts(name)
    assert all(facts[p.id].held_out() for p in suite.prompts)
    assert suites.leaks(suite.train_prompts, suite.prompts) == []
    evaluated = {suites.normalised(p.text) for n in NAMES for p in _suite(n).prompts}
    # nor does one suite train on what another one evaluates
    assert not [p for p in suite.train_prompts if suites.normalised(p.text) in evaluated]


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_answered_by_every_scene_of_the_prompt(name: str) -> None:
    suite, facts = _suite(name), _facts(name)
    asked = Counter(q.prompt_id for q in suite.questions)
    assert set(asked) == {p.id for p in suite.prompts}
    assert min(asked.values()) >= 4
    assert max(asked.values()) <= build_sample.N_QUESTIONS
    assert len({q.kind for q in suite.questions}) >= 4
    scenes = {i: [complete(f, np.random.default_rng(seed)) for seed in range(2)] for i, f in facts.items()}
    assert all(caption_matches(scene, facts[i]) for i, drawn in scenes.items() for scene in drawn)
    for question in suite.questions:
        assert question.answer in question.choices
        for scene in scenes[question.prompt_id]:
            assert answer(question.question, scene) == question.answer, question


@pytest.mark.parametrize("name", NAMES)
def test_every_word_is_known_to_the_tiny_models(name: str) -> None:
    suite = _suite(name)
    used = {word for p in (*suite.prompts, *suite.train_prompts) for word in words(p.text)}
    assert used <= set(vocabulary())


def test_abc6k_pairs_differ_in_two_exchanged_colours() -> None:
    prompts = _suite("abc6k").prompts
    for a, b in zip(prompts[::2], prompts[1::2], strict=True):
        assert a.tags["pair"] == b.tags["pair"]
        assert (a.tags["member"], b.tags["member"]) == ("original", "exchanged")
        changed = [
            (x, y) for x, y in zip(a.text.split(), b.text.split(), strict=True) if {x, y} != {"a", "an"} and x != y
        ]
        assert len(changed) == 2
        assert changed[0] == changed[1][::-1]


def test_cc500_form() -> None:
    suite = _suite("cc500")
    form = re.compile(r"an? \w+ \w+ and an? \w+ \w+")
    assert all(form.fullmatch(p.text) for p in (*suite.prompts, *suite.train_prompts))
    assert max(Counter(p.tags["pair"] for p in suite.prompts).values()) == 2


def test_hpsv2_has_its_four_styles() -> None:
    prompts = _suite("hpsv2").prompts
    assert Counter(p.tags["style"] for p in prompts) == dict.fromkeys(
        ("anime", "concept-art", "paintings", "photo"), 16
    )
    facts = _facts("hpsv2")
    assert all(facts[p.id].style == p.tags["style"].replace("paintings", "painting") for p in prompts)


def test_categories_are_those_of_the_full_editions() -> None:
    from suites.vilg300 import CATEGORIES

    vilg = Counter(p.tags["category"] for p in _suite("vilg300").prompts)
    assert set(vilg) <= set(CATEGORIES.values())
    assert set(vilg.values()) == {8}
    parti = _suite("parti").prompts
    assert len({p.tags["category"] for p in parti}) == 5
    assert len({p.tags["challenge"] for p in parti}) == 7


def test_no_scene_of_an_evaluation_prompt_with_all_colours_and_shapes_was_trained_on() -> None:
    for name in NAMES:
        for facts in _facts(name).values():
            if all(t.colour and t.shape for t in facts.things):
                assert scene_held_out(complete(facts, np.random.default_rng(0)))


def test_limit_keeps_the_questions_of_what_is_left() -> None:
    limited = _suite("coco", limit=3)
    assert {q.prompt_id for q in limited.questions} == {p.id for p in limited.prompts}
    assert limited.spec.n_train_prompts == 256


def test_loading_is_quick_and_never_imports_torch() -> None:
    code = "import sys, suites.coco; suites.coco.suite(); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    start = time.perf_counter()
    for name in NAMES:
        _suite(name)
    # the aim is 0.1 s for one suite; six in one second leaves room for a busy machine
    assert time.perf_counter() - start < 1
