"""The state of the data folder: which published files are there, missing or wrong, and what to do about each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from suites._card import card, files, names
from suites._files import ENVIRONMENT, DataError, Published, State, data_root, read
from suites._train import REFL


@dataclass(frozen=True)
class DataFile:
    """One published file, as ``bench data status`` shows it."""

    suite: str
    """The suite that reads it; "all" for the training prompts of every full edition."""
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
    """As published."""
    todo: str
    """What to do next; "" when nothing is."""


def status(data_dir: Path | None = None) -> list[DataFile]:
    """Every published file of every suite, read and checked; None looks into ``TUNEBENCH_DATA``."""
    root = data_root(data_dir)
    found = [_state(REFL, root, "all", "training prompts")]
    for name in names():
        for key, file in files(name).items():
            found.append(_state(file, root, name, ", ".join(_readers(name, key))))
    return found


def _readers(name: str, key: str) -> list[str]:
    """The variants that read a file; a variant without files of its own reads those of the default."""
    full = card(name)["full"]
    tables = {"default": full, **full.get("variants", {})}
    return [variant for variant, table in tables.items() if key in table.get("files", full["files"])]


def _state(file: Published, root: Path | None, suite: str, variant: str) -> DataFile:
    def answer(path: str, state: State, detail: str, todo: str) -> DataFile:
        return DataFile(suite, variant, path, state, detail, file.url, file.licence, file.n_rows, todo)

    if root is None:
        return answer(file.path, "missing", "no data folder is given", f"--data DIR or {ENVIRONMENT}=DIR")
    path = root / file.path
    try:
        read(file, root)
    except DataError as err:
        return answer(str(path), err.state, err.detail, _fetch(file, path, err.state))
    checked = "digest as published" if file.sha256 else "the official digest is not known"
    return answer(str(path), "found", f"{file.n_rows:,} rows; {checked}", "")


def _fetch(file: Published, path: Path, state: State) -> str:
    again = " again" if state == "wrong" else ""
    how = f"and put its {path.name} at" if file.url.endswith(".zip") else "to"
    return f"download {file.url}{again} {how} {path}"
