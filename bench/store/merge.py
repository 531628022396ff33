"""Set union of run folders by run id: ``bench merge``. A run is taken whole or not at all, and nothing is overwritten.

Two folders are the same run when their records agree; then the target's stays. With two contents under one id both stay
where they are and the difference is named: a person decides. Votes of people may come to a run at any time and in many
places: copies that differ in nothing else are one run, and their votes are joined.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.core.errors import UserError
from bench.core.identity import canonical_json, file_sha256
from bench.core.record import HUMAN_METRICS
from bench.store import atomic
from bench.store.lock import exclusive
from bench.store.runs import RunFolder

Outcome = Literal["added", "same", "votes", "conflict", "refused", "unfinished"]

JoinVotes = Callable[[Path, Path], tuple[Sequence[str], Sequence[str]]]
"""Adds the votes in one copy of a run to another: the raters that are new there, and what was not taken and why."""

_MAKING = ".merge"
"""Under the target: runs on their way in, too shallow to be taken for a run folder by any reader."""

_LEFT_OUT = frozenset({"lock", "checkpoints", "work"})
"""Of use to a worker that goes on, and to nobody else."""


@dataclass(frozen=True)
class Merged:
    """What became of one source folder."""

    run_id: str
    source: str
    target: str
    """Where the run is under the target, or would be."""
    outcome: Outcome
    reason: str = ""


def merge(sources: Sequence[Path], into: Path, join_votes: JoinVotes | None = None) -> list[Merged]:
    """Adds every finished run under ``sources`` to the runs folder ``into``.

    A run folder appears by one rename, images and scores in it, so that a kill leaves it whole or absent; the same
    command again goes on. Sources are only read.

    Args:
        join_votes: what to do where copies of a run differ in their human studies alone; without, that is a conflict.

    Returns:
        One entry for each run folder found, in order of source and path.

    Raises:
        UserError: a source is no folder, or is the target; full disk, missing permission.
    """
    for source in sources:
        if not source.is_dir():
            raise UserError(f"there is no folder {source}", hint="bench merge FROM... --into RUNS")
        if source.resolve() == into.resolve():
            raise UserError(f"{source} is the target itself", valid="other runs folders")
    with exclusive(into / ".merge.lock", f"merging into {into}", wait_s=60.0):
        shutil.rmtree(into / _MAKING, ignore_errors=True)  # of a merge that was killed
        have = {path.name: path for path in _run_paths(into)}
        found = []
        for source in sources:
            for path in _run_paths(source):
                result = _merge_one(path, source, into, have, join_votes)
                if result.outcome == "added":
                    have[path.name] = Path(result.target)
                found.append(result)
        shutil.rmtree(into / _MAKING, ignore_errors=True)
    return found


def _run_paths(runs: Path) -> Iterator[Path]:
    """Run folders, by the file that each begins or ends with; leftovers of a crash are none."""
    found = {path.parent for name in ("spec.json", "record.json") for path in runs.glob(f"*/*/*/{name}")}
    yield from sorted(path for path in found if not path.name.startswith(atomic.TEMPORARY))


def _merge_one(
    path: Path, source: Path, into: Path, have: dict[str, Path], join_votes: JoinVotes | None
) -> Merged:
    target = have.get(path.name, into / path.relative_to(source))

    def outcome(kind: Outcome, reason: str = "") -> Merged:
        return Merged(path.name, str(path), str(target), kind, reason)

    if not (path / "record.json").exists():
        return outcome("unfinished", "it has no record yet: only finished runs are merged")
    try:
        record = _facts(path)
        _check_files(path, record)
        files = _files(path)
    except (UserError, OSError) as err:
        return outcome("refused", err.problem if isinstance(err, UserError) else str(err))
    if path.name not in have:
        if target.exists():
            return outcome("conflict", f"{target} is there already and is no run")
        _copy(path, files, into / _MAKING / path.name, target)
        return outcome("added")
    try:
        mine = _facts(target)
        differs = _differences(record, mine)
    except (UserError, OSError) as err:
        return outcome("conflict", f"the target's own copy cannot be read: {err}")
    if differs and join_votes is not None and not _differences(_without_studies(record), _without_studies(mine)):
        try:
            raters, refused = join_votes(path, target)
        except (UserError, OSError) as err:
            return outcome("conflict", err.problem if isinstance(err, UserError) else str(err))
        if refused:
            return outcome("conflict", "; ".join(refused))
        return outcome("votes", f"votes of {len(raters)} more raters") if raters else outcome("same")
    if differs:
        shown = ", ".join(differs[:6]) + (f" and {len(differs) - 6} more" if len(differs) > 6 else "")
        return outcome("conflict", f"same id, other content: {shown}; both stay where they are")
    return outcome("same")


def _facts(path: Path) -> dict[str, Any]:
    """The record at this program's version, as plain data. Raises UserError when it is damaged, newer or misplaced."""
    facts: dict[str, Any] = RunFolder(path).read_record().model_dump(mode="json", by_alias=True)
    del facts["schema_version"]  # an older copy of the same content is the same content
    if facts["run_id"] != path.name:
        raise UserError(f"{path} holds the record of run {facts['run_id']}")
    return facts


def _without_studies(record: dict[str, Any]) -> dict[str, Any]:
    """All that people's votes do not change."""
    return {
        **record, "studies": [],
        "metrics": [m for m in record["metrics"] if m["name"].partition("/")[0] not in HUMAN_METRICS],
        "artifacts": [a for a in record["artifacts"] if not a["path"].startswith("studies/")],
    }  # fmt: skip


def _differences(a: dict[str, Any], b: dict[str, Any], at: str = "") -> list[str]:
    """Dotted names of what differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = []
        for key in sorted({*a, *b}):
            found += _differences(a.get(key), b.get(key), f"{at}.{key}" if at else key)  # type: ignore[arg-type]
        return found
    return [] if canonical_json(a) == canonical_json(b) else [at]


def _check_files(path: Path, record: dict[str, Any]) -> None:
    """What the record vouches for is there and unchanged, and what it points at lies inside the folder.

    Raises:
        UserError: names the first file that is not.
    """
    root = path.resolve()
    for artifact in record["artifacts"]:
        file = _inside(root, artifact["path"])
        if not file.is_file():
            raise UserError(f"damaged: {artifact['path']} is missing")
        if file_sha256(file) != artifact["sha256"]:
            raise UserError(f"damaged: {artifact['path']} is not what its record says")
    for snapshot in record["snapshots"]:
        _check_images(root, snapshot)
    for scores in filter(None, (metric["scores"] for metric in record["metrics"])):
        if not _inside(root, scores).is_file():
            raise UserError(f"damaged: {scores} is missing")


def _check_images(root: Path, snapshot: dict[str, Any]) -> None:
    index = _inside(root, snapshot["images"]) / "index.jsonl"
    if not index.exists():
        if snapshot["n_images"]:
            raise UserError(f"damaged: {snapshot['images']}/index.jsonl is missing")
        return
    for row in atomic.read_jsonl(index):
        file = _inside(index.parent, str(row["path"]))
        if not file.is_file() or file_sha256(file) != row["sha256"]:
            raise UserError(f"damaged: the image of prompt {row['prompt_id']} (seed {row['seed']}) in "
                            f"{snapshot['images']} is missing or changed")  # fmt: skip


def _inside(root: Path, name: str) -> Path:
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise UserError(f"damaged: {name!r} leads out of the run folder")
    return path


def _files(path: Path) -> list[Path]:
    """What belongs to a run, relative to its folder. Raises UserError at a link that leads out of it."""
    root, found = path.resolve(), []
    for folder, names, files in os.walk(path):
        here = Path(folder).relative_to(path)
        names[:] = sorted(name for name in names if _belongs(here / name))
        found += [here / name for name in sorted(files) if _belongs(here / name)]
        for name in (*names, *files):
            _inside(root, str(here / name))
    return found


def _belongs(relative: Path) -> bool:
    return not relative.name.startswith(atomic.TEMPORARY) and str(relative) not in _LEFT_OUT


def _copy(path: Path, files: Sequence[Path], making: Path, target: Path) -> None:
    """The run under ``making``, on disk, then renamed to ``target``."""
    with atomic.disk_errors(target):
        for relative in files:
            (making / relative).parent.mkdir(parents=True, exist_ok=True)
            _copy_file(path / relative, making / relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(making, target)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as a, target.open("wb") as b:
        shutil.copyfileobj(a, b, 1 << 20)
        b.flush()
        os.fsync(b.fileno())
    shutil.copystat(source, target)
