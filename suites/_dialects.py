"""The dialects of published prompt files: text or bytes → rows, with the first thing that is not as it should be."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.core.errors import UserError

Row = dict[str, str]
"""One record of a file: column name to text, as published (nothing stripped)."""

Reader = Callable[[str, tuple[str, ...]], tuple[list[Row], str]]
"""(text, columns) → (good rows, the first bad thing or "")."""

PARQUET = "parquet"
"""The one dialect that is no text; read by `parquet`."""


def _lines(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """One prompt a line. Split at LF alone: ``str.splitlines`` also splits at characters that prompts may hold."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return [{"text": line} for line in lines], ""


def _lines_crlf(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """One prompt a line, lines end in CR LF (T2I-CompBench's older lists)."""
    # a file whose line ends were converted has another digest, which says so
    return [{"text": row["text"].removesuffix("\r")} for row in _lines(text, ())[0]], ""


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


def _json_lines(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """One JSON object that has ``columns`` a line (GenEval); what is no text is kept as JSON."""
    rows: list[Row] = []
    for n, line in enumerate(_lines(text, ())[0], 1):
        item, trouble = _json(line["text"])
        row = None if trouble else _fields(item, columns)
        if row is None:
            return rows, f"line {n:,} is not of the published form: {line['text'][:60]!r}"
        rows.append(row)
    return rows, ""


def _json_texts(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """A JSON object of name to text (DPG-Bench): rows of ``name`` and ``text``."""
    return _pairs(text, lambda name, item: {"name": name, "text": item} if isinstance(item, str) else None)


def _json_records(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """A JSON object of name to an object that has ``columns`` (GenAI-Bench): rows of ``name`` and the columns."""

    def row_of(name: str, item: Any) -> Row | None:
        fields = _fields(item, columns)
        return None if fields is None else {"name": name, **fields}

    return _pairs(text, row_of)


def _json_numbers(text: str, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """A JSON object of label to a list of prompt numbers (GenAI-Bench's skills): rows of ``label`` and ``numbers``."""

    def row_of(label: str, item: Any) -> Row | None:
        whole = isinstance(item, list) and all(isinstance(number, int) for number in item)
        return {"label": label, "numbers": " ".join(map(str, item))} if whole else None

    return _pairs(text, row_of)


def _pairs(text: str, row_of: Callable[[str, Any], Row | None]) -> tuple[list[Row], str]:
    document, trouble = _json(text)
    if not trouble and not isinstance(document, dict):
        trouble = "it is JSON, but no object of names"
    return _items(list(document.items()) if not trouble else None, trouble, lambda pair: row_of(*pair))


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
    return {c: item[c] if isinstance(item[c], str) else json.dumps(item[c], ensure_ascii=False) for c in columns}


def parquet(data: bytes, columns: tuple[str, ...]) -> tuple[list[Row], str]:
    """The ``columns`` of a Parquet table (DiffusionDB), through pandas; rows without a text are left out.

    Raises:
        UserError: pandas has nothing to read Parquet with.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(io.BytesIO(data))
    except ImportError as err:
        raise UserError(
            "reading a Parquet table needs pyarrow, which is not installed",
            valid="pyarrow, or the same prompts as JSON lines, CSV or text: --train-list FILE",
            hint="pip install pyarrow",
        ) from err
    except (ValueError, OSError) as err:
        return [], f"not a Parquet table: {str(err).splitlines()[0]}"
    absent = [column for column in columns if column not in table.columns]
    if absent:
        return [], f"the table has no column {absent[0]!r} but {', '.join(map(str, table.columns[:8]))}"
    kept: Iterable[Any] = table[list(columns)].dropna().itertuples(index=False, name=None)
    return [dict(zip(columns, map(str, row), strict=True)) for row in kept], ""


DIALECTS: Mapping[str, Reader] = {
    "lines": _lines,
    "lines-crlf": _lines_crlf,
    "tsv": _tsv,
    "tsv-quoted": _tsv_quoted,
    "csv": _csv,
    "json-strings": _json_strings,
    "json-objects": _json_objects,
    "json-lines": _json_lines,
    "json-texts": _json_texts,
    "json-records": _json_records,
    "json-numbers": _json_numbers,
    "coco-captions": _coco_captions,
}
"""Name of a dialect to its reader."""
