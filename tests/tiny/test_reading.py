"""Captions read back into facts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.tiny.language import OPPOSITE, describe, facts_from_json
from bench.tiny.reading import facts_of
from bench.tiny.world import sample_scene

SAMPLE = Path(__file__).resolve().parents[2] / "suites" / "sample"


def one_order(facts):
    """The same facts in one of the orders in which they can be said."""
    if facts.relation in ("right of", "below"):
        return replace(facts, things=facts.things[::-1], relation=OPPOSITE[facts.relation])
    return facts if facts.relation else replace(facts, things=tuple(sorted(facts.things, key=repr)))


def test_every_paraphrase_is_read_back():
    rng = np.random.default_rng(7)
    for _ in range(2000):
        caption = describe(sample_scene(rng), rng, detail=float(rng.random()))
        read = facts_of(caption.text)
        assert read is not None, caption.text
        assert one_order(read) == one_order(caption.facts), caption.text


@pytest.mark.parametrize("path", sorted(p for p in SAMPLE.glob("*.jsonl") if "questions" not in p.name), ids=str)
def test_every_prompt_of_the_sample_suites_is_read(path):
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        read = facts_of(row["text"])
        assert read is not None, row["text"]
        if "facts" in row:
            assert one_order(read) == one_order(facts_from_json(row["facts"])), row["text"]


@pytest.mark.parametrize(
    "text",
    ["", "a red circle and", "a red dog", "a red circle on the moon", "two circles left of a square", "red circle",
     "a circle a square", "a plain small circle"],
)  # fmt: skip
def test_what_is_no_caption_is_not_half_read(text):
    assert facts_of(text) is None
