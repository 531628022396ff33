"""``bench report``: the static site, from records alone."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import _options as o


@click.command()
@o.runs
@o.as_json
def report(runs: Path, json: bool) -> int:
    """Render the leaderboard from the records under --runs."""
    from bench.cli._output import print_json
    from bench.core.errors import UserError
    from leaderboard.site import build

    if not runs.is_dir():
        raise UserError(f"there is no folder {runs}", hint="bench run --suite coco --tuner drtune")
    page = build(runs)
    print_json({"page": str(page)}) if json else print(f"leaderboard: {page}")
    return 0
