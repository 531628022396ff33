"""``build``: from the records under a runs folder to a static site, a pure function of those records.

<out>/index.html        every board
<out>/runs/<id>.html    a page a run
<out>/images/           the galleries' PNGs, named by digest
<out>/data/             board.csv (every figure, one a row), records.json

What pages there are is in ``leaderboard.kinds``. A page whose inputs are those of the previous build is taken over.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.core.errors import UserError
from bench.store import atomic
from bench.store.lock import exclusive
from leaderboard.kinds import KINDS
from leaderboard.page import Site
from leaderboard.read import read_all
from leaderboard.table import boards
from leaderboard.writing import Writer

_MARKER = "made-by-tunebench.txt"
_LOCK_WAIT_S = 120.0


def build(runs_dir: Path, out_dir: Path | None = None) -> Path:
    """Writes the leaderboard of the records under ``runs_dir``; the old site stays until the new one is whole.

    Args:
        runs_dir: holds ``<suite>/<tuner>/<run id>/record.json``.
        out_dir: replaced as a whole; ``<runs_dir>/leaderboard`` unless given.

    Returns:
        The path of ``index.html``.

    Raises:
        UserError: full disk, missing permission, a folder of somebody else's, or another build that does not end.
    """
    out = out_dir if out_dir is not None else runs_dir / "leaderboard"
    if out.exists() and not (out / _MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} is there already and is no leaderboard: it would be replaced as a whole",
            valid="a new or empty folder, or one that an earlier build made",
        )
    with exclusive(out.parent / f".{out.name}.lock", f"the site {out}", wait_s=_LOCK_WAIT_S):
        for marker in sorted(out.parent.glob(f"{atomic.TEMPORARY}*/{_MARKER}")):
            shutil.rmtree(marker.parent, ignore_errors=True)  # a build that was killed
        with atomic.new_folder(out) as making:
            (making / _MARKER).write_text("TuneBench makes this folder from records and replaces it as a whole.\n")
            cache = runs_dir / ".cache" / "leaderboard"
            found = read_all([runs_dir], cache)
            site = Site(runs_dir, tuple(found.runs), tuple(boards(found.runs)), tuple(found.unreadable))
            writer = Writer(making, out, cache)
            writer.write(page for kind in KINDS for page in kind.pages(site))
        writer.remember()
    return out / "index.html"
