"""Several ``bench`` commands in one process, one after the other: starting Python with torch takes longer than most.

Reads a JSON list of argument lists, prints a JSON list of (exit code, standard output, standard error).
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from bench.cli import main


def one(args: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    print(json.dumps([one(args) for args in json.load(sys.stdin)]))
