"""Options: what the user typed, as one dataclass that the command line and TOML both fill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Everything that ``run`` and ``plan`` accept. Turned into a plan in one place: ``bench.engine.plan``."""

    suite: str
    """Suite names, comma-separated; ``hpsv2-400`` and ``coco.val2017`` name variants."""
    tuner: str
    """Tuner or preset names, comma-separated; ``all``; or a path to a file."""
    reward: str | None = None
    """Reward expression; None is the suite's own."""
    model: str | None = None
    """Base model: a name, a folder, NAME=FOLDER or a hub id; None is the suite's own."""
    edition: str = "sample"
    seeds: str = "1"
    """A number of tuning seeds (3 means 0, 1, 2) or a list with a comma ("4,", "0,7")."""
    budget: tuple[str, ...] = ()
    """``kind=limit`` pairs that replace the suite's budget."""
    settings: tuple[str, ...] = ()
    """``key=value`` for every tuner of the plan, or ``tuner.key=value`` for one."""
    data: Path | None = None
    """Folder of the published prompt files; None reads TUNEBENCH_DATA."""
    limit: int | None = None
    """Only the first prompts: a smoke test, never ranked."""
    fractions: str | None = None
    """Shares of the budget at which the adapter is kept and scored, such as "0,0.5,1"; None is the suite's."""
    hard_limit_s: float | None = None
    """Wall-clock seconds of tuning after which the run is ended from outside."""
    processes: int = 1
    """Processes that tune one run together, one a GPU; they change the answer by rounding only, so no run's id."""
    micro_batch: int | None = None
    """Samples per forward, accumulated to the suite's global batch; None is global batch / processes. Not in the id."""
    skip_invalid: bool = False
    """Leave out runs that cannot start and carry out the others; ``tuner="all"`` does so by itself."""
    runs: Path = Path("runs")
