"""DRTune's object removal: the prompts' form, disjoint lists, DRTune's protocol."""

from __future__ import annotations

import re

import pytest

from bench.core import registry
from bench.core.errors import UserError
from suites import leaks
from suites.books import suite


def test_every_prompt_is_a_concept_and_books() -> None:
    books = suite()
    assert registry.load("suites", "books") is suite
    for prompts in (books.prompts, books.train_prompts):
        assert len(prompts) == len({p.id for p in prompts}) == len({p.text for p in prompts}) == 48
        assert all(re.fullmatch(r"an? [a-z ]+, and books\.", p.text) for p in prompts)
        assert {p.tags["kind"] for p in prompts} == {"animal", "place", "person", "thing"}
    assert [p.text for p in books.prompts if p.id in ("owl", "lion")] == ["a lion, and books.", "an owl, and books."]
    assert not leaks(books.train_prompts, books.prompts)
    assert not {p.text for p in books.prompts} & {p.text for p in books.train_prompts}


def test_the_protocol_is_drtunes() -> None:
    spec = suite().spec
    assert (spec.id, spec.reward, spec.model, spec.global_batch) == ("books-full@1", "objectness", "sd15", 32)
    assert (spec.train_sampler.scheduler, spec.train_sampler.n_steps, spec.train_sampler.guidance) == ("ddpm", 50, 7.5)
    assert spec.budget.limit("device_s") == 8 * 3600


def test_a_limit_is_a_smoke_test_and_other_editions_are_refused() -> None:
    assert suite(limit=5).spec.limit == len(suite(limit=5).prompts) == 5
    assert suite(limit=48).spec == suite().spec
    for wrong in ({"edition": "sample"}, {"variant": "cats"}, {"limit": 0}):
        with pytest.raises(UserError):
            suite(**wrong)  # type: ignore[arg-type]
