"""From a suite's card and prompt files to a `Suite`: the plumbing that all six share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core.budget import Budget
from bench.core.errors import UserError
from bench.core.identity import digest
from bench.core.types import Prompt, Question, SamplerSpec, Suite, SuiteSpec
from suites._card import HERE, card, files, settings
from suites._files import ENVIRONMENT, Published, Row, data_root, read
from suites._text import RULE, clean, leaks
from suites._train import refl_prompts

Build = Callable[[str, list[Row]], list[Prompt]]
"""A suite's own part: (key of the file, its rows) → prompts with raw texts and tags, in official order."""


def load(
    name: str, build: Build, edition: str = "sample", variant: str = "", data_dir: Path | None = None,
    limit: int | None = None,
) -> Suite:  # fmt: skip
    """The suite ``name`` of that edition and variant, ready to run.

    Args:
        build: turns the rows of a published file into prompts.
        data_dir: folder of published files, for full editions; None is ``TUNEBENCH_DATA``.
        limit: take only the first so many evaluation prompts; training prompts are not affected.

    Raises:
        UserError: unknown edition or variant, missing or wrong data, limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}", valid="a number of prompts, at least 1", hint="--limit 64")
    variant, table = settings(name, edition, variant)
    if edition == "sample":
        prompts, train, questions, notes = _sample(name)
    else:
        prompts, train, notes = _full(name, build, table, data_dir)
        questions = ()
    notes += tuple(table.get("notes", ()))
    if limit is not None and limit >= len(prompts):
        limit = None  # nothing is cut off, so it is the same suite with the same identity
    if limit is not None:
        notes += (f"limited to the first {limit:,} of {len(prompts):,} prompts: never ranked",)
        prompts = prompts[:limit]
        kept = {prompt.id for prompt in prompts}
        questions = tuple(q for q in questions if q.prompt_id in kept)
    spec = _spec(name, edition, variant, table, prompts, train, questions, limit)
    return Suite(spec, prompts, train, questions, notes)


def _spec(
    name: str, edition: str, variant: str, table: Mapping[str, Any], prompts: Sequence[Prompt], train: Sequence[Prompt],
    questions: Sequence[Question], limit: int | None,
) -> SuiteSpec:  # fmt: skip
    return SuiteSpec(
        name=name,
        edition="sample" if edition == "sample" else "full",
        version=table["version"],
        variant=variant,
        title=card(name)["title"],
        source=table["source"],
        licence=table["licence"],
        n_prompts=len(prompts),
        n_train_prompts=len(train),
        prompt_hash=prompt_hash(prompts, questions),
        train_prompt_hash=prompt_hash(train),
        sampler=SamplerSpec(**table["sampler"]),
        train_sampler=SamplerSpec(**table["train_sampler"]),
        global_batch=table["global_batch"],
        budget=Budget.from_json(table["budget"]),
        eval_seeds=tuple(table["eval_seeds"]),
        fractions=tuple(map(float, table["fractions"])),
        metrics=tuple(table["metrics"]),
        reward=table["reward"],
        model=table["model"],
        limit=limit,
    )


def prompt_hash(prompts: Iterable[Prompt], questions: Iterable[Question] = ()) -> str:
    """Digest over ids, texts and questions, in order; tags stay out: no model sees them."""
    return digest({"prompts": [(p.id, p.text) for p in prompts], "questions": list(questions)})


# ------------------------------------------------------------------------------------------------------ sample edition


def _sample(name: str) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...], tuple[Question, ...], tuple[str, ...]]:
    """The embedded prompts, made by ``python -m suites.build_sample``."""
    # rows also hold the facts that a prompt states, which no run needs
    prompts = tuple(Prompt(row["id"], row["text"], row["tags"]) for row in _jsonl(name))
    train = tuple(Prompt(**row) for row in _jsonl(f"{name}.train"))
    questions = tuple(Question(**{**row, "choices": tuple(row["choices"])}) for row in _jsonl(f"{name}.questions"))
    notes = (_distinct(prompts), "no model of the tiny world was trained on the combinations that these prompts name")
    return prompts, train, questions, notes


def _jsonl(stem: str) -> list[dict[str, Any]]:
    text = (HERE / "sample" / f"{stem}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


# -------------------------------------------------------------------------------------------------------- full edition


def _full(
    name: str, build: Build, table: Mapping[str, Any], data_dir: Path | None
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...], tuple[str, ...]]:
    root = _root(name, data_dir)
    known = files(name)
    raw: list[Prompt] = []
    notes: list[str] = []
    for key in table["files"]:
        raw += build(key, read(known[key], root))
        notes.append(_origin(known[key]))
    raw = _select(raw, table)
    if len(raw) != table["n_prompts"]:
        raise UserError(
            f"{name}: {len(raw):,} prompts instead of {table['n_prompts']:,} in {', '.join(table['files'])}",
            valid="the file as published",
            hint=f"bench data status --data {root}",
        )
    prompts = tuple(replace(prompt, text=clean(prompt.text)) for prompt in raw)
    n_changed = sum(a.text != b.text for a, b in zip(raw, prompts, strict=True))
    notes.append(f"text rule {RULE}: changed {n_changed:,} of {len(prompts):,} prompts")
    notes.append(_distinct(prompts))
    train, train_notes = _train(root, prompts)
    return prompts, train, (*notes, *train_notes)


def _root(name: str, data_dir: Path | None) -> Path:
    root = data_root(data_dir)
    hint = f"bench data status --data DIR (or {ENVIRONMENT}=DIR), or --edition sample, which needs no data"
    if root is None:
        raise UserError(f"the full edition of {name} reads published prompt files, and no data folder is given",
                        valid=f"--data DIR or {ENVIRONMENT}=DIR", hint=hint)  # fmt: skip
    if not root.is_dir():
        raise UserError(f"there is no data folder {root}", valid="a folder as 'bench data status' lists it", hint=hint)
    return root


def _origin(file: Published) -> str:
    checked = f"sha256 {file.sha256[:12]}" if file.sha256 else "rows checked, official bytes not known"
    return f"prompts from {file.path} ({checked})"


def _select(prompts: list[Prompt], table: Mapping[str, Any]) -> list[Prompt]:
    """A card's subset rules: ``where`` keeps prompts with those tags, ``first_per`` the first n of each tag value."""
    for tag, value in table.get("where", {}).items():
        prompts = [prompt for prompt in prompts if prompt.tags.get(tag) == value]
    for tag, n in table.get("first_per", {}).items():
        seen: Counter[str] = Counter()
        kept: list[Prompt] = []
        for prompt in prompts:
            seen[prompt.tags[tag]] += 1
            if seen[prompt.tags[tag]] <= n:
                kept.append(prompt)
        prompts = kept
    return prompts


def _train(root: Path, prompts: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], list[str]]:
    """ReFL's list without the evaluation prompts, and what to say about it."""
    train, note = refl_prompts(root)
    found = leaks(train, prompts)
    leaked = {leak.train_id for leak in found}
    n_literal = sum(leak.literal for leak in found)
    removed = f"removed {len(found):,} training prompts that are evaluation prompts ({n_literal:,} of them literally)"
    return tuple(prompt for prompt in train if prompt.id not in leaked), [note, removed]


def _distinct(prompts: Sequence[Prompt]) -> str:
    return f"{len(prompts):,} prompts, {len({prompt.text for prompt in prompts}):,} distinct; duplicates are kept"
