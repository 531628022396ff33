"""``bench report``: the static site, from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.cli import _options as o


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@o.runs
@click.option("--out", type=click.Path(path_type=Path),
              help="The site's folder, replaced as a whole.  [default: leaderboard in the first folder]")  # fmt: skip
@click.option("--compare", nargs=2, multiple=True, metavar="RUN RUN",
              help="Two runs to put side by side, in this and every later site; repeatable.")  # fmt: skip
@click.option("--planned", type=click.Path(path_type=Path),
              help="A list of run folders, as a submission to a cluster keeps it: say which have no record, and exit 1 "
                   "if any has none.")  # fmt: skip
@o.as_json
def report(
    folders: tuple[Path, ...], runs: Path, out: Path | None, compare: tuple[tuple[str, str], ...],
    planned: Path | None, json: bool,
) -> int:  # fmt: skip
    """Render the leaderboard from the records under --runs, or under several FOLDERs joined by run id."""
    import dataclasses

    from bench.cli._methods import describe
    from bench.cli._output import print_json
    from bench.core.errors import UserError
    from bench.launch.planned import missing, read_planned
    from leaderboard.site import build_site, n_processes

    roots = folders or (runs,)
    for root in roots:
        if not root.is_dir():
            raise UserError(f"there is no folder {root}", hint="bench run --suite coco --tuner drtune")
    compared = _request(roots, compare) if compare else []
    built = build_site(roots, out, n_processes=n_processes(), describe=describe)
    listed = read_planned(planned) if planned else []
    lost = missing(listed)
    if json:
        unreadable = [dataclasses.asdict(u) for u in built.unreadable]
        print_json({
            "page": str(built.index), "n_runs": built.n_runs, "n_checked": built.n_checked, "n_pages": built.n_pages,
            "n_made": built.n_made, "unreadable": unreadable,
            "compared": [str(built.index.parent / path) for path in compared],
            "missing": {root.name: why for root, why in lost.items()},
        })  # fmt: skip
        return 1 if lost else 0
    for problem in built.unreadable:
        print(f"not taken: {problem.path}: {problem.reason}")
    print(f"leaderboard: {built.index}")
    for path in compared:
        print(f"compared: {built.index.parent / path}")
    if planned:
        print(f"{len(listed) - len(lost)} of {len(listed)} planned run(s) have a record")
    for root, why in lost.items():
        print(f"missing: {root.name}: {why}")
    if lost:
        print("try:   the same bench run command again: it submits what is missing")
    return 1 if lost else 0


def _request(roots: Sequence[Path], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Keeps the pairs beside the first folder's runs; the paths of their pages in the site."""
    from leaderboard import compare_page
    from leaderboard.page import cache_of
    from leaderboard.read import read_all

    runs = {run.run_id: run for run in read_all(roots, cache_of(roots)).runs}
    return [compare_page.request(roots[0], runs, a, b) for a, b in pairs]
