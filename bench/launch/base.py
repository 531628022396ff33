"""What every launcher is: it starts workers on prepared run folders and reports how each ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WORKER = "bench.engine.worker"
"""The module that carries out one run folder; a string, since launchers know nothing of what a run does."""


@dataclass(frozen=True)
class Job:
    """One prepared run folder."""

    folder: Path
    hard_wall_s: float
    """Wall-clock seconds of tuning after which it is ended from outside."""


@dataclass(frozen=True)
class Outcome:
    """How one job ended."""

    folder: Path
    exit_code: int
    """0: the record is there; 2: a user error, already printed; 130: interrupted; else a crash."""


class Launcher(ABC):
    """Runs jobs somewhere. A dead job never stops the others."""

    @abstractmethod
    def launch(self, jobs: Sequence[Job], *, quiet: bool = False) -> list[Outcome]: ...
