"""``bench score``: measure the stored images of a run again, or its adapter at other scales; no tuning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.core.record import Record, SnapshotEntry


@click.command()
@click.argument("run")
@click.option("--regenerate", is_flag=True, help="First make missing or damaged images again, from the adapters.")
@click.option("--adapter-scale", help="Sample and score the last snapshot at these LoRA scales too, such as 0.5,0.75.")
@o.judging_options
@o.data
@o.runs
@o.as_json
def score(
    run: str, regenerate: bool, adapter_scale: str | None, runs: Path, json: bool, **judging: Any
) -> int:  # fmt: skip
    """Score the stored images of a finished run again and rewrite its record.

    What is not said about metrics and judges stays as the run has it; what is said holds from then on.

    With --adapter-scale nothing is scored again: the scales are added to the record, and boards keep the tuner's own.
    """
    from bench.cli._methods import describe
    from bench.cli._output import print_json
    from bench.engine.rescoring import parse_scales, rescore
    from bench.engine.summary import rows
    from bench.store.runs import find_run
    from leaderboard.site import build

    scales = parse_scales(adapter_scale) if adapter_scale else []
    record = rescore(find_run(runs, run), regenerate=regenerate, scales=scales, quiet=json,
                     say=lambda text: print(text, file=sys.stderr), **judging)  # fmt: skip
    page = build(runs, describe=describe)
    tables = [(_own(record), rows(record)), *((_title(e.snapshot), rows(record, e)) for e in record.scales)]
    if json:
        print_json({
            "run_id": record.run_id, "page": str(page), "metrics": [r.as_dict() for r in tables[0][1]],
            "scales": [{"adapter_scale": e.snapshot.adapter_scale, "u_per_image": e.snapshot.u_per_image,
                        "metrics": [r.as_dict() for r in rows(record, e)]} for e in record.scales],
        })  # fmt: skip
    else:
        from bench.cli._output import print_results

        for title, table in tables:
            print(title)
            print_results(table)
        print(f"leaderboard: {page}")
    return 0


def _own(record: Record) -> str:
    return _title(record.snapshots[-1]) if record.snapshots else f"{record.status}: {record.reason}"


def _title(snapshot: SnapshotEntry) -> str:
    cost = "" if snapshot.u_per_image is None else f", {snapshot.u_per_image:g} U an image"
    return f"\n{snapshot.name}: adapter scale {snapshot.adapter_scale:g}{cost}"
