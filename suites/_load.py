"""From a suite's card and prompt files to a `Suite`: the plumbing that all of them share."""

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
from bench.core.seeds import derive_seed
from bench.core.types import Prompt, Question, SamplerSpec, Scale, Scorer, Suite, SuiteSpec
from suites._card import HERE, card, files, settings
from suites._files import ENVIRONMENT, Published, Row, data_root, read
from suites._text import RULE, clean, leaks, refuse_leaks
from suites._train import DEFAULT, file_prompts, is_file, list_prompts

Build = Callable[[str, list[Row]], list[Prompt]]
"""A suite's own part: (key of the file, its rows) → prompts with raw texts and tags, in official order."""


def load(
    name: str, build: Build, edition: str = "sample", variant: str = "", data_dir: Path | None = None,
    limit: int | None = None, train_list: str = "",
) -> Suite:  # fmt: skip
    """The suite ``name`` of that edition and variant, ready to run.

    Args:
        build: turns the rows of a published file into prompts.
        data_dir: folder of published files, for full editions; None is ``TUNEBENCH_DATA``.
        limit: take only the first so many evaluation prompts; training prompts are not affected.
        train_list: training prompts in place of the suite's own: the name of a published list, or a file.

    Raises:
        UserError: unknown edition, variant or list, missing or wrong data, limit below 1, a chosen file of training
            prompts that holds evaluation prompts.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}", valid="a number of prompts, at least 1", hint="--limit 64")
    variant, table = settings(name, edition, variant)
    questions: tuple[Question, ...] = ()
    train: tuple[Prompt, ...] | None = None
    notes: list[str]
    if edition == "sample":
        prompts, train, questions, notes = _sample(name)
    else:
        prompts, notes = _published(name, build, table, data_dir)
        if "split" in table:
            prompts, train, note = _split(name, table, prompts)
            notes.append(note)
    if train is None or train_list:
        train, train_notes = _training(train_list or table.get("train", DEFAULT), data_dir, prompts)
        notes += train_notes
    notes += table.get("notes", ())
    if limit is not None and limit >= len(prompts):
        limit = None  # nothing is cut off, so it is the same suite with the same identity
    if limit is not None:
        notes.append(f"limited to the first {limit:,} of {len(prompts):,} prompts: never ranked")
        prompts = prompts[:limit]
        kept = {prompt.id for prompt in prompts}
        questions = tuple(q for q in questions if q.prompt_id in kept)
    spec = _spec(name, edition, variant, table, prompts, train, questions, limit)
    scorers = tuple(Scorer(**entry) for entry in table.get("scorers", ()))
    return Suite(spec, prompts, train, questions, tuple(notes), scorers, _scale(table), train_list)


def _scale(table: Mapping[str, Any]) -> Scale | None:
    found = table.get("scale")
    if found is None:
        return None
    return Scale(Budget.from_json(found["budget"]), found["source"], found["reward"], tuple(found["metrics"]))


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


def _sample(name: str) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...], tuple[Question, ...], list[str]]:
    """The embedded prompts, made by ``python -m suites.build_sample``."""
    # rows also hold the facts that a prompt states, which no run needs
    prompts = tuple(Prompt(row["id"], row["text"], row["tags"]) for row in _jsonl(name))
    train = tuple(Prompt(**row) for row in _jsonl(f"{name}.train"))
    questions = tuple(Question(**{**row, "choices": tuple(row["choices"])}) for row in _jsonl(f"{name}.questions"))
    notes = [_distinct(prompts), "no model of the tiny world was trained on the combinations that these prompts name"]
    return prompts, train, questions, notes


def _jsonl(stem: str) -> list[dict[str, Any]]:
    text = (HERE / "sample" / f"{stem}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


# -------------------------------------------------------------------------------------------------------- full edition


def _published(
    name: str, build: Build, table: Mapping[str, Any], data_dir: Path | None
) -> tuple[tuple[Prompt, ...], list[str]]:
    """The evaluation prompts of a full edition, and what the record must say of them."""
    root = _root(f"the full edition of {name} reads published prompt files", data_dir)
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
    for tag, key in table.get("labels", {}).items():
        raw = _labelled(raw, tag, read(known[key], root))
    prompts = tuple(replace(prompt, text=clean(prompt.text)) for prompt in raw)
    n_changed = sum(a.text != b.text for a, b in zip(raw, prompts, strict=True))
    notes.append(f"text rule {RULE}: changed {n_changed:,} of {len(prompts):,} prompts")
    notes.append(_distinct(prompts))
    return prompts, notes


def _root(why: str, data_dir: Path | None) -> Path:
    root = data_root(data_dir)
    hint = f"bench data status --data DIR (or {ENVIRONMENT}=DIR), or --edition sample, which needs no data"
    if root is None:
        raise UserError(f"{why}, and no data folder is given", valid=f"--data DIR or {ENVIRONMENT}=DIR", hint=hint)
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


def _labelled(prompts: Sequence[Prompt], tag: str, rows: Sequence[Row]) -> list[Prompt]:
    """The prompts with the labels that name their numbers as one more tag, in the order of the label file."""
    of: dict[int, list[str]] = {}
    for row in rows:
        for number in row["numbers"].split():
            of.setdefault(int(number), []).append(row["label"])
    return [replace(p, tags={**p.tags, tag: ", ".join(of[int(p.id)])}) if int(p.id) in of else p for p in prompts]


def _split(
    name: str, table: Mapping[str, Any], prompts: Sequence[Prompt]
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...], str]:
    """(evaluation prompts, training prompts, what to say): a share of the list trains, the others evaluate.

    Prompts are ranked by a number derived from seed and id, so the same seed draws the same split everywhere.
    """
    seed = table["seed"]
    drawn = sorted(prompts, key=lambda prompt: derive_seed(seed, f"{name}-split", prompt=prompt.id))
    trains = {prompt.id for prompt in drawn[: round(table["split"] * len(prompts))]}
    evaluated = tuple(prompt for prompt in prompts if prompt.id not in trains)
    train = tuple(prompt for prompt in prompts if prompt.id in trains)
    leaked = {leak.train_id for leak in leaks(train, evaluated)}
    note = f"split drawn by us with seed {seed}: {len(train):,} prompts train, {len(evaluated):,} evaluate"
    return evaluated, tuple(prompt for prompt in train if prompt.id not in leaked), note


def _training(
    train_list: str, data_dir: Path | None, prompts: Sequence[Prompt]
) -> tuple[tuple[Prompt, ...], list[str]]:
    """The training prompts of a published list without the evaluation prompts, or of a file, which may hold none."""
    if is_file(train_list):
        train, note = file_prompts(Path(train_list))
        refuse_leaks(train, prompts)
        return tuple(train), [note]
    train, note = list_prompts(train_list, lambda: _root(f"the training list {train_list} is read", data_dir))
    found = leaks(train, prompts)
    leaked = {leak.train_id for leak in found}
    n_literal = sum(leak.literal for leak in found)
    removed = f"removed {len(found):,} training prompts that are evaluation prompts ({n_literal:,} of them literally)"
    left = tuple(prompt for prompt in train if prompt.id not in leaked)
    if not left:
        raise UserError(
            f"the training list {train_list} holds nothing but evaluation prompts: {len(found):,}, {n_literal:,} of "
            "them literally",
            valid="training prompts that are not in the evaluation list",
            hint="bench list train-lists",
        )
    return left, [note, removed]


def _distinct(prompts: Sequence[Prompt]) -> str:
    return f"{len(prompts):,} prompts, {len({prompt.text for prompt in prompts}):,} distinct; duplicates are kept"
