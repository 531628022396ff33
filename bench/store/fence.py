"""The fence: of all attempts at a run only the newest changes what the attempts share.

A lock is not enough: a node that Slurm gave up may run on, and locks do not cross every network file system. So each
attempt writes shared files by renames out of, and removes them by renames into, a folder of its own (``staging``).
A newer attempt takes the older ones' folders away before it reads anything; from then on an older copy's renames fail
in the kernel, whatever it had checked before. ``fence.json`` names the holder, for people and for the sentence that
the older copy ends with.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core import exits
from bench.core.errors import UserError
from bench.store import atomic

FENCE = "fence.json"
STAGING = "staging"


class Stale(UserError):
    """A newer attempt at the run has started; this one may write nothing any more."""

    exit_code = exits.STALE


class Fence(atomic.Staging):
    """One attempt's right to change the run folder ``root``, until a newer attempt claims it."""

    def __init__(self, root: Path, number: int, token: str) -> None:
        self.root = root
        self.number = number
        self.token = token
        self.attempt = attempt_root(root, number)
        self.staging = self.attempt / STAGING

    @classmethod
    def claim(cls, root: Path, facts: Mapping[str, Any]) -> Fence:
        """Starts the next attempt: makes ``attempts/NNN`` with its env.json and puts every older attempt out.

        Args:
            root: the run folder.
            facts: what env.json and the fence say of the new attempt; number and token are added.
        """
        token = secrets.token_hex(8)
        fence = cls(root, _next_number(root), token)
        fence.attempt.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=atomic.TEMPORARY, dir=root / "attempts"))
        making.chmod(0o755)
        (making / STAGING).mkdir()
        while True:
            atomic.write_json(making / "env.json", {**facts, "number": fence.number, "token": token})
            try:
                # a folder that holds something is never replaced: of two attempts that want a number one gets it
                os.rename(making, fence.attempt)
                break
            except OSError:
                if not fence.attempt.exists():
                    raise
                fence = cls(root, fence.number + 1, token)
        for older in range(1, fence.number):
            _remove(attempt_root(root, older) / STAGING)
        with fence:
            atomic.write_json(root / FENCE, {**facts, "number": fence.number, "token": token})
        return fence

    def covers(self, path: Path) -> bool:
        """Whether ``path`` is shared by attempts: in the run folder and not in this attempt's own."""
        return self.root in path.parents and self.attempt not in path.parents

    def check(self) -> None:
        """Raises Stale when a newer attempt has claimed the run."""
        if not self.staging.is_dir():
            raise self.gone()

    def gone(self) -> UserError:
        """What the older copy is told."""
        if not self.attempt.is_dir():
            return UserError(f"the run folder {self.root} was removed while attempt {self.number} worked in it",
                             hint="the same bench run command starts it anew")  # fmt: skip
        holder = read_fence(self.root)
        by = "" if holder is None or holder["token"] == self.token else f" by {describe(holder)}"
        return Stale(
            f"run {self.root.name} was started anew{by}; this copy, attempt {self.number}, stops",
            valid="one attempt at a time changes a run folder; this one has changed nothing since",
            hint=f"bench logs {self.root.name}",
        )


def describe(holder: Mapping[str, Any]) -> str:
    """``attempt 2 on node n2, job 12_3``"""
    job = f", job {holder['job_id']}" if holder.get("job_id") else f", process {holder['pid']}"
    return f"attempt {holder['number']} on {holder['host']}{job}"


def attempt_root(root: Path, number: int) -> Path:
    """``attempts/NNN`` of the run folder ``root``."""
    return root / "attempts" / f"{number:03d}"


def read_fence(root: Path) -> dict[str, Any] | None:
    """Who holds the run: number, token, host, pid, job id, when. None where nobody has started."""
    path = root / FENCE
    found: dict[str, Any] | None = atomic.read_json(path) if path.exists() else None
    return found


def _next_number(root: Path) -> int:
    return max((int(p.name) for p in (root / "attempts").glob("[0-9]*")), default=0) + 1


def _remove(folder: Path) -> None:
    """Until it is gone: an older copy may put files into it meanwhile, and another newcomer remove it too."""
    while folder.exists():
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
