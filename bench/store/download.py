"""One file over HTTP, resumed where it was cut, in this process or a later one."""

from __future__ import annotations

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from bench.core.errors import UserError

CHUNK = 1 << 20
N_TRIES = 5
"""Tries in a row that bring no byte before giving up."""
TIMEOUT_S = 60.0

AGAIN = "the same command again goes on from there"

Say = Callable[[str], None]
Prepare = Callable[[urllib.request.Request], None]
Refused = Callable[[urllib.error.HTTPError], UserError]


def download(
    url: str, part: Path, say: Say, *, refused: Refused, prepare: Prepare = lambda request: None, pause_s: float = 1.0,
    hint: str = AGAIN,
) -> bool:  # fmt: skip
    """Brings all of ``url`` into ``part``; what an earlier try left there is kept, unless the file has changed since.

    Beside ``part`` lies a note with what tells whether it has; ``forget`` removes both.

    Args:
        refused: the error to raise for an answer that trying again does not change (most of 400 to 499).
        prepare: adds headers to a request.
        pause_s: before the second try, twice before the third, and so on.
        hint: what to do when it gives up.

    Returns:
        Whether it went on with what an earlier try had left.

    Raises:
        UserError: refused, not reachable, cut too often, or no room.
    """
    resumed = False
    tries = 0
    while True:
        have = _size(part)
        try:
            done = _try(url, part, have, say, prepare)
            resumed |= have > 0 and _size(part) > have
            if done:
                return resumed
            why = "the connection was cut"
        except urllib.error.HTTPError as err:
            err.close()
            if err.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                forget(part)
            elif err.code < http.client.INTERNAL_SERVER_ERROR and err.code != http.client.TOO_MANY_REQUESTS:
                raise refused(err) from err
            why = f"the server answers {err.code} {err.reason}"
        except (OSError, http.client.HTTPException) as err:
            why = str(getattr(err, "reason", err)) or type(err).__name__
        tries = 0 if _size(part) > have else tries + 1
        if tries >= N_TRIES:
            here = f"{_size(part):,} bytes are here"
            raise UserError(f"{url}: {why}; {here}", valid="a machine that reaches it", hint=hint)
        say(f"{url}: {why} at {_size(part):,} bytes; trying again")
        time.sleep(pause_s * tries)


def forget(part: Path) -> None:
    """Removes what a download left."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _try(url: str, part: Path, have: int, say: Say, prepare: Prepare) -> bool:
    """One request, for what is missing of ``part``. Returns whether it is whole."""
    note = _note(part)
    known = json.loads(note.read_text("utf-8")) if have and note.exists() else {}
    if have and known.get("total") == have:
        return True
    headers = {"User-Agent": "tunebench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known.get("validator"):
            headers["If-Range"] = known["validator"]
    request = urllib.request.Request(url, headers=headers)
    prepare(request)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
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
                        valid="a folder on a larger disk")  # fmt: skip


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
