"""``bench report``: the static site, from records alone."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import _options as o


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@o.runs
@click.option("--out", type=click.Path(path_type=Path),
              help="The site's folder, replaced as a whole.  [default: leaderboard in the first folder]")  # fmt: skip
@o.as_json
def report(folders: tuple[Path, ...], runs: Path, out: Path | None, json: bool) -> int:
    """Render the leaderboard from the records under --runs, or under several FOLDERs joined by run id."""
    import dataclasses

    from bench.cli._output import print_json
    from bench.core.errors import UserError
    from leaderboard.site import build_site, n_processes

    roots = folders or (runs,)
    for root in roots:
        if not root.is_dir():
            raise UserError(f"there is no folder {root}", hint="bench run --suite coco --tuner drtune")
    built = build_site(roots, out, n_processes=n_processes())
    if json:
        unreadable = [dataclasses.asdict(u) for u in built.unreadable]
        print_json({
            "page": str(built.index), "n_runs": built.n_runs, "n_checked": built.n_checked, "n_pages": built.n_pages,
            "n_made": built.n_made, "unreadable": unreadable,
        })  # fmt: skip
        return 0
    for problem in built.unreadable:
        print(f"not taken: {problem.path}: {problem.reason}")
    print(f"leaderboard: {built.index}")
    return 0
