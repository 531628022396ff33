"""``build``: from the records under a runs folder to a static site, a pure function of those records.

<out>/index.html          the overview, and the boards of a small site
<out>/boards/<name>.html  a page a board
<out>/tables.html         the figures in the form of the papers' tables
<out>/runs/<id>.html      a page a run
<out>/images/             the galleries' PNGs, named by digest
<out>/data/               exports of each board, and what their JSON is made of

What pages there are is in ``leaderboard.kinds``. A page whose inputs are those of the previous build is taken over.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.store import atomic
from bench.store.lock import exclusive
from leaderboard import vega
from leaderboard.kinds import KINDS
from leaderboard.page import Site, cache_of
from leaderboard.read import Unreadable, read_all
from leaderboard.run import Run
from leaderboard.table import boards
from leaderboard.writing import Writer

_MARKER = "made-by-tunebench.txt"
_LOCK_WAIT_S = 120.0

Describe = Callable[[Collection[str], Path], Mapping[str, Mapping[str, Any]]]
"""From names of tuners and a folder to keep things in to what these tuners say of themselves. This package loads none:
``bench.cli`` passes a function that does."""


@dataclass(frozen=True)
class Built:
    """What a build did."""

    index: Path
    """``index.html``"""
    n_runs: int
    n_checked: int
    """Records that were parsed and checked; the others were known from an earlier build."""
    n_pages: int
    n_made: int
    """Pages that were made; the others were taken over from the old site."""
    unreadable: tuple[Unreadable, ...]


def n_processes() -> int:
    """How many processes ``build_site`` has use for on this machine: one for every core, eight at most."""
    return min(8, len(os.sched_getaffinity(0)))


def build(runs_dir: Path, out_dir: Path | None = None, *, describe: Describe | None = None) -> Path:
    """``build_site`` of one runs folder, in this process; returns the path of ``index.html``."""
    return build_site([runs_dir], out_dir, describe=describe).index


def build_site(
    roots: Sequence[Path], out_dir: Path | None = None, *, n_processes: int = 1, describe: Describe | None = None
) -> Built:  # fmt: skip
    """Writes the leaderboard of the records under ``roots``; the old site stays until the new one is whole.

    Args:
        roots: each holds ``<suite>/<tuner>/<run id>/record.json``; together they are the set union by run id.
        out_dir: replaced as a whole; ``<first root>/leaderboard`` unless given.
        n_processes: how many check records and make pages where there are many.
        describe: asks the tuners that the records name for what the method pages print.

    Raises:
        UserError: full disk, missing permission, a folder of somebody else's, or another build that does not end.
    """
    out = out_dir if out_dir is not None else roots[0] / "leaderboard"
    if out.exists() and not (out / _MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} is there already and is no leaderboard: it would be replaced as a whole",
            valid="a new or empty folder, or one that an earlier build made",
        )
    cache = cache_of(roots)
    with exclusive(out.parent / f".{out.name}.lock", f"the site {out}", wait_s=_LOCK_WAIT_S), ExitStack() as stack:
        stack.callback(gc.unfreeze)
        for marker in sorted(out.parent.glob(f"{atomic.TEMPORARY}*/{_MARKER}")):
            shutil.rmtree(marker.parent, ignore_errors=True)  # a build that was killed
        workers = beside = asked = None
        if n_processes > 1:
            if not vega.kept_at(cache).is_file():  # a first build: what takes an engine of its own goes on meanwhile
                beside = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
                beside.submit(vega.keep, vega.kept_at(cache))
                if describe is not None:  # most tuners' names are their folders'
                    names = {path.name for root in roots for path in root.glob("*/*") if path.is_dir()}
                    asked = stack.enter_context(ThreadPoolExecutor(1)).submit(describe, names, cache)
            workers = stack.enter_context(
                ProcessPoolExecutor(n_processes, mp_context=get_context("spawn"), initializer=_rare_collections)
            )
        with atomic.new_folder(out) as making:
            (making / _MARKER).write_text("TuneBench makes this folder from records and replaces it as a whole.\n")
            with _nothing_to_collect():
                found = read_all(roots, cache, workers)
                if asked is not None:
                    asked.result()
                site = Site(tuple(roots), tuple(found.runs), tuple(boards(found.runs)), tuple(found.unreadable),
                            _methods(found.runs, describe, cache))  # fmt: skip
            if beside is not None:
                beside.shutdown()  # with its memory
            writer = Writer(making, out, cache)
            writer.write((page for kind in KINDS for page in kind.pages(site)), workers)
        writer.remember()
    return Built(
        out / "index.html", len(found.runs), found.n_checked, writer.n_pages, len(writer.made), site.unreadable
    )


def _methods(runs: Sequence[Run], describe: Describe | None, cache: Path) -> Mapping[str, Mapping[str, Any]]:
    """Of the tuners that the records name; those given as files are not asked, as their files may be others by now."""
    names = {str(run.spec["tuner"]) for run in runs if run.external is None and not run.spec.get("tuner_sha256")}
    return describe(names, cache) if describe is not None else {}


def _rare_collections() -> None:
    """Python searches for cycles after every 700 new objects by default: that is ten times for a page."""
    gc.freeze()
    gc.set_threshold(300_000, 20, 100)


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Without Python's search for cycles, which takes longer than reading where millions of objects come to stay; what
    has come is left out of later searches, until ``gc.unfreeze``."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()
