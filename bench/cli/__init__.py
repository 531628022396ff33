"""The command line: one file a subcommand, everything heavy imported inside the command."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code. User errors print without a traceback and exit 2."""
    from bench.cli._app import run

    return run(sys.argv[1:] if argv is None else argv)
