"""The published prompt files that full editions read: found, missing or wrong."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import _options as o


@click.command("status")
@o.data
@o.as_json
def status(data: Path | None, json: bool) -> int:
    """Say which published files are there, missing or wrong, and where to get them; exit 1 if any is not right."""
    import dataclasses

    from bench.cli._output import print_json, print_table
    from bench.core.errors import UserError
    from suites.data import status as files

    if data is None:
        raise UserError("no data folder is named", valid="--data DIR or the environment variable TUNEBENCH_DATA",
                        hint="bench data status --data DIR")  # fmt: skip
    found = files(data)
    if json:
        print_json({"files": [dataclasses.asdict(f) for f in found]})
    else:
        print_table(
            ("suite", "file", "state", "what to do"),
            [(f.suite, str(f.path), f.state, f.todo or f.detail) for f in found],
        )
    return 0 if all(f.state == "found" for f in found) else 1
