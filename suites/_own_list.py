"""A user's own file of prompts, in the forms in which people keep them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from suites._dialects import parquet

COLUMNS = ("prompt", "prompts", "text", "caption")
"""What a column of prompts is called, in order of preference; case does not count."""


def file_texts(path: Path) -> list[str]:
    """The prompts of a file as they stand in it, empty ones included.

    Raises:
        UserError: missing, unreadable, or of no known form; says what was found.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(f"{path}: no list of prompts is known by the ending {path.suffix!r}", valid=_FORMS)
    try:
        data = path.expanduser().read_bytes()
    except OSError as err:
        raise UserError(f"{path} cannot be read: {err.strerror}", valid=_FORMS) from err
    try:
        return read(data)
    except UserError:
        raise
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: byte {err.start:,} is not UTF-8", valid=_FORMS) from err
    except (ValueError, csv.Error) as err:
        raise UserError(f"{path}: {err}", valid=_FORMS) from err


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig")


def _lines(data: bytes) -> list[str]:
    text = _text(data).removesuffix("\n")
    return text.split("\n") if text else []


def _json(data: bytes) -> list[str]:
    document = json.loads(_text(data))
    if not isinstance(document, list):
        raise ValueError("it is JSON, but no list")
    return _items(document)


def _json_lines(data: bytes) -> list[str]:
    return _items([json.loads(line) for line in _lines(data) if line.strip()])


def _items(items: Sequence[Any]) -> list[str]:
    """Strings, or the prompts of objects."""
    if not items:
        return []
    if all(isinstance(item, str) for item in items):
        return list(items)
    if not all(isinstance(item, dict) for item in items):
        raise ValueError("its records are neither all texts nor all objects")
    column = _column(list(items[0]))
    for n, item in enumerate(items):
        if not isinstance(item.get(column), str):
            raise ValueError(f"record {n:,} has no text under {column!r}")
    return [item[column] for item in items]


def _table(delimiter: str) -> Callable[[bytes], list[str]]:
    def read(data: bytes) -> list[str]:
        rows = csv.reader(io.StringIO(_text(data), newline=""), delimiter=delimiter, strict=True)
        header = next(rows, [])
        at = header.index(_column(header))
        found = []
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"line {rows.line_num:,} has {len(row)} fields instead of {len(header)}")
            found.append(row[at])
        return found

    return read


def _parquet(data: bytes) -> list[str]:
    for column in COLUMNS:
        rows, trouble = parquet(data, (column,))
        if not trouble:
            return [row[column] for row in rows]
    raise ValueError(trouble)


def _column(header: Sequence[str]) -> str:
    spelled = {name.lower(): name for name in reversed(header)}
    for name in COLUMNS:
        if name in spelled:
            return spelled[name]
    raise ValueError(f"none of its columns ({', '.join(header[:8])}) is called {', '.join(COLUMNS)}")


_READERS: Mapping[str, Callable[[bytes], list[str]]] = {
    ".txt": _lines, ".json": _json, ".jsonl": _json_lines, ".csv": _table(","), ".tsv": _table("\t"),
    ".parquet": _parquet,
}  # fmt: skip

SUFFIXES = tuple(_READERS)
"""Endings that a list of prompts may have."""

_FORMS = (
    f"a file ending in {', '.join(SUFFIXES)}: one prompt a line, JSON texts or objects, or a table, with a column "
    f"called {', '.join(COLUMNS)}"
)
