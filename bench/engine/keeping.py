"""What a kill leaves behind: the ledger and checkpoints, saved at safe points when they are due."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch

from bench.core.budget import Ledger
from bench.core.contract import Tuner
from bench.engine.attempt import read_units
from bench.engine.loop import LoopState
from bench.engine.pace import Pace
from bench.store import atomic
from bench.store.fence import attempt_root
from bench.store.runs import RunFolder

CHECKPOINT_SHARE = 0.008
"""Of a run's wall-clock time, at most; with the ledger's share 1 %."""
LEDGER_SHARE = 0.002
CHECKPOINT_LEAST_S = 5.0
CHECKPOINT_GROWTH = 0.01
"""A kill costs about 1 % of the attempt's work at most, and a minute where saving is cheap."""
CHECKPOINT_MOST_S = 60.0
LEDGER_EVERY_S = 0.5


class Keeper:
    """Saves ledger and checkpoints of one attempt. All of it is off the budget's clock."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._checkpoint = Pace(
            CHECKPOINT_LEAST_S, CHECKPOINT_SHARE, growth=CHECKPOINT_GROWTH, most_s=CHECKPOINT_MOST_S
        )
        self._ledger = Pace(LEDGER_EVERY_S, LEDGER_SHARE)

    def keep(self, tuner: Tuner, state: LoopState, ledger: Ledger, *, force: bool = False) -> None:
        """After a unit: saves what is due, or with ``force`` all."""
        if force or self._ledger.due():
            with self._ledger.taken():
                atomic.write_json(self._folder.ledger_path, ledger.to_json())
        if force or self._checkpoint.due():
            with self._checkpoint.taken():
                buffer = io.BytesIO()
                torch.save({"tuner": tuner.state_dict(), "loop": state.to_json(), "ledger": ledger.to_json()}, buffer)
                self._folder.save_checkpoint(state.total, buffer.getvalue(), {"spent": ledger.spent})

    def cost(self) -> dict[str, float]:
        """``checkpoints`` saved and ``checkpoint_s``, the seconds that they and the ledger's files took."""
        return {"checkpoints": self._checkpoint.n, "checkpoint_s": self._checkpoint.total_s + self._ledger.total_s}


def take_up(blob: bytes | None, tuner: Tuner, ledger: Ledger) -> LoopState:
    """Puts a checkpoint's state into tuner and ledger; a fresh start where there is none."""
    if blob is None:
        return LoopState()
    saved = torch.load(io.BytesIO(blob), weights_only=True)
    tuner.load_state_dict(saved["tuner"])
    ledger.restore(saved["ledger"])
    return LoopState.from_json(saved["loop"])


def charge_lost(folder: RunFolder, ledger: Ledger, attempt: int) -> None:
    """Books as lost what earlier attempts did beyond the checkpoint that ``ledger`` was restored to.

    The ledger's file is up to half a second old when a kill comes, so the events, one a unit, are looked at too; a unit
    that was not finished is in neither.

    Args:
        attempt: the number of the attempt that begins.
    """
    if folder.ledger_path.exists():
        written: Mapping[str, Any] = atomic.read_json(folder.ledger_path)
        ledger.note_lost(written)
        spent = reached(folder, attempt - 1)
        if spent:
            ledger.note_lost({"spent": spent, "lost": written["lost"]})


def charge_late(folder: RunFolder, ledger: Ledger, attempt: int, seen: Mapping[str, float]) -> dict[str, float]:
    """Books as lost what an older copy, alive behind a broken network, still did after this attempt had begun.

    Args:
        attempt: the number of this attempt, which ends.
        seen: what the attempt before it had spent when this one began (``reached``).

    Returns:
        What was booked, by kind.
    """
    late = {kind: v - seen.get(kind, 0.0) for kind, v in reached(folder, attempt - 1).items()}
    booked = {kind: v for kind, v in late.items() if v > 0}
    for kind, amount in booked.items():
        ledger.lost[kind] += amount
    return booked


def reached(folder: RunFolder, attempt: int) -> dict[str, float]:
    """What the run had spent after the last whole unit of ``attempt``, by kind; empty where it finished none."""
    last: dict[str, float] = {}
    for event in read_units(attempt_root(folder.root, attempt)):
        last = event["spent"]
    return last
