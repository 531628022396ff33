"""In this process, for a debugger: no hard limit from outside."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from bench.launch.base import WORKER, Job, Launcher, Outcome


class Inline(Launcher):
    """In this process, one after the other; nothing ends a call that does not return."""

    here = True

    def launch(self, jobs: Sequence[Job], *, quiet: bool = False) -> list[Outcome]:
        main = importlib.import_module(WORKER).main
        return [Outcome(job.folder, main([str(job.folder), *(["--quiet"] if quiet else [])])) for job in jobs]
