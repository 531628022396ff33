"""The short table at the end of a run: metric, base, tuned, difference, interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.core.record import MetricEntry, Record, ScaledEntry


@dataclass(frozen=True)
class Row:
    """One metric of a run, base against result."""

    metric: str
    unit: str
    base: float | None
    tuned: float | None
    difference: float | None
    ci_low: float | None
    """Of the difference; for a win rate of the rate itself, which is a comparison already."""
    ci_high: float | None
    role: str
    n: int
    higher_is_better: bool
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """As text: an arrow says which direction is better."""
        interval = "" if self.ci_low is None or self.ci_high is None else f"[{self.ci_low:.4g}, {self.ci_high:.4g}]"
        name = f"{self.metric} {'↑' if self.higher_is_better else '↓'}"
        return name, _number(self.base), _number(self.tuned), _signed(self.difference), interval, self.role, str(self.n)


def rows(record: Record, scaled: ScaledEntry | None = None) -> list[Row]:
    """One row for each metric of the final snapshot, or of it at another adapter scale, beside the base model's."""
    if not record.snapshots:
        return []
    base = {m.name: m for m in record.metrics if m.snapshot == "f000"}
    final = record.snapshots[-1].name
    tuned = [m for m in record.metrics if m.snapshot == final and final != "f000"] if scaled is None else scaled.metrics
    return [_row(m, base.get(m.name)) for m in tuned]


def without_value(rows: Sequence[Row]) -> list[str]:
    """A line for each reason why metrics have no value, with their names."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.error:
            found.setdefault(row.error.splitlines()[0], []).append(row.metric)
    return [f"no {', '.join(metrics)}: {reason}" for reason, metrics in found.items()]


def sampling(record: Record) -> str:
    """What an image of the tuned model costs beside one of the base: hooks and second passes show here."""
    costs = [s.u_per_image for s in (record.snapshots[:1] + record.snapshots[-1:])]
    if len(costs) < 2 or None in costs or costs[0] == costs[1]:
        return ""
    return f"sampling takes {costs[1]:g} U an image, the base model {costs[0]:g}"


def _row(tuned: MetricEntry, base: MetricEntry | None) -> Row:
    base_value = base.value if base else None
    difference = tuned.difference
    change = difference.value if difference else None
    if change is None and tuned.value is not None and base_value is not None:
        change = tuned.value - base_value
    # a set-level metric (FID) has no paired interval, and its own interval is not one of the difference
    own = tuned if base is None else None
    return Row(
        metric=tuned.name, unit=tuned.unit, base=base_value, tuned=tuned.value, difference=change,
        ci_low=difference.ci_low if difference else (own.ci_low if own else None),
        ci_high=difference.ci_high if difference else (own.ci_high if own else None),
        role=tuned.role, n=tuned.n, higher_is_better=tuned.higher_is_better, error=tuned.error,
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}" if abs(value) < 100 else f"{value:+.2f}"
