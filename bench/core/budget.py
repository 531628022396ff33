"""Budget and ledger: what a run may spend and what the harness saw it spend.

U is one U-Net evaluation of one branch of one sample: a forward costs 1 U, a backward 2 U (research/tuners.md §7).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.core.errors import UserError

KINDS: tuple[str, ...] = (
    "denoiser_u", "steps", "device_s", "images", "reward_calls", "flops", "denoiser_fwd", "denoiser_bwd",
)  # fmt: skip
"""Every currency of the ledger. ``denoiser_u = denoiser_fwd + 2 * denoiser_bwd``."""

KIND_HELP: Mapping[str, str] = {
    "denoiser_u": "U: U-Net evaluations of one branch of one sample, forward 1, backward 2",
    "steps": "optimiser steps",
    "device_s": "active device-seconds of tuning (evaluation, checkpoints and logging are off the clock)",
    "images": "images decoded during tuning",
    "reward_calls": "images scored by a reward during tuning",
    "flops": "floating-point operations of the denoiser, decoder and reward (multiply-add = 2)",
    "denoiser_fwd": "U-Net forwards, counted by sample and branch",
    "denoiser_bwd": "U-Net backwards, counted by sample and branch",
}


@dataclass(frozen=True)
class Charge:
    """What one piece of work costs, one number per kind; unknown kinds are left out."""

    amounts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, amount in self.amounts.items():
            if kind not in KINDS:
                raise ValueError(f"{kind!r} is no budget kind")
            if not math.isfinite(amount) or amount < 0:
                raise ValueError(f"{kind} = {amount!r}: a charge is finite and not negative")

    def get(self, kind: str) -> float:
        return float(self.amounts.get(kind, 0.0))

    def __add__(self, other: Charge) -> Charge:
        kinds = self.amounts.keys() | other.amounts.keys()
        return Charge({k: self.get(k) + other.get(k) for k in kinds})


@dataclass(frozen=True)
class Budget:
    """The limits of a run. ``None`` is no limit; at least one kind is limited."""

    denoiser_u: float | None = None
    steps: float | None = None
    device_s: float | None = None
    images: float | None = None
    reward_calls: float | None = None
    flops: float | None = None
    denoiser_fwd: float | None = None
    denoiser_bwd: float | None = None
    primary: str = "denoiser_u"
    """The kind that is the x axis of curves and that snapshots' fractions refer to; it must be limited."""
    hard_wall_s: float = 3600.0
    """Wall-clock seconds after which the supervisor outside ends tuning that has not returned."""

    def __post_init__(self) -> None:
        if self.primary not in KINDS:
            raise UserError(f"budget: {self.primary!r} is no budget kind", valid=", ".join(KINDS))
        for kind, limit in self.limits():
            if not (isinstance(limit, (int, float)) and math.isfinite(limit) and limit > 0):
                raise UserError(f"budget: {kind} = {limit!r}", valid="a finite number above 0")
        if self.limit(self.primary) is None:
            raise UserError(
                f"budget: the primary kind {self.primary!r} has no limit",
                valid="the primary kind is one of the limited kinds",
                hint=f"--budget {self.primary}=N",
            )

    def limit(self, kind: str) -> float | None:
        value: float | None = getattr(self, kind)
        return None if value is None else float(value)

    def limits(self) -> Iterator[tuple[str, float]]:
        """The limited kinds in the order of ``KINDS``."""
        for kind in KINDS:
            value = self.limit(kind)
            if value is not None:
                yield kind, value

    def to_json(self) -> dict[str, Any]:
        """Only what is set, so that a new kind renames no old run."""
        return {**dict(self.limits()), "primary": self.primary}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Budget:
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise UserError(f"budget: unknown kind {unknown[0]!r}", valid=", ".join(KINDS))
        return cls(**data)


class Ledger:
    """What was spent, by the meters and the harness's clock; tuners can read it and cannot write it.

    ``spent`` is useful work, the figure that limits compare with. ``lost`` is work that an interruption made the run
    do again: it was paid for, so it is shown, yet it does not shorten the tuning, so that a run that was killed and
    resumed equals the run that was not.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self.lost: dict[str, float] = dict.fromkeys(KINDS, 0.0)

    def charge(self, kind: str, amount: float) -> None:
        """Adds ``amount`` of ``kind``; raises ValueError on unknown kinds and on negative or non-finite amounts."""
        Charge({kind: amount})
        self.spent[kind] += amount
        if kind == "denoiser_fwd":
            self.spent["denoiser_u"] += amount
        elif kind == "denoiser_bwd":
            self.spent["denoiser_u"] += 2 * amount

    def remaining(self) -> dict[str, float]:
        """What is left of each limited kind, never below 0."""
        return {kind: max(0.0, limit - self.spent[kind]) for kind, limit in self.budget.limits()}

    def exhausted(self) -> str | None:
        """The first limited kind that is used up, or None."""
        for kind, limit in self.budget.limits():
            if self.spent[kind] >= limit:
                return kind
        return None

    def would_exceed(self, cost: Charge) -> str | None:
        """The first limited kind that ``cost`` does not fit into, or None."""
        for kind, limit in self.budget.limits():
            if self.spent[kind] + cost.get(kind) > limit:
                return kind
        return None

    def fraction(self) -> float:
        """Share of the primary limit that is spent; may pass 1 by less than one step where costs were unknown."""
        limit = self.budget.limit(self.budget.primary)
        assert limit is not None
        return self.spent[self.budget.primary] / limit

    def to_json(self) -> dict[str, Any]:
        return {"budget": self.budget.to_json(), "spent": dict(self.spent), "lost": dict(self.lost)}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Takes over ``spent`` and ``lost`` of a checkpoint."""
        self.spent.update({k: float(v) for k, v in data["spent"].items()})
        self.lost.update({k: float(v) for k, v in data["lost"].items()})

    def note_lost(self, reached: Mapping[str, Any]) -> None:
        """Books as lost what an earlier attempt had ``spent`` beyond the checkpoint this ledger was restored to."""
        for kind in KINDS:
            seen = float(reached["spent"].get(kind, 0.0)) + float(reached["lost"].get(kind, 0.0))
            kept = self.spent[kind] + self.lost[kind]
            self.lost[kind] += max(0.0, seen - kept)
