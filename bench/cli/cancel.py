"""``bench cancel``: end runs that wait or run; each keeps what it has, and the same command continues it later."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.cli._states import Row


@click.command()
@click.argument("names", metavar="RUN...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every run under --runs that waits or runs.")
@o.runs
@o.as_json
def cancel(names: Sequence[str], everything: bool, runs: Path, json: bool) -> int:
    """Take runs out of the cluster's queue, or ask their workers to keep a checkpoint and leave."""
    from bench.cli._output import print_json
    from bench.cli._states import read_states
    from bench.core.errors import UserError
    from bench.store.runs import find_run

    if bool(names) == everything:
        raise UserError("which runs?" if not names else "--all and names of runs", valid="RUN... or --all",
                        hint="bench status; bench cancel RUN")  # fmt: skip
    rows, queue = read_states(runs, None if everything else [find_run(runs, name) for name in names])
    done = [_cancel_jobs(rows), *(_cancel_process(row) for row in rows)]
    said = {name: text for part in done for name, text in part.items()}
    for row in rows:
        if row.name not in said and not everything:
            said[row.name] = f"nothing to cancel: it is {row.state.word}"
    if json:
        print_json({"cancelled": said, "problem": queue.problem})
        return 0
    for name, text in said.items():
        print(f"{name}: {text}")
    if queue.problem:
        print(queue.problem)
    if not said:
        print(f"nothing under {runs} waits or runs")
    return 0


def _cancel_jobs(rows: Sequence[Row]) -> Mapping[str, str]:
    """One scancel for all. Raises UserError when the cluster refuses."""
    from bench.core.errors import UserError
    from bench.store.jobs import note_cancelled

    ids = {row.name: row.state.job_ids for row in rows if row.state.job_ids}
    if not ids:
        return {}
    each = sorted({job_id for mine in ids.values() for job_id in mine})
    done = subprocess.run(["scancel", *each], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"scancel failed: {done.stderr.strip()}", valid="nothing may have been cancelled",
                        hint="bench status; the same command again")  # fmt: skip
    for row in rows:
        for job_id in ids.get(row.name, ()):
            note_cancelled(row.facts.folder, job_id)
    return {name: f"{_named(mine)} cancelled; the same bench run command continues the run"
            for name, mine in ids.items()}  # fmt: skip


def _named(ids: Sequence[str]) -> str:
    return f"job {ids[0]} is" if len(ids) == 1 else f"jobs {', '.join(ids)} are"


def _cancel_process(row: Row) -> dict[str, Any]:
    """SIGTERM to a worker of this machine."""
    holder = row.facts.holder
    if row.state.job_id or row.state.word != "running" or holder is None:
        return {}
    where = f"process {holder['pid']} on {holder['host']}"
    if holder["host"] != socket.gethostname():
        return {row.name: f"it runs as {where}: ssh {holder['host']} kill {holder['pid']}"}
    os.kill(holder["pid"], signal.SIGTERM)
    return {row.name: f"{where} was asked to leave: it keeps a checkpoint; the same bench run command continues"}
