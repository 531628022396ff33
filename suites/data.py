"""The state of the data folder: which published files are there, missing or wrong, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown_name
from suites import resolve
from suites._card import card, files, names, settings
from suites._files import ENVIRONMENT, DataError, Published, State, data_root, read
from suites._train import DEFAULT, find_list, lists

LIST = "--train-list"


@dataclass(frozen=True)
class DataFile:
    """One published file, as ``bench data status`` shows it."""

    suite: str
    """The suite that reads it; "all" for the training prompts of every full edition; else a training list."""
    variant: str
    """What reads it, such as ``default, People``."""
    path: str
    """Where it is looked for; relative to the data folder where none is given."""
    state: State
    detail: str
    """What is right, missing or wrong about it, one sentence."""
    url: str
    licence: str
    n_rows: int
    """As published; 0 where nobody here has counted them."""
    todo: str
    """What to do next; "" when nothing is."""
    needed: bool
    """Whether a suite cannot do without it; a training list that no card names is read where it is asked for."""


@dataclass(frozen=True)
class Wanted:
    """A published file and who reads it."""

    file: Published
    suite: str
    variant: str
    needed: bool = True
    instead: tuple[Published, ...] = ()
    """Other forms of it; the first that is there will do."""


def wanted(chosen: Sequence[str] = ()) -> list[Wanted]:
    """The files of the suites, variants and training lists of those names, each once; of all where none is named.

    Raises:
        UserError: a name that is neither a suite's nor a list's, with the closest ones.
    """
    found = list(_everything() if not chosen else (w for name in chosen for w in _of_name(name)))
    return list({w.file.path: w for w in reversed(found)}.values())[::-1]


def _everything() -> Iterator[Wanted]:
    for list_name in lists():
        yield from _of_list(list_name)
    for name in names():
        for key, file in files(name).items():
            yield Wanted(file, name, ", ".join(_readers(name, key)))


def _of_name(name: str) -> Iterator[Wanted]:
    if name in lists():
        yield from _of_list(name)
        return
    suite, variant = resolve(name)
    if suite not in names():
        raise unknown_name("suite or training list", name, (*names(), *lists()), "bench data status")
    _, table = settings(suite, "full", variant)
    if "split" not in table:
        yield from _of_list(table.get("train", DEFAULT))
    keys = _files_of(table) if variant else list(files(suite))
    for key in keys:
        yield Wanted(files(suite)[key], suite, ", ".join(_readers(suite, key)))


def _of_list(name: str) -> Iterator[Wanted]:
    default = name == DEFAULT
    found = find_list(name)
    for file in found.files:
        reader = "training prompts" if default else LIST
        yield Wanted(file, "all" if default else name, reader, default, found.instead)


def status(data_dir: Path | None = None, chosen: Sequence[str] = ()) -> list[DataFile]:
    """The published files of every suite and list, or of the chosen ones, read and checked; None looks into
    ``TUNEBENCH_DATA``."""
    root = data_root(data_dir)
    return [_state(w, root, chosen=bool(chosen)) for w in wanted(chosen)]


def _readers(name: str, key: str) -> list[str]:
    """The variants that read a file; a variant without files of its own reads those of the default."""
    full = card(name)["full"]
    tables = {"default": full, **{v: {**full, **table} for v, table in full.get("variants", {}).items()}}
    return [variant for variant, table in tables.items() if key in _files_of(table)]


def _files_of(table: Mapping[str, Any]) -> list[str]:
    return [*table["files"], *table.get("labels", {}).values()]


def _state(w: Wanted, root: Path | None, *, chosen: bool) -> DataFile:
    file = w.file

    def answer(path: str, state: State, detail: str, todo: str) -> DataFile:
        needed = w.needed or chosen
        return DataFile(w.suite, w.variant, path, state, detail, file.url, file.licence, file.n_rows, todo, needed)

    if root is None:
        return answer(file.path, "missing", "no data folder is given", f"--data DIR or {ENVIRONMENT}=DIR")
    file = next((form for form in (w.file, *w.instead) if (root / form.path).exists()), w.file)
    path = root / file.path
    try:
        rows = read(file, root)
    except DataError as err:
        return answer(str(path), err.state, err.detail, _todo(w, root, path, err.state))
    except UserError as err:  # nothing here reads the format
        return answer(str(path), "wrong", err.problem, err.hint)
    checked = "digest as published" if file.sha256 else "the official digest is not known"
    counted = "" if file.n_rows else ", how many there should be is not known"
    return answer(str(path), "found", f"{len(rows):,} rows{counted}; {checked}", "")


def _todo(w: Wanted, root: Path, path: Path, state: State) -> str:
    name = DEFAULT if w.suite == "all" else w.suite
    again = " again" if state == "wrong" else ""
    how = f"and put its {w.file.member or path.name} at" if w.file.url.endswith(".zip") else "to"
    return f"bench data fetch {name} --data {root}, or download {w.file.url}{again} {how} {path}"
