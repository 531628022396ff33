"""The published prompt files that full editions read: found, missing or wrong; and their download."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.cli import _options as o


@click.command("status")
@click.argument("names", nargs=-1, metavar="[SUITE|LIST]...")
@o.data
@o.as_json
def status(names: tuple[str, ...], data: Path | None, json: bool) -> int:
    """Say which published files are there, missing or wrong, and where to get them; exit 1 if one that is needed is not
    right. Suites and training lists may be named; without, all are shown, and lists that no suite needs may be missing.
    """
    import dataclasses

    from bench.cli._output import print_json, print_table
    from suites.data import status as files

    root = _root(data, "status")
    found = files(root, names)
    if json:
        print_json({"files": [dataclasses.asdict(f) for f in found]})
    else:
        print_table(
            ("suite", "file", "state", "what to do"),
            [(f.suite, str(f.path), f.state if f.needed else f"{f.state} ({f.variant} only)", f.todo or f.detail)
             for f in found],
        )  # fmt: skip
    return 0 if all(f.state == "found" for f in found if f.needed) else 1


@click.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="SUITE|LIST...")
@o.data
@o.as_json
def fetch(names: tuple[str, ...], data: Path | None, json: bool) -> int:
    """Download published files of suites (coco, hpsv2-400) and training lists (hpdv2) into the data folder; 'suites'
    is every suite. What is right already stays; a cut download goes on where it was. Exit 1 if a file was not got.
    """
    from bench.cli._output import print_error, print_json
    from suites._fetch import fetch as download
    from suites.data import status as files
    from suites.data import wanted

    root = _root(data, "fetch")
    chosen = _suites() if names == ("suites",) else names
    missing = {f.path for f in files(root, chosen) if f.state != "found"}
    files_wanted = [w.file for w in wanted(chosen)]
    to_get = [file for file in files_wanted if str(root / file.path) in missing]

    def say(line: str) -> None:
        print(line, file=sys.stderr if json else sys.stdout)

    root.mkdir(parents=True, exist_ok=True)
    for file in files_wanted:
        if file not in to_get:
            say(f"{root / file.path}: already there")
    done = download(to_get, root, say) if to_get else []
    failed = [f for f in done if f.error is not None]
    if json:
        print_json({"files": [{"path": str(f.path), "error": str(f.error) if f.error else None} for f in done],
                    "already_there": [str(root / f.path) for f in files_wanted if f not in to_get]})  # fmt: skip
    for one in failed:
        assert one.error is not None
        print_error(one.error, as_json=False)
    return 1 if failed else 0


def _suites() -> tuple[str, ...]:
    from suites._card import names

    return tuple(names())


def _root(data: Path | None, command: str) -> Path:
    from bench.core.errors import UserError

    if data is None:
        raise UserError("no data folder is named", valid="--data DIR or the environment variable TUNEBENCH_DATA",
                        hint=f"bench data {command} --data DIR")  # fmt: skip
    return data.expanduser()
