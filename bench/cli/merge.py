"""``bench merge``: one runs folder out of several."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import _options as o


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="FROM...", type=click.Path(path_type=Path))
@click.option("--into", type=click.Path(path_type=Path), required=True, help="Runs folder that receives them.")
@o.as_json
def merge(sources: tuple[Path, ...], into: Path, json: bool) -> int:
    """Add the finished runs of other runs folders, as a set union by run id, and the votes of people on runs that are
    there already; nothing is overwritten.

    Exit code 1 when a run was refused or has other content under the same id.
    """
    import dataclasses

    from bench.cli._methods import describe
    from bench.cli._output import print_json, print_table
    from bench.store.merge import merge as union
    from bench.study.merging import merge_votes
    from leaderboard.site import build

    found = union(sources, into, merge_votes)
    counts = {kind: sum(m.outcome == kind for m in found) for kind in ("added", "same", "votes", "conflict",
                                                                     "refused", "unfinished")}  # fmt: skip
    page = build(into, describe=describe)
    if json:
        print_json({"runs": [dataclasses.asdict(m) for m in found], "counts": counts, "page": str(page)})
    else:
        told = [m for m in found if m.outcome not in ("added", "same")]
        if told:
            print_table(("run", "", "from", "why"), [(m.run_id, m.outcome, m.source, m.reason) for m in told])
        print(", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "no runs found")
        print(f"leaderboard: {page}")
    return 1 if counts["conflict"] or counts["refused"] else 0
