"""The loop around a tuner: between two units is the only safe point, so budget, logging, snapshots and preemption
happen here once. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from bench.core.budget import Ledger
from bench.core.contract import Phase, Report
from bench.core.errors import ContractError


@dataclass
class LoopState:
    """Where tuning stands; with the tuner's own state it is all that a resumed run needs."""

    phase: int = 0
    """Index of the phase in progress."""
    unit: int = 0
    """Units done in that phase."""
    total: int = 0
    """Units done in all phases."""

    def to_json(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> LoopState:
        return cls(**{f.name: int(data[f.name]) for f in dataclasses.fields(cls)})


def drive(
    name: str, phases: Sequence[Phase], ledger: Ledger, clock: Callable[[], AbstractContextManager[None]],
    state: LoopState, *, on_unit: Callable[[LoopState, Phase, Report], None],
    should_stop: Callable[[], bool] = lambda: False, agree: Callable[[str | None], str | None] = lambda why: why,
) -> str:  # fmt: skip
    """Runs units until the budget ends, the tuner has nothing left, or ``should_stop`` asks.

    Args:
        name: the tuner, for messages.
        clock: charges the time inside (``Meters.clock``); ``on_unit`` and ``should_stop`` run outside of it.
        state: advanced in place, before ``on_unit`` is called, so what that stores resumes after the unit.
        agree: makes one decision of what several processes found (``Processes.agree``), so that they leave together.

    Returns:
        Why tuning ended: ``budget:<kind>``, ``done`` or ``stopped``.

    Raises:
        ContractError: a unit returned something else than a Report.
        Diverged: from the tuner, on non-finite numbers.
    """
    while state.phase < len(phases):
        phase = phases[state.phase]
        if phase.done():
            state.phase += 1
            state.unit = 0
            continue
        why = agree(_reason_to_end(phase, ledger, should_stop))
        if why is not None:
            return why
        with clock():
            report = phase.unit()
        if not isinstance(report, Report):
            raise ContractError(
                name, f"phase {phase.name!r}", expected="a Report from every unit", got=type(report).__name__
            )
        state.unit += 1
        state.total += 1
        on_unit(state, phase, report)
    return "done"


def _reason_to_end(phase: Phase, ledger: Ledger, should_stop: Callable[[], bool]) -> str | None:
    spent = ledger.exhausted()
    if spent is None:
        cost = phase.next_cost()
        spent = None if cost is None else ledger.would_exceed(cost)
    if spent is not None:
        return f"budget:{spent}"
    return "stopped" if should_stop() else None
