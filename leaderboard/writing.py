"""Writes pages into a new site and takes over from the old one what did not change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import pydantic_core
from pydantic import BaseModel, ValidationError

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.store import atomic
from leaderboard.page import Page

_AT_ONCE = 20
"""Pages that a process makes at one time."""
_WORTH_IT = 60
"""With fewer pages to make, starting other processes takes longer than making them."""

Stamp = list[int]
"""Size and time of change of a file (bytes, ns): whether it is still what was written."""


class _Memory(BaseModel):
    pages: dict[str, tuple[str, list[str]]]
    """Inputs and names of pictures by path."""
    files: dict[str, Stamp]


class Writer:
    """One build: ``write`` fills the new site, ``remember`` says what it was made from, for the next build.

    What was written is remembered outside the site, so that the site's bytes depend on the records alone.
    """

    def __init__(self, site: Path, old: Path, cache: Path) -> None:
        """
        Args:
            site: the new site, not yet at its place.
            old: the site that it is going to replace; need not exist.
            cache: safe to delete, which costs a full build.
        """
        self.site, self.old = site, old
        self.made: list[str] = []
        """Paths of the pages that this build did not take over."""
        self._memory = cache / f"site-{digest(str(old.resolve()), 16)}.json"
        self._before = _remembered(self._memory)
        self._now: dict[str, tuple[str, list[str]]] = {}
        self._stamps: dict[str, Stamp] = {}
        """Of the files that were linked into the new site."""

    @property
    def n_pages(self) -> int:
        return len(self._now)

    def write(self, pages: Iterable[Page], workers: Executor | None = None) -> None:
        """Makes or takes over every page.

        Args:
            workers: processes that make pages; all are made here without.

        Raises:
            UserError: two pages have one path.
        """
        here: list[Page] = []
        groups: dict[str, list[Page]] = {}
        waiting: list[tuple[Sequence[Page], Future[list[list[str]]]]] = []

        def send(workers: Executor) -> None:
            """All that is in ``groups``; the others get to work while the next pages are being thought of."""
            alone = groups.pop("", [])
            for part in (*groups.values(), *(alone[i : i + _AT_ONCE] for i in range(0, len(alone), _AT_ONCE))):
                waiting.append((part, workers.submit(put_all, self.site, part)))
            groups.clear()

        for page in pages:
            if page.path in self._now:
                raise UserError(f"two pages of the site are called {page.path}")
            pictures = self._take_over(page)
            self._now[page.path] = (page.inputs, pictures or [])
            if pictures is None and page.here:
                here.append(page)
            elif pictures is None:
                groups.setdefault(page.group, []).append(page)
                alone = len(groups.get("", ()))
                if workers is not None and (alone >= _WORTH_IT or (waiting and alone >= _AT_ONCE)):
                    send(workers)
        if workers is not None and waiting:
            send(workers)
        self._put_here([*here, *(page for part in groups.values() for page in part)])
        for part, future in waiting:
            self._note(part, future.result())

    def _put_here(self, pages: Sequence[Page]) -> None:
        self._note(pages, put_all(self.site, pages))

    def _note(self, pages: Sequence[Page], pictures: Sequence[list[str]]) -> None:
        for page, names in zip(pages, pictures, strict=True):
            self._now[page.path] = (page.inputs, names)
            self.made.append(page.path)

    def remember(self) -> None:
        """Call it when the new site stands where the old one did."""
        pictures = sorted({f"images/{name}" for _, names in self._now.values() for name in names})
        # What was taken over is another name of the file whose stamp was just compared.
        files = {path: self._stamps.get(path) or _stamp(f"{self.old}/{path}") for path in (*self._now, *pictures)}
        atomic.write_bytes(self._memory, pydantic_core.to_json({"pages": self._now, "files": files}))

    def _take_over(self, page: Page) -> list[str] | None:
        """Links the old page and its pictures into the new site; None where it has to be made."""
        inputs, pictures = self._before.pages.get(page.path, ("", []))
        if inputs != page.inputs:
            return None
        paths = [page.path, *(f"images/{name}" for name in pictures)]
        stamps = {path: _stamp(f"{self.old}/{path}") for path in paths if path not in self._stamps}
        if any(not stamp or stamp != self._before.files.get(path) for path, stamp in stamps.items()):
            return None
        for path, stamp in stamps.items():
            if _link(f"{self.old}/{path}", f"{self.site}/{path}"):
                self._stamps[path] = stamp
        return list(pictures)


def put_all(site: Path, pages: Sequence[Page]) -> list[list[str]]:
    """Makes pages and writes them with their pictures; returns the pictures' names."""
    return [_put(site, page) for page in pages]


def _put(site: Path, page: Page) -> list[str]:
    text, pictures = page.render()
    path = site / page.path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half a surrogate pair, which JSON can smuggle into a prompt, becomes a question mark.
    path.write_bytes(text.encode("utf-8", "replace"))
    for name, picture in pictures.items():
        target = site / "images" / name
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            # Two processes may write one picture at the same time: whole under another name, then renamed.
            making = target.with_name(f"{name}.{os.getpid()}")
            making.write_bytes(picture.data)
            making.rename(target)
    return sorted(pictures)


def _link(old: str, new: str) -> bool:
    """The same file under another name, or a copy where the file system knows no links; whether it is the same."""
    try:
        os.link(old, new)
    except FileExistsError:
        return False  # a picture that several pages show
    except FileNotFoundError:
        os.makedirs(os.path.dirname(new))
        return _link(old, new)
    except OSError:
        shutil.copy2(old, new)
        return False
    return True


def _stamp(path: str) -> Stamp:
    """Empty when there is no such file."""
    try:
        facts = os.stat(path)
    except OSError:
        return []
    return [facts.st_size, facts.st_mtime_ns]


def _remembered(memory: Path) -> _Memory:
    """What the previous build wrote; nothing when that is not known, which costs a full build."""
    try:
        return _Memory.model_validate_json(memory.read_bytes())
    except (OSError, ValidationError):
        return _Memory(pages={}, files={})
