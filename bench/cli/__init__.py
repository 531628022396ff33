"""The command line: one file a subcommand, everything heavy imported inside the command."""

from __future__ import annotations

import os
import sys

# Two OpenMP threads that spin for each other on one busy core make tuning twenty times slower (measured); threads that
# sleep cost a few per cent on idle cores. Read once, when torch loads its runtime, so it is set before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code. User errors print without a traceback and exit 2."""
    from bench.cli._app import run

    return run(sys.argv[1:] if argv is None else argv)
