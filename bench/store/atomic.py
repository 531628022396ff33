"""Writing so that a reader, or a crash, never sees half a file: temporary name, flush, rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from bench.core.errors import UserError
from bench.core.identity import plain

TEMPORARY = ".tmp-"
"""Prefix of files and folders in the making; leftovers of a crash are removed by ``sweep``."""

_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


class Staging(ABC):
    """Held (``with``), it lends its folder for every change of what it covers: new files are renamed out of it and old
    ones into it, so that whoever takes the folder away ends all changes. See ``bench.store.fence``."""

    staging: Path
    _held: ClassVar[list[Staging]] = []

    @abstractmethod
    def covers(self, path: Path) -> bool: ...

    @abstractmethod
    def check(self) -> None:
        """Raises what ``gone`` returns when the folder is no longer there."""

    @abstractmethod
    def gone(self) -> Exception: ...

    def __enter__(self) -> None:
        self._held.append(self)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._held.remove(self)


@contextmanager
def _place(path: Path) -> Iterator[Path]:
    """The folder in which the next contents of ``path`` are made."""
    for held in Staging._held:
        if held.covers(path):
            held.check()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                yield held.staging
            except OSError as err:
                if err.errno in _GONE and not held.staging.is_dir():
                    raise held.gone() from err
                raise
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path.parent


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


def write_bytes(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Writes ``data`` to ``path``; afterwards the file is whole on disk or as it was before.

    Args:
        flush: False where a reader knows a damaged file, and makes it again: the machine's end may then leave one.

    Raises:
        UserError: full disk, missing permission.
    """
    with _whole(path, data, flush) as made:
        os.replace(made, path)


def write_new(path: Path, data: bytes) -> None:
    """``write_bytes`` where there is no such file; one that is there stays, whoever put it there and when."""
    with _whole(path, data) as made:
        try:
            os.link(made, path)
        except FileExistsError:
            pass
        except OSError as err:
            if err.errno in _GONE:
                raise
            # a file system without hard links
            if not path.exists():
                os.replace(made, path)


@contextmanager
def _whole(path: Path, data: bytes, flush: bool = True) -> Iterator[Path]:
    """A file with ``data`` under a temporary name beside ``path``, removed after the block if still there."""
    with disk_errors(path), _place(path) as place:
        fd, name = tempfile.mkstemp(prefix=TEMPORARY, dir=place)
        made = Path(name)
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data)
                f.flush()
                if flush:
                    os.fsync(f.fileno())
            made.chmod(0o644)
            yield made
        finally:
            made.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """``json_text`` to a file."""
    write_text(path, json_text(value))


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """``jsonl_text`` to a file."""
    write_text(path, jsonl_text(rows))


def json_text(value: Any) -> str:
    """Indented JSON with sorted keys; NaN is refused."""
    return json.dumps(plain(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def jsonl_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    lines = [json.dumps(plain(row), sort_keys=True, ensure_ascii=False, allow_nan=False) for row in rows]
    return "".join(line + "\n" for line in lines)


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
    with disk_errors(path), _place(path) as place:
        making = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=place))
        making.chmod(0o755)
        try:
            yield making
            remove(path)
            os.replace(making, path)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise


def remove(path: Path) -> None:
    """Removes a file or folder so that no reader sees half of it; nothing happens where there is none."""
    with disk_errors(path), _place(path) as place:
        old = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=place))
        try:
            if path.exists():
                os.replace(path, old / "old")
        finally:
            shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what a killed process left half made, anywhere under ``folder``. Call it under the folder's lock."""
    for path in sorted(folder.rglob(f"{TEMPORARY}*"), reverse=True):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
