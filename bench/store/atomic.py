"""Writing so that a reader, or a crash, never sees half a file: temporary name, flush, rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.identity import plain

TEMPORARY = ".tmp-"
"""Prefix of files and folders in the making; leftovers of a crash are removed by ``sweep``."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a quota or a read-only folder into one sentence that says what is safe."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"the disk is full: could not write {path} ({err.strerror})",
                valid="everything written before this is intact",
                hint="free some space and run the same command again: it continues",
            ) from err
        if err.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(
                f"cannot write {path}: {err.strerror}", hint="--runs DIR with a folder you may write to"
            ) from err
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path``; afterwards the file is whole on disk or as it was before.

    Raises:
        UserError: full disk, missing permission.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            Path(name).chmod(0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with sorted keys; NaN is refused."""
    write_text(path, json.dumps(plain(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    lines = [json.dumps(plain(row), sort_keys=True, ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))


def read_json(path: Path) -> Any:
    """The value in ``path``. Raises UserError naming the file when it is no JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise UserError(f"{path} is damaged: {err}", hint=f"move {path} away and run the same command again") from err


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects in ``path``, one a line."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise UserError(f"{path} is damaged: {err}", hint=f"move {path} away and run the same command again") from err


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under ``path`` only when the block ends well; an older one of that name is replaced."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
        making.chmod(0o755)
        try:
            yield making
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
                os.replace(path, old / "old")
                os.replace(making, path)
                shutil.rmtree(old)
            else:
                os.replace(making, path)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise


def sweep(folder: Path) -> None:
    """Removes what a killed process left half made, anywhere under ``folder``. Call it under the folder's lock."""
    for path in sorted(folder.rglob(f"{TEMPORARY}*"), reverse=True):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
