"""``build``: from the records under a runs folder to a static site, a pure function of those records.

<out>/index.html        every board
<out>/runs/<id>.html    a page a run
<out>/images/           the galleries' PNGs, named by digest
<out>/data/             board.csv (every figure, one a row), records.json
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.core.errors import UserError
from bench.store import atomic
from bench.store.lock import exclusive
from leaderboard.pages import index_page
from leaderboard.read import read_runs
from leaderboard.run_page import run_page
from leaderboard.table import boards, long_table, unranked

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
            _put(making / _MARKER, "TuneBench makes this folder from records and replaces it as a whole.\n")
            _write(runs_dir, making)
    return out / "index.html"


def _write(runs_dir: Path, site: Path) -> None:
    runs, unreadable = read_runs(runs_dir)
    for folder in ("runs", "images", "data"):
        (site / folder).mkdir()
    for run in runs:
        page, pictures = run_page(run)
        _put(site / "runs" / f"{run.run_id}.html", page)
        for name, picture in pictures.items():
            (site / "images" / name).write_bytes(picture.data)
    long_table(runs).to_csv(site / "data" / "board.csv", index=False, lineterminator="\n", float_format="%.10g")
    records = {
        "schema": "tunebench/records",
        "schema_version": 1,
        "records": [run.record.model_dump(mode="json", by_alias=True) for run in runs],
        "unreadable": [{"path": u.path, "reason": u.reason} for u in unreadable],
    }
    text = json.dumps(records, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    _put(site / "data" / "records.json", text + "\n")
    _put(site / "index.html", index_page(boards(runs), unranked(runs), unreadable, len(runs)))


def _put(path: Path, text: str) -> None:
    """UTF-8; half a surrogate pair, which JSON can smuggle into a prompt, becomes a question mark."""
    path.write_bytes(text.encode("utf-8", "replace"))
