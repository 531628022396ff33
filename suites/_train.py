"""Training prompts: the published lists of ``training.toml``, or a file of the user's own."""

from __future__ import annotations

import functools
import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.core.errors import UserError, unknown_name
from bench.core.types import Prompt
from suites._card import HERE, published
from suites._dialects import Row
from suites._files import Published, read
from suites._own_list import SUFFIXES, file_texts
from suites._text import clean

DEFAULT = "refl"
"""The list of full editions whose card names none."""


@dataclass(frozen=True)
class TrainList:
    """A published list of training prompts."""

    name: str
    title: str
    used_by: str
    column: str
    """Of the prompt, in every file."""
    files: tuple[Published, ...]
    """In order; ids are positions in them, one after the other."""
    instead: tuple[Published, ...] = field(default=())
    """Other forms of the only file; the first that is there is read where the file is not."""
    take: int = 0
    """Only so many of the distinct prompts, those of the smallest SHA-256; 0 takes all."""
    notes: tuple[str, ...] = ()


@functools.cache
def lists() -> dict[str, TrainList]:
    """Every published list, by name."""
    found = tomllib.loads((HERE / "training.toml").read_text("utf-8"))
    return {name: _list(name, dict(entry)) for name, entry in found.items()}


def _list(name: str, entry: dict[str, object]) -> TrainList:
    for key in ("files", "instead"):
        entry[key] = tuple(published(file) for file in entry.get(key, ()))  # type: ignore[attr-defined]
    return TrainList(name, **{**entry, "notes": tuple(entry.get("notes", ()))})  # type: ignore[arg-type]


def find_list(name: str) -> TrainList:
    """The list of that name. Raises UserError with the closest names."""
    if name not in lists():
        error = unknown_name("training list", name, lists(), "bench list train-lists")
        raise UserError(error.problem, valid=f"{error.valid}, or a file ({', '.join(SUFFIXES)})", hint=error.hint)
    return lists()[name]


def list_prompts(name: str, root: Callable[[], Path]) -> tuple[list[Prompt], str]:
    """(the distinct prompts of a published list, what the record says of it); ids are rows of its files.

    The text rule may make some more of them equal; they stay, so that the number is the one that everybody counts.

    Args:
        root: the data folder, asked for once the name is known to be right.
    """
    chosen = find_list(name)
    rows = [row[chosen.column] for row in _rows(chosen, root())]
    first: dict[str, int] = {}
    for i, text in enumerate(rows):
        first.setdefault(text, i)
    n_distinct = len(first)
    if chosen.take and chosen.take < n_distinct:
        taken = set(sorted(first, key=lambda text: hashlib.sha256(text.encode()).digest())[: chosen.take])
        first = {text: i for text, i in first.items() if text in taken}
    prompts = [Prompt(f"{name}-{i:05d}", clean(text)) for text, i in first.items() if text.strip()]
    return prompts, _note(chosen, prompts, len(rows), n_distinct, len(first) - len(prompts))


def _rows(chosen: TrainList, root: Path) -> list[Row]:
    files = chosen.files
    if not (root / files[0].path).exists():
        files = next(((file,) for file in chosen.instead if (root / file.path).exists()), files)
    return [row for file in files for row in read(file, root)]


def _note(chosen: TrainList, prompts: list[Prompt], n_rows: int, n_distinct: int, n_empty: int) -> str:
    n_clean = len({prompt.text for prompt in prompts})
    where = chosen.files[0].path if len(chosen.files) == 1 else f"{len(chosen.files)} files"
    parts = [
        f"training prompts: {chosen.title} ({where}), {n_distinct:,} distinct of {n_rows:,} rows",
        f"({n_clean:,} distinct once stripped)",
    ]
    if n_empty:
        parts.append(f"without {n_empty:,} that is empty")
    if chosen.take and chosen.take < n_distinct:
        parts.append(f"of which the {chosen.take:,} of the smallest SHA-256")
    return " ".join(parts)


def is_file(train_list: str) -> bool:
    """Whether a list is named by its file: it has a path or one of the known endings."""
    return "/" in train_list or Path(train_list).suffix.lower() in SUFFIXES


def file_prompts(path: Path) -> tuple[list[Prompt], str]:
    """(the distinct prompts of a user's file in their order, what the record says of it); ids are positions in it.

    Raises:
        UserError: missing, of no known form, or without prompts.
    """
    texts = file_texts(path)
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        if cleaned := clean(text):
            first.setdefault(cleaned, i)
    if not first:
        raise UserError(f"{path} holds no prompt", valid="at least one prompt", hint="--train-list FILE")
    prompts = [Prompt(f"own-{i:05d}", text) for text, i in first.items()]
    n_empty = sum(not clean(text) for text in texts)
    left_out = f", {n_empty:,} empty ones left out" if n_empty else ""
    return prompts, f"training prompts: {path.name}, {len(prompts):,} distinct of {len(texts):,} rows{left_out}"
