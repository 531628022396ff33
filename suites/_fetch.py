"""Downloads of published files: resumed where they were cut, checked, and only then under their names."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import urllib.error
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import UserError
from bench.store.download import AGAIN, Say, download, forget
from bench.store.lock import exclusive
from suites._files import Published, examine

FOLDER = ".downloads"
"""Below the data folder: what is on its way. Safe to delete."""

_BY_HAND = f"{AGAIN}; or put the file there by hand: bench data status"


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
    get = functools.partial(download, url, part, say, refused=_refused(url), pause_s=pause_s, hint=_BY_HAND)
    try:
        resumed = get()
        if resumed and all(_trouble(file, part) for file in files):
            # the server's file may have changed between the two halves
            say(f"{url}: the two parts do not fit together; again from the start")
            forget(part)
            get()
        found = [_place(file, root, part, say) for file in files]
    except UserError as err:  # what is here of it stays, for the next call
        return [Fetched(file, root / file.path, err) for file in files]
    forget(part)
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


def _refused(url: str) -> Callable[[urllib.error.HTTPError], UserError]:
    return lambda err: UserError(
        f"{url}: the server answers {err.code} {err.reason}", valid="a file that anybody may download",
        hint="bench data status says where to put it by hand",
    )  # fmt: skip
