"""What every launcher is: it starts workers on prepared run folders and reports how each ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WORKER = "bench.engine.worker"
"""The module that carries out one run folder; a string, since launchers know nothing of what a run does."""


@dataclass(frozen=True)
class Estimate:
    """How long a run is expected to take, in wall-clock seconds, and where each figure comes from."""

    tuning_s: float
    tuning_why: str
    scoring_s: float
    """Images and scores of all snapshots."""
    scoring_why: str


@dataclass(frozen=True)
class Job:
    """One prepared run folder."""

    folder: Path
    hard_wall_s: float
    """Wall-clock seconds of tuning after which it is ended from outside."""
    processes: int = 1
    """Processes that tune together, one a GPU."""
    device: str = "auto"
    """``cpu``, ``cuda`` or ``auto``."""
    stage: str = "all"
    """``tune``, ``generate`` (a part of the images), ``evaluate`` (images and scores), or ``all``."""
    shard: tuple[int, int] = (0, 1)
    """Of stage ``generate``: which part, from 0, of how many."""
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Outcome:
    """How one job ended."""

    folder: Path
    exit_code: int
    """0: the record is there, or, where the launcher does not wait, will be; 2: a user error, already printed;
    130: interrupted; else a crash."""


@dataclass(frozen=True)
class LaunchOptions:
    """What the user says about where and how runs run; none of it changes an answer."""

    jobs: int = 1
    """Runs at once on this machine."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """``--set <launcher>.KEY=VALUE``, without the launcher's name."""
    config: Path | None = None
    """The user's TOML; None is ``~/.config/tunebench/config.toml``."""
    wait: bool = False
    """Return when every run is over, also where the launcher could return at once."""


class Launcher(ABC):
    """Runs jobs somewhere. A dead job never stops the others."""

    here = False
    """Whether runs compute on this machine, so that what it lacks can be told before anything is started."""

    def __init__(self, options: LaunchOptions | None = None) -> None:
        self.options = options or LaunchOptions()

    @property
    def waits(self) -> bool:
        """Whether ``launch`` returns only when the runs are over."""
        return True

    @property
    def cpus(self) -> int | None:
        """CPUs that each run will have where they run; None: those of this machine."""
        return None

    def check(self, jobs: Sequence[Job] = ()) -> None:  # noqa: B027 - most launchers can always
        """Raises UserError where this launcher cannot launch ``jobs``, or anything, from here."""

    def active(self, folders: Sequence[Path]) -> dict[Path, str]:
        """Run folders that jobs of an earlier command wait for or work on, each with which; they are left alone."""
        return {}

    def describe(self, jobs: Sequence[Job]) -> list[str]:
        """What ``launch`` would do, line by line; nothing is started or written."""
        return [f"{len(jobs)} run(s) in this process, one after the other"]

    @abstractmethod
    def launch(self, jobs: Sequence[Job], *, quiet: bool = False) -> list[Outcome]:
        """Runs ``jobs``; returns how each ended, in their order.

        Raises:
            UserError: they cannot run there.
        """

    def stop(self) -> None:  # noqa: B027 - a launcher without workers of its own has nothing to stop
        """Asks the workers that this launcher started here to keep a checkpoint and leave, and waits for them.

        Called from a signal handler on top of ``launch``.
        """
