"""Reads the records under runs folders; a damaged one is reported and stops nothing.

A record is checked once: what boards need of it is kept under the digest of its bytes. Which digest a file had is kept
with its size and time of change, so that the next build reads the records that are new.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic_core
from pydantic import ValidationError

from bench.core.errors import UserError
from bench.core.identity import canonical_json
from bench.core.record import upgrade
from bench.store import atomic
from leaderboard.program import program
from leaderboard.run import Run, Runs, summary_of

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}")
"""A run id is part of a page's file name, so nothing else may be in it."""
_NO_NUMBER = re.compile(rb"(?<=[\s:,\[])(NaN|-?Infinity)(?=[\s,\]}])")
_AT_ONCE = 50
"""Records that a process takes at one time."""
_N_READERS = 4
"""Threads that read and digest; both leave Python's lock to others."""
_CLOCK_STEP_NS = 2_000_000_000
"""The coarsest step in which file systems keep times."""


@dataclass(frozen=True)
class Unreadable:
    """A record that could not be taken, and why."""

    path: str
    """Relative to the runs folder."""
    reason: str


@dataclass(frozen=True)
class Found:
    """What lies under one or several runs folders."""

    runs: list[Run]
    """By run id."""
    unreadable: list[Unreadable]
    n_checked: int
    """Records that were parsed and checked; the others were known."""


def read_runs(runs_dir: Path) -> tuple[list[Run], list[Unreadable]]:
    """Every record under ``runs_dir``, by run id, and the ones that could not be read."""
    found = read_all([runs_dir])
    return found.runs, found.unreadable


def read_all(roots: Sequence[Path], cache: Path | None = None, workers: Executor | None = None) -> Found:
    """Every record under ``roots``, which are joined by run id.

    Args:
        cache: folder of what earlier builds learnt; safe to delete.
        workers: processes that check records; here otherwise.
    """
    places = [(root, path) for root in roots for path in _record_paths(root)]
    memory, stamps = _Memory(cache), _Stamps(cache)
    known_by_path = stamps.digests_of([path for _, path in places])
    unknown = [path for _, path in places if memory.get(known_by_path[path]) is None]
    checked = dict(zip(unknown, _check_all(unknown, workers), strict=True))
    runs: dict[str, Run] = {}
    unreadable: list[Unreadable] = []
    make = Runs()
    for root, path in places:
        where = path[len(os.fspath(root)) + 1 :]
        known = known_by_path[path]
        digest, body, problem = checked.get(path) or (known, memory.get(known), "")
        try:
            if body is None:
                raise UserError(problem)
            summary = pydantic_core.from_json(body, cache_strings="all")
            run = make.run(root, Path(os.path.dirname(path)), digest, summary)
            if not _RUN_ID.fullmatch(run.run_id):
                raise UserError(f"{run.run_id!r} is no run id", valid="letters, digits, '-', '_', '.'")
        except (UserError, KeyError, ValueError, TypeError, AttributeError) as err:
            # Hand-made JSON can be of any shape: whatever it trips over is that file's fault, not the site's.
            reason = err.problem if isinstance(err, UserError) else f"{type(err).__name__}: {err}"
            reason = reason.replace(path, "it").replace(f"{root}/", "")
            unreadable.append(Unreadable(where, " ".join(reason.split())))
            continue
        memory.keep(digest, body)
        first = runs.setdefault(run.run_id, run)
        if first.digest != digest and not _same(first.folder / "record.json", Path(path)):
            shown = first.folder.relative_to(first.root).as_posix()
            more = f" of {first.root.name}" if first.root != root else ""
            unreadable.append(Unreadable(where, f"run {run.run_id} again with other content; shown is {shown}{more}"))
    memory.write()
    stamps.write()
    return Found([runs[run_id] for run_id in sorted(runs)], unreadable, len(unknown))


def _record_paths(root: Path) -> list[str]:
    """``<suite>/<tuner>/<run id>/record.json``, sorted."""
    levels = [os.fspath(root)]
    for _ in range(3):
        levels = [entry.path for folder in levels for entry in _folders(folder)]
    return sorted(path for folder in levels if os.path.exists(path := f"{folder}/record.json"))


def _folders(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (e for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError:
        return


class _Stamps:
    """Digests of files by path, size and time of change, in one file.

    A file that changed within the clock's step before the list was written may have changed after it was read too, with
    the same size and time: it is read again, as git does.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "stamps.json" if folder is not None else None
        self._before: dict[str, list[Any]] = {}
        self._now: dict[str, list[Any]] = {}
        self._sure_before_ns = 0
        if self._path is not None:
            try:
                self._sure_before_ns = self._path.stat().st_mtime_ns - _CLOCK_STEP_NS
                known = pydantic_core.from_json(self._path.read_bytes())
                self._before = known if isinstance(known, dict) else {}
            except (OSError, ValueError):
                pass  # not there yet, or damaged: every file is read

    def digests_of(self, paths: Sequence[str]) -> dict[str, str]:
        """SHA-256 of files' bytes by path; empty when one cannot be read, which checking it then tells."""
        found = {path: self._remembered(path) for path in paths}
        unsure = [path for path, digest in found.items() if digest is None]
        with ThreadPoolExecutor(_N_READERS) as readers:
            found |= zip(unsure, readers.map(self._digest_of, unsure), strict=True)
        return {path: digest or "" for path, digest in found.items()}

    def _remembered(self, path: str) -> str | None:
        """Of a file that is still what was read; None where that is not sure."""
        known = self._before.get(path)
        if not isinstance(known, list):
            return None
        try:
            facts = os.stat(path)
        except OSError:
            return None
        stamp = [facts.st_size, facts.st_mtime_ns]
        if facts.st_mtime_ns >= self._sure_before_ns or known[:2] != stamp:
            return None
        self._now[path] = known
        return str(known[2])

    def _digest_of(self, path: str) -> str:
        try:
            facts = os.stat(path)
            with open(path, "rb") as file:
                found = hashlib.sha256(file.read()).hexdigest()
        except OSError:
            return ""
        self._now[path] = [facts.st_size, facts.st_mtime_ns, found]
        return found

    def write(self) -> None:
        if self._path is not None:
            atomic.write_text(self._path, json.dumps(self._now, separators=(",", ":"), sort_keys=True))


Checked = tuple[str, bytes | None, str]
"""Digest of the record's bytes, its summary as JSON or None, and what is wrong with it."""


def _check_all(paths: Sequence[str], workers: Executor | None) -> Iterator[Checked]:
    if workers is None or len(paths) <= _AT_ONCE:
        yield from check(paths)
        return
    for part in workers.map(check, (paths[i : i + _AT_ONCE] for i in range(0, len(paths), _AT_ONCE))):
        yield from part


def check(paths: Sequence[str]) -> list[Checked]:
    """Parses and checks records."""
    found: list[Checked] = []
    for path in paths:
        digest = ""
        try:
            with open(path, "rb") as file:
                data = file.read()
            digest = hashlib.sha256(data).hexdigest()
            summary = summary_of(upgrade(_json(path, data)))
            body = _packed(summary)
            found.append((digest, body, ""))
        except UserError as err:
            found.append((digest, None, err.problem))
        except ValidationError as err:
            found.append((digest, None, f"it does not fit its schema: {err.errors()[0]['msg']}"))
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as err:
            found.append((digest, None, f"{type(err).__name__}: {err}"))
    return found


def _packed(summary: dict[str, Any]) -> bytes:
    """As JSON in one line."""
    try:
        return pydantic_core.to_json(summary)
    except ValueError:  # half a surrogate pair
        return json.dumps(summary, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def _json(path: str, data: bytes) -> object:
    try:
        return pydantic_core.from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as err:
        number = _NO_NUMBER.search(data)
        said = f"{number[0].decode()} is no number in JSON" if number else f"{err}"
        raise UserError(f"{path} is damaged: {said}") from err


def _same(one: Path, other: Path) -> bool:
    """Whether two records say the same in another spelling."""
    first, second = (upgrade(atomic.read_json(path)).model_dump() for path in (one, other))
    return canonical_json(first) == canonical_json(second)


class _Memory:
    """Summaries by the digest of the record they are from, in one file; a damaged line is as good as none.

    What is new is added at the end. The file is written anew when a third of it is of no use any more.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "summaries.jsonl" if folder is not None else None
        self._is_ours = False
        self._before = dict(self._lines())
        self._now: dict[str, bytes] = {}

    def get(self, digest: str) -> bytes | None:
        return self._before.get(digest)

    def keep(self, digest: str, body: bytes) -> None:
        self._now[digest] = body

    def write(self) -> None:
        """Keeps what this build used."""
        if self._path is None:
            return
        new = {digest: body for digest, body in self._now.items() if digest not in self._before}
        whole = not self._is_ours or 3 * len(self._before) > 4 * (len(self._now) - len(new)) + 30
        kept = self._now if whole else new
        lines = [f"{digest} {_sum(body)} ".encode() + body + b"\n" for digest, body in sorted(kept.items())]
        if whole:
            atomic.write_bytes(self._path, f"{program()}\n".encode() + b"".join(lines))
        elif lines:
            with atomic.disk_errors(self._path), self._path.open("ab") as file:
                file.write(b"\n" + b"".join(lines))  # the line before may be half a one, of a build that was killed

    def _lines(self) -> Iterable[tuple[str, bytes]]:
        if self._path is None or not self._path.is_file():
            return
        with self._path.open("rb") as file:
            if file.readline().strip() != program().encode():
                return
            self._is_ours = True
            for line in file:
                digest, _, rest = line.rstrip(b"\n").partition(b" ")
                checksum, _, body = rest.partition(b" ")
                if checksum == _sum(body).encode():
                    yield digest.decode("ascii", "replace"), body


def _sum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]
