"""``bench report``: the static site, from records alone."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import _options as o


@click.command()
@o.runs
@click.option(
    "--planned",
    type=click.Path(path_type=Path),
    help="A list of run folders, as a submission to a cluster "
    "keeps it: say which have no record, and exit 1 if any has none.",
)
@o.as_json
def report(runs: Path, planned: Path | None, json: bool) -> int:
    """Render the leaderboard from the records under --runs."""
    from bench.cli._output import print_json
    from bench.core.errors import UserError
    from bench.launch.planned import missing, read_planned
    from leaderboard.site import build

    if not runs.is_dir():
        raise UserError(f"there is no folder {runs}", hint="bench run --suite coco --tuner drtune")
    page = build(runs)
    folders = read_planned(planned) if planned else []
    lost = missing(folders)
    if json:
        print_json({"page": str(page), "missing": {root.name: why for root, why in lost.items()}})
        return 1 if lost else 0
    print(f"leaderboard: {page}")
    if planned:
        print(f"{len(folders) - len(lost)} of {len(folders)} planned run(s) have a record")
    for root, why in lost.items():
        print(f"missing: {root.name}: {why}")
    if lost:
        print("try:   the same bench run command again: it submits what is missing")
    return 1 if lost else 0
