"""``bench logs``: what the worker of a run printed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.store.runs import RunFolder

POLL_S = 0.5


@click.command()
@click.argument("run")
@click.option("--attempt", type=click.IntRange(min=1), help="Of this attempt instead of the newest.")
@click.option("--follow", is_flag=True, help="Go on as it grows, until the run is over; Ctrl-C ends it.")
@o.runs
def logs(run: str, attempt: int | None, follow: bool, runs: Path) -> int:
    """Print the output of a run's worker, whoever started it and wherever it ran."""
    from bench.core.errors import UserError
    from bench.store.runs import find_run

    folder = find_run(runs, run)
    numbers = _attempts(folder)
    if attempt is not None and attempt not in numbers:
        raise UserError(f"run {folder.root.name} has no attempt {attempt}",
                        valid=", ".join(map(str, numbers)) or "none has begun", hint=f"bench logs {run}")  # fmt: skip
    if not numbers and not follow:
        return _before_it_began(folder)
    shown = 0
    at = attempt or (numbers[-1] if numbers else 0)
    while True:
        shown += _print_from(folder, at, shown)
        newer = [n for n in _attempts(folder) if n > at]
        if follow and attempt is None and newer:
            at, shown = newer[-1], 0
            print(f"--- attempt {at}", file=sys.stderr)
            continue
        if not follow or _over(folder, at, alone=attempt is not None):
            _print_from(folder, at, shown)
            return 0
        time.sleep(POLL_S)


def _attempts(folder: RunFolder) -> list[int]:
    return sorted(int(path.name) for path in folder.attempts.glob("[0-9]*"))


def _print_from(folder: RunFolder, attempt: int, offset: int) -> int:
    """Prints the log from a byte on; returns how many bytes that were."""
    from bench.store.fence import attempt_root

    path = attempt_root(folder.root, attempt) / "log.txt"
    if not path.exists():
        return 0
    with path.open("rb") as log:
        log.seek(offset)
        new = log.read()
    sys.stdout.write(new.decode("utf-8", errors="replace"))
    sys.stdout.flush()
    return len(new)


def _over(folder: RunFolder, attempt: int, *, alone: bool) -> bool:
    """Whether nothing will be added: the run is done or failed, or, of one attempt, that has ended."""
    from bench.store.fence import attempt_root
    from bench.store.liveness import has_ended, process_is_gone, read_pulse

    if folder.record_path.exists():
        return True
    root = attempt_root(folder.root, attempt)
    if alone:
        return has_ended(root) or read_pulse(root) is None
    from bench.store.fence import read_fence
    from bench.store.jobs import read_jobs

    holder = read_fence(folder.root)
    # a run without a cluster's job goes on only when somebody asks for it
    return holder is not None and not read_jobs(folder.root) and (has_ended(root) or process_is_gone(holder))


def _before_it_began(folder: RunFolder) -> int:
    """What the cluster kept of a job that never came to the worker."""
    from bench.core.errors import UserError
    from bench.store.jobs import read_jobs

    for job in reversed(read_jobs(folder.root)):
        path = Path(job.log)
        if job.log and path.is_file():
            print(f"no attempt has begun; what job {job.job_id} printed ({path}):", file=sys.stderr)
            sys.stdout.write(path.read_text("utf-8", errors="replace"))
            return 0
    raise UserError(f"run {folder.root.name} has printed nothing: no attempt has begun", hint="bench status")
