"""The published prompt files: their dialects, and whether a file on disk is the one that was published."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.core.errors import UserError

Row = dict[str, str]
"""One record of a file: column name to text, as published (nothing stripped)."""

State = Literal["found", "missing", "wrong"]

ENVIRONMENT = "TUNEBENCH_DATA"
"""Environment variable with the data folder, for those who do not pass ``--data``."""


@dataclass(frozen=True)
class Published:
    """A prompt file as its owner publishes it."""

    path: str
    """Below the data folder."""
    dialect: str
    """A key of `DIALECTS`."""
    n_rows: int
    url: str
    licence: str
    columns: tuple[str, ...] = ()
    """The header of tables, the needed keys of JSON objects."""
    sha256: str = ""
    """Of the official bytes; "" where they are not known for sure."""
    spots: tuple[tuple[int, str, str], ...] = ()
    """(row, column, text) that must agree: what tells a wrong file where no digest does."""


class DataError(UserError):
    """A published file that is missing or is not what was published."""

    def __init__(self, file: Published, path: Path, state: State, detail: str) -> None:
        super().__init__(
            f"{path}: {detail}",
            valid=f"{file.n_rows:,} rows as published at {file.url} ({file.licence})",
            hint=f"bench data status --data {path.parents[file.path.count('/')]}",
        )
        self.state = state
        self.detail = detail


def data_root(data_dir: Path | None) -> Path | None:
    """The folder of published files: what was passed, else ``TUNEBENCH_DATA``, else None."""
    if data_dir is None and os.environ.get(ENVIRONMENT):
        data_dir = Path(os.environ[ENVIRONMENT])
    return None if data_dir is None else data_dir.expanduser()


def read(file: Published, root: Path) -> list[Row]:
    """All rows of ``file`` below ``root``, checked against everything that is known of it.

    Raises:
        DataError: missing; or wrong, with the rows found and the first bad thing.
    """
    path = root / file.path
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(file, path, "missing", "there is no such file") from None
    except OSError as err:
        raise DataError(file, path, "wrong", f"it cannot be read: {err.strerror}") from err
    rows, trouble = _parse(file, data)
    if len(rows) != file.n_rows:
        first = f"; first bad thing: {trouble}" if trouble else ""
        trouble = f"{len(rows):,} good rows instead of {file.n_rows:,}{first}"
    trouble = trouble or _first_wrong_spot(file, rows) or _wrong_bytes(file, data)
    if trouble:
        raise DataError(file, path, "wrong", trouble)
    return rows


def _parse(file: Published, data: bytes) -> tuple[list[Row], str]:
    """(good rows, the first bad thing or "")."""
    # utf-8-sig also takes files without a byte-order mark
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        return [], f"byte {err.start:,} is not UTF-8"
    start = text[:200].lstrip().lower()
    if start.startswith(("<!doctype", "<html")):
        return [], "it is a web page, not the file itself (take the raw file)"
    if start.startswith("version https://git-lfs"):
        return [], "it is a Git LFS pointer, not the file itself (git lfs pull)"
    return DIALECTS[file.dialect](text, file.columns)


def _first_wrong_spot(file: Published, rows: list[Row]) -> str:
    for i, column, expected in file.spots:
        if rows[i][column] != expected:
            found = rows[i][column]
            return f"row {i:,} reads {found[:60]!r} instead of {expected[:60]!r}: another list, or an edited copy"
    return ""


def _wrong_bytes(file: Published, data: bytes) -> str:
    found = hashlib.sha256(data).hexdigest()
    if not file.sha256 or found == file.sha256:
        return ""
    lf = data.replace(b"\r\n", b"\n")
    converted = {hashlib.sha256(lf).hexdigest(), hashlib.sha256(lf.replace(b"\n", b"\r\n")).hexdigest()}
    why = (
        "its line ends were converted"
        if file.sha256 in converted
        else "its text or some of its line ends are other ones"
    )
    return f"all {file.n_rows:,} rows are there, but {why} (sha256 {found[:12]}… instead of {file.sha256[:12]}…)"


# ------------------------------------------------------------------------------------- dialects: text → (rows, trouble)


def _lines(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """One prompt a line. Split at LF alone: ``str.splitlines`` also splits at characters that prompts may hold."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return [{"text": line} for line in lines], ""


def _tsv(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """Tab-separated without any quoting: a quotation mark is a character of the prompt (PartiPrompts)."""
    lines = [row["text"] for row in _lines(text, ())[0]]
    return _table([(n, line.split("\t")) for n, line in enumerate(lines, 1)], columns, "")


def _tsv_quoted(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """Tab-separated with the quoting of CSV (MLPerf)."""
    return _quoted(text, columns, "\t")


def _csv(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """Comma-separated; quoted fields may hold line breaks, so lines are not records (ViLG-300, ESD)."""
    return _quoted(text, columns, ",")


def _quoted(text: str, columns: tuple[str, ...], delimiter: str) -> tuple[list[Row], str]:
    # newline="" keeps CRLF inside quotes as it is published
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[tuple[int, list[str]]] = []
    trouble = ""
    try:
        for record in reader:
            records.append((reader.line_num, record))
    except csv.Error as err:
        trouble = f"line {reader.line_num:,}: {err}"
    return _table(records, columns, trouble)


def _table(records: list[tuple[int, list[str]]], columns: tuple[str, ...], trouble: str) -> tuple[list[Row], str]:
    """Rows under the header ``columns``; records are (line number, fields)."""
    if not records or tuple(records[0][1]) != columns:
        header = records[0][1][:8] if records else []
        return [], f"the header is {header} instead of {list(columns)}"
    rows: list[Row] = []
    for n, fields in records[1:]:
        if len(fields) == len(columns):
            rows.append(dict(zip(columns, fields, strict=True)))
        else:
            # the first line that is not a record comes before whatever ended the reading
            return rows, f"line {n:,} has {len(fields)} fields instead of {len(columns)}: {' | '.join(fields)[:60]!r}"
    return rows, trouble


def _json_strings(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """A JSON list of strings (HPSv2); strings may hold line breaks."""
    document, trouble = _json(text)
    return _items(document, trouble, lambda item: {"text": item} if isinstance(item, str) else None)


def _json_objects(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """A JSON list of objects that have ``columns`` (ReFL)."""
    document, trouble = _json(text)
    return _items(document, trouble, lambda item: _fields(item, columns))


def _coco_captions(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """The annotations of COCO's caption JSON, in file order."""
    document, trouble = _json(text)
    if not trouble and not isinstance(document, dict):
        trouble = "it is JSON, but no COCO caption file (an object with 'annotations')"
    annotations = document.get("annotations") if isinstance(document, dict) else None
    return _items(annotations, trouble, lambda item: _fields(item, columns))


def _json(text: str) -> tuple[Any, str]:
    try:
        return json.loads(text), ""
    except json.JSONDecodeError as err:
        return None, f"not JSON at line {err.lineno:,} column {err.colno:,}: {err.msg}"


def _items(document: Any, trouble: str, row_of: Callable[[Any], Row | None]) -> tuple[list[Row], str]:
    if trouble or not isinstance(document, list):
        return [], trouble or "there is no list of records in it"
    rows: list[Row] = []
    for i, item in enumerate(document):
        row = row_of(item)
        if row is None:
            return rows, f"record {i:,} is not of the published form: {json.dumps(item, ensure_ascii=False)[:60]}"
        rows.append(row)
    return rows, ""


def _fields(item: Any, columns: tuple[str, ...]) -> Row | None:
    if not isinstance(item, dict) or any(c not in item for c in columns):
        return None
    return {c: str(item[c]) for c in columns}


DIALECTS: Mapping[str, Callable[[str, tuple[str, ...]], tuple[list[Row], str]]] = {
    "lines": _lines,
    "tsv": _tsv,
    "tsv-quoted": _tsv_quoted,
    "csv": _csv,
    "json-strings": _json_strings,
    "json-objects": _json_objects,
    "coco-captions": _coco_captions,
}
"""Name of a dialect to its reader: (text, columns) → (good rows, the first bad thing or "")."""
