"""What commands print: tables for people on standard output, or JSON alone with --json."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.identity import plain

if TYPE_CHECKING:
    from bench.engine.summary import Row


def print_json(value: Any) -> None:
    """``value`` as JSON on standard output."""
    print(json.dumps(plain(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False))


def print_error(err: UserError, *, as_json: bool) -> None:
    """One message on standard error; with --json also an object on standard output."""
    if as_json:
        print_json({"error": {"problem": err.problem, "valid": err.valid, "hint": err.hint}})
    print(f"error: {err}", file=sys.stderr)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns aligned by width; numbers (all but the first column's text) keep the alignment they come with."""
    print("\n".join(table_lines(header, rows)))


def print_results(rows: Sequence[Row], measured: str = "tuned") -> None:
    """The figures of a run as a table, and below it why others are not there.

    Args:
        measured: heads the column beside the base model's.
    """
    from bench.engine.summary import without_value

    cells = [row.cells() for row in rows if not row.error]
    if cells:
        print_table(("metric", "base", measured, "difference", "95 % interval", "role", "n"), cells)
    for line in without_value(rows):
        print(line)


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of ``print_table``."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    return ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [header, *rows]]  # fmt: skip
