"""``bench score``: measure the stored images of a run again; no tuning, no generation."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import _options as o


@click.command()
@click.argument("run")
@click.option("--regenerate", is_flag=True, help="First make missing or damaged images again, from the adapters.")
@o.runs
@o.as_json
def score(run: str, regenerate: bool, runs: Path, json: bool) -> int:
    """Score the stored images of a finished run again and rewrite its record."""
    from bench.cli._output import print_json
    from bench.engine.summary import rows
    from bench.engine.worker import rescore
    from bench.store.runs import find_run
    from leaderboard.site import build

    record = rescore(find_run(runs, run), regenerate=regenerate, quiet=json)
    page = build(runs)
    if json:
        print_json({"run_id": record.run_id, "metrics": [r.as_dict() for r in rows(record)], "page": str(page)})
    else:
        from bench.cli._output import print_table

        print_table(("metric", "base", "tuned", "difference", "95 % interval", "role", "n"),
                    [r.cells() for r in rows(record)])  # fmt: skip
        print(f"leaderboard: {page}")
    return 0
