"""``bench status``: every run folder and how far it is, with what a cluster says of its job."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.cli._states import Row
    from bench.launch.queue import Queue

HEADER = ("run", "suite", "tuner", "reward", "seed", "state", "spent", "now", "why")
EVERY_S = 5.0
"""Between two looks with --watch; a cluster that many watch is asked no more often."""


@click.command()
@o.runs
@click.option("--watch", is_flag=True, help="Look again every few seconds until nothing waits or runs.")
@click.option("--every", "every_s", type=click.FloatRange(min=0.5), default=EVERY_S, show_default=True,
              help="Seconds between two looks with --watch.")  # fmt: skip
@o.as_json
def status(runs: Path, watch: bool, every_s: float, json: bool) -> int:
    """Show every run: queued, running (with rate and time left), done, failed, lost; and what to type next."""
    from bench.cli._output import print_json
    from bench.cli._states import read_states
    from bench.core.errors import UserError

    if json and watch:
        raise UserError("--json shows one moment, --watch many", valid="one of them", hint="bench status --json")
    if watch:
        return _watch(runs, every_s)
    rows, queue = read_states(runs)
    if json:
        print_json({
            "runs": [row.as_dict() for row in rows], "cluster": {"calls": queue.n_calls, "problem": queue.problem},
        })  # fmt: skip
        return 0
    print("\n".join(_lines(runs, rows, queue)))
    return 0


def _watch(runs: Path, every_s: float) -> int:
    """Redraws on a terminal; elsewhere prints a line for every change."""
    from bench.cli._states import read_states
    from bench.store.state import ACTIVE

    before: dict[Path, str] = {}
    if sys.stdout.isatty():
        print("\033[2J", end="")
    while True:
        rows, queue = read_states(runs)
        if sys.stdout.isatty():
            # home, what is new, and nothing below: without the flicker of an empty screen
            width, height = shutil.get_terminal_size()
            shown = _fit(_lines(runs, rows, queue), height - 1)
            print("\033[H" + "\n".join(f"{line[:width]}\033[K" for line in shown) + "\033[J", flush=True)
        else:
            for row in rows:
                line = f"{row.state.word}" + (f" ({row.state.reason})" if row.state.reason else "")
                if before.get(row.facts.folder) != line:
                    before[row.facts.folder] = line
                    print(f"{time.strftime('%H:%M:%S')} {row.name} {row.facts.spec['label']}: {line}", flush=True)
        if not any(row.state.word in ACTIVE for row in rows):
            return 0
        time.sleep(every_s)


def _fit(lines: list[str], height: int) -> list[str]:
    """At most ``height`` lines: the header, the first runs, and the summary at the end."""
    if len(lines) <= height:
        return lines
    n_end = len(lines) - lines.index("")
    n_start = max(1, height - n_end - 1)
    return [*lines[:n_start], f"... {len(lines) - n_end - n_start} more", *lines[-n_end:]]


def _lines(runs: Path, rows: Sequence[Row], queue: Queue) -> list[str]:
    from bench.cli._output import table_lines

    if not rows:
        return [f"no runs under {runs}"]
    lines = table_lines(HEADER, [_cells(row.as_dict()) for row in rows])
    counts = Counter(row.state.word for row in rows)
    lines += ["", f"{len(rows)} runs: " + ", ".join(f"{n} {word}" for word, n in counts.most_common())]
    if queue.problem:
        lines.append(queue.problem)
    hints = Counter(row.state.hint.replace(row.name, "RUN") for row in rows if row.state.hint)
    lines += [f"{n} of them: {hint}" for hint, n in hints.most_common()]
    return lines


def _cells(r: dict[str, Any]) -> tuple[str, ...]:
    lost = f" (+ {r['lost']:,.0f} lost)" if r["lost"] else ""
    spent = f"{r['spent']:,.0f} / {r['limit']:,.0f} {r['primary']}{lost}"
    return (r["run_id"], r["suite"], r["tuner"], r["reward"], str(r["seed"]), r["state"], spent,
            _now(r["stage"], r["spent"]), r["reason"] or "")  # fmt: skip


def _now(stage: dict[str, Any] | None, spent: float) -> str:
    """``tune 45 %, 12 U/s, 3 min left``; a dash for a rate that is not known yet.

    Args:
        spent: of the budget, as the ledger has it, which is written oftener than what the stage says of itself.
    """
    if stage is None:
        return ""
    from bench.store.state import duration

    count = max(stage["count"], spent) if stage["name"] == "tune" else stage["count"]
    share = 100 * min(1.0, count / stage["total"]) if stage["total"] else 100
    rate = stage["rate_per_s"]
    if not rate:
        return f"{stage['name']} {share:.0f} %, – {stage['unit']}/s"
    left_s = max(0.0, stage["total"] - count) / rate
    return f"{stage['name']} {share:.0f} %, {rate:,.3g} {stage['unit']}/s, {duration(left_s)} left"
