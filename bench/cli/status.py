"""``bench status``: every run folder and how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.cli import _options as o


@click.command()
@o.runs
@o.as_json
def status(runs: Path, json: bool) -> int:
    """Show every run: done, failed, running or interrupted, with the budget spent."""
    from bench.cli._output import print_json, print_table
    from bench.store.runs import iter_run_folders

    rows = [_row(folder) for folder in iter_run_folders(runs)]
    if json:
        print_json({"runs": rows})
        return 0
    if not rows:
        print(f"no runs under {runs}")
        return 0
    print_table(
        ("run", "suite", "tuner", "reward", "seed", "state", "spent", "reason"),
        [
            (r["run_id"], r["suite"], r["tuner"], r["reward"], str(r["seed"]), r["state"], _spent(r), r["reason"] or "")
            for r in rows
        ],
    )
    return 0


def _row(folder: Any) -> dict[str, Any]:
    from bench.store import atomic
    from bench.store.lock import is_held

    spec = folder.read_spec()
    state, reason = "interrupted", None
    if folder.record_path.exists():
        record = folder.read_record()
        state, reason = record.status, record.reason
    elif is_held(folder.lock_path):
        state = "running"
    ledger = atomic.read_json(folder.ledger_path) if folder.ledger_path.exists() else None
    primary = spec.budget.primary
    return {
        "run_id": spec.run_id, "suite": spec.suite, "tuner": spec.label, "reward": spec.reward, "seed": spec.seed,
        "state": state, "reason": reason, "folder": str(folder.root), "primary": primary,
        "limit": spec.budget.limit(primary), "spent": ledger["spent"][primary] if ledger else 0.0,
    }  # fmt: skip


def _spent(row: dict[str, Any]) -> str:
    return f"{row['spent']:,.0f} / {row['limit']:,.0f} {row['primary']}"
