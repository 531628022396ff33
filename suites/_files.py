"""The published prompt files, and whether a file on disk is the one that was published."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.core.errors import UserError
from suites._dialects import DIALECTS, PARQUET, Row, parquet

__all__ = ["ENVIRONMENT", "DataError", "Published", "Row", "State", "data_root", "examine", "read"]

State = Literal["found", "missing", "wrong"]

ENVIRONMENT = "TUNEBENCH_DATA"
"""Environment variable with the data folder, for those who do not pass ``--data``."""


@dataclass(frozen=True)
class Published:
    """A prompt file as its owner publishes it."""

    path: str
    """Below the data folder."""
    dialect: str
    """A key of `DIALECTS`, or `PARQUET`."""
    n_rows: int
    """Rows as published; 0 where nobody here has counted them."""
    url: str
    """Of the file itself, or of the zip archive that ``member`` is in."""
    licence: str
    columns: tuple[str, ...] = ()
    """The header of tables, the needed keys of JSON objects."""
    sha256: str = ""
    """Of the official bytes; "" where they are not known for sure."""
    spots: tuple[tuple[int, str, str], ...] = ()
    """(row, column, text) that must agree: what tells a wrong file where no digest does."""
    member: str = ""
    """Its name inside the zip archive at ``url``."""

    @property
    def rows_text(self) -> str:
        return f"{self.n_rows:,} rows" if self.n_rows else "the file"


class DataError(UserError):
    """A published file that is missing or is not what was published."""

    def __init__(self, file: Published, path: Path, state: State, detail: str) -> None:
        super().__init__(
            f"{path}: {detail}",
            valid=f"{file.rows_text} as published at {file.url} ({file.licence})",
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
    rows, trouble = examine(file, data)
    if trouble:
        raise DataError(file, path, "wrong", trouble)
    return rows


def examine(file: Published, data: bytes) -> tuple[list[Row], str]:
    """(rows of a file's bytes, what tells that they are not the published ones or "")."""
    rows, trouble = _parse(file, data)
    if file.n_rows and len(rows) != file.n_rows:
        first = f"; first bad thing: {trouble}" if trouble else ""
        trouble = f"{len(rows):,} good rows instead of {file.n_rows:,}{first}"
    elif not rows:
        trouble = trouble or "there is no row in it"
    return rows, trouble or _first_wrong_spot(file, rows) or _wrong_bytes(file, data)


def _parse(file: Published, data: bytes) -> tuple[list[Row], str]:
    """(good rows, the first bad thing or "")."""
    if file.dialect == PARQUET:
        return parquet(data, file.columns)
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
