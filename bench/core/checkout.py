"""Which source code runs: the commit of the checkout that this package is imported from."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """(commit, dirty) of the source tree that this package runs from; (None, None) for an installed copy."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None, None

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *args], capture_output=True, text=True, check=False, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return head, None if changes is None else bool(changes)
