"""Downloads of published files: resumed where they were cut, checked, and only then under their names."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.core.errors import UserError
from bench.store.lock import exclusive
from suites._files import Published, examine

FOLDER = ".downloads"
"""Below the data folder: what is on its way. Safe to delete."""

CHUNK = 1 << 20
N_TRIES = 5
"""Tries in a row that bring no byte before giving up."""
TIMEOUT_S = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """How one file's download ended."""

    file: Published
    path: Path
    error: UserError | None = None


def fetch(files: Iterable[Published], root: Path, say: Say, *, pause_s: float = 1.0) -> list[Fetched]:
    """Downloads ``files`` below ``root``; one that fails keeps no other from being fetched.

    A file gets its name only once it is whole and is what was published; one of that name that was there is replaced
    by it. A cut download stays in ``.downloads`` and goes on where it was, in this call or in the next.

    Args:
        say: told of every file with its licence before anything is downloaded, and of what happens to it.
        pause_s: before the second try, twice before the third, and so on.
    """
    found = []
    by_url: dict[str, list[Published]] = {}
    for file in files:
        by_url.setdefault(file.url, []).append(file)
    for same in by_url.values():
        for file in same:
            say(f"{file.path}: licence {file.licence}, from {file.url}")
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for url, same in by_url.items():
        part = root / FOLDER / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{url.rsplit('/', 1)[-1]}"
        lock = part.with_name(f"{part.name}.lock")
        try:
            with exclusive(lock, f"the download of {url}"):
                found += _one_url(url, same, root, part, say, pause_s)
                lock.unlink()
        except UserError as err:
            found += [Fetched(file, root / file.path, err) for file in same]
    with contextlib.suppress(OSError):  # not empty: something can be resumed
        (root / FOLDER).rmdir()
    return found


def _one_url(
    url: str, files: list[Published], root: Path, part: Path, say: Say, pause_s: float
) -> list[Fetched]:  # fmt: skip
    try:
        resumed = _download(url, part, say, pause_s)
        if resumed and all(_trouble(file, part) for file in files):
            # the server's file may have changed between the two halves
            say(f"{url}: the two parts do not fit together; again from the start")
            _forget(part)
            _download(url, part, say, pause_s)
        found = [_place(file, root, part, say) for file in files]
    except UserError as err:  # what is here of it stays, for the next call
        return [Fetched(file, root / file.path, err) for file in files]
    _forget(part)
    return found


def _place(file: Published, root: Path, part: Path, say: Say) -> Fetched:
    """Puts a file that is what was published under its name."""
    path = root / file.path
    trouble = _trouble(file, part)
    if trouble:
        error = UserError(
            f"{file.url} did not give {file.path} as it was published: {trouble}; nothing was put at {path}",
            valid=f"{file.rows_text} ({file.licence})", hint=f"bench data status --data {root}",
        )  # fmt: skip
        return Fetched(file, path, error)
    ready = part
    if file.member:
        ready = part.with_name(f"{part.name}.member")
        ready.write_bytes(_content(file, part))
    with ready.open("rb") as f:
        os.fsync(f.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    ready.replace(path)
    say(f"{path}: as published")
    return Fetched(file, path)


def _content(file: Published, part: Path) -> bytes:
    if not file.member:
        return part.read_bytes()
    with zipfile.ZipFile(part) as archive:
        return archive.read(file.member)


def _trouble(file: Published, part: Path) -> str:
    """What tells that a download is not the published file; "" where nothing does."""
    try:
        return examine(file, _content(file, part))[1]
    except zipfile.BadZipFile as err:
        return f"the archive is damaged ({err})"
    except KeyError:
        return f"the archive holds no {file.member}"


# ------------------------------------------------------------------------------------------------------------ download


def _download(url: str, part: Path, say: Say, pause_s: float) -> bool:
    """Brings all of ``url`` into ``part``. Returns whether it went on with what an earlier try had left.

    Raises:
        UserError: refused, not there, not reachable, cut too often, or no room.
    """
    resumed = False
    tries = 0
    while True:
        have = _size(part)
        try:
            done = _try(url, part, have, say)
            resumed |= have > 0 and _size(part) > have
            if done:
                return resumed
            why = "the connection was cut"
        except urllib.error.HTTPError as err:
            err.close()
            if err.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                _forget(part)
            elif err.code < http.client.INTERNAL_SERVER_ERROR and err.code != http.client.TOO_MANY_REQUESTS:
                raise UserError(
                    f"{url}: the server answers {err.code} {err.reason}", valid="a file that anybody may download",
                    hint="bench data status says where to put it by hand",
                ) from err  # fmt: skip
            why = f"the server answers {err.code} {err.reason}"
        except (OSError, http.client.HTTPException) as err:
            why = str(getattr(err, "reason", err)) or type(err).__name__
        tries = 0 if _size(part) > have else tries + 1
        if tries >= N_TRIES:
            raise UserError(
                f"{url}: {why}; {_size(part):,} bytes are here", valid="a machine that reaches it",
                hint="the same command again goes on from there; or put the file there by hand: bench data status",
            )  # fmt: skip
        say(f"{url}: {why} at {_size(part):,} bytes; trying again")
        time.sleep(pause_s * tries)


def _try(url: str, part: Path, have: int, say: Say) -> bool:
    """One request, for what is missing of ``part``. Returns whether it is whole."""
    note = part.with_name(f"{part.name}.json")
    known = json.loads(note.read_text("utf-8")) if have and note.exists() else {}
    if have and known.get("total") == have:
        return True
    headers = {"User-Agent": "tunebench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known.get("validator"):
            headers["If-Range"] = known["validator"]
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
        goes_on = answer.status == http.client.PARTIAL_CONTENT
        if goes_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError(f"the server sent {answer.headers.get('Content-Range')!r} for bytes from {have}")
        if not goes_on:
            have = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        _need_room(part, total, have)
        tag = answer.headers.get("ETag", "")
        # a weak tag does not promise equal bytes
        validator = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
        note.write_text(json.dumps({"url": url, "validator": validator, "total": total}), "utf-8")
        if have:
            say(f"{url}: going on at {have:,} bytes")
        with part.open("ab" if goes_on else "wb") as out:
            _copy(answer, out)
    return total is None or _size(part) == total


def _copy(source: IO[bytes], out: IO[bytes]) -> None:
    while chunk := source.read(CHUNK):
        out.write(chunk)


def _need_room(part: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise UserError(f"no room for {total - have:,} bytes in {part.parent}: {free:,} are free",
                        valid="a data folder on a larger disk", hint="--data DIR")  # fmt: skip


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)
