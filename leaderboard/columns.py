"""Columns of a board: figures that may be compared, and which figure of a run stands in which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from leaderboard.run import Metric, Run
from leaderboard.spelling import short_digest, spelled
from leaderboard.wording import METRIC_KINDS, kind_of, plain_value

_ROLE_ORDER = {"held-out": 0, "related": 1, "trained-on": 2}
_KIND_ORDER = {kind: i for i, kind in enumerate(METRIC_KINDS)}

Facts = tuple[str, str, bool, str]
"""Metric, unit, whether higher is better, passport: what must agree within a column."""


@dataclass(frozen=True)
class Column:
    """Figures that may be compared: one metric, one direction, one passport."""

    key: str
    metric: str
    unit: str
    higher_is_better: bool
    passport: dict[str, Any]
    differs: tuple[str, ...]
    """``resize = bicubic``: where it departs from its namesakes on this board; empty when it has none."""
    role: str
    """The cells' role, or ``mixed`` where the rows were trained on different rewards."""
    n: int | None
    """Images of one seed, where all cells agree."""


class Figures:
    """The figures of some runs by run and column, and the columns themselves."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._passports: dict[int, str] = {}
        self._final = {run.run_id: self._facts(run.entries(run.final).values()) for run in runs}
        self._base = {run.run_id: self._facts(run.entries(run.base).values()) for run in runs}
        self._runs = {run.run_id: run for run in runs}
        self._keys: dict[Facts, str] = {}
        self.columns = self._columns()

    def final(self, run: Run) -> dict[str, Metric]:
        """The figures of a run's last tuned snapshot by column."""
        return self._by_column(self._final[run.run_id])

    def base(self, run: Run) -> dict[str, Metric]:
        """The figures of the untouched model by column, as this run measured them."""
        return self._by_column(self._base[run.run_id])

    def scaled(self, metrics: Iterable[Metric]) -> dict[str, Metric]:
        """The figures of another snapshot of a run by column."""
        return self._by_column(self._facts(metrics))

    def failed(self, run: Run) -> dict[str, str]:
        """Why a metric of the last tuned snapshot has no value."""
        return {m.name: m.error or "no value" for _, m in self._final[run.run_id] if m.value is None}

    def _facts(self, metrics: Iterable[Metric]) -> list[tuple[Facts, Metric]]:
        return [((m.name, m.unit, m.higher_is_better, self._text(m.passport)), m) for m in metrics]

    def _text(self, passport: dict[str, Any]) -> str:
        """Thousands of metrics share few passports, each one object that its run keeps alive."""
        if id(passport) not in self._passports:
            self._passports[id(passport)] = spelled(passport)
        return self._passports[id(passport)]

    def _by_column(self, found: Sequence[tuple[Facts, Metric]]) -> dict[str, Metric]:
        return {self._keys[facts]: m for facts, m in found if facts in self._keys and m.value is not None}

    def _columns(self) -> list[Column]:
        members: dict[str, dict[Facts, list[Metric]]] = {}
        for found in self._final.values():
            for facts, m in found:
                members.setdefault(m.name, {}).setdefault(facts, []).append(m)
        made: list[Column] = []
        for name in sorted(members):
            told = {facts: _told(same[0]) for facts, same in sorted(members[name].items())}
            for facts, fact in told.items():
                same = [m for m in members[name][facts] if m.value is not None]
                if not same:
                    continue  # a failed metric is told on its row
                roles, counts = {m.role for m in same}, {m.n for m in same}
                key = short_digest([name, fact], 10)
                self._keys[facts] = key
                made.append(Column(
                    key=key, metric=name, unit=same[0].unit, higher_is_better=same[0].higher_is_better,
                    passport=same[0].passport,
                    differs=differing(_flat(fact), [_flat(other) for other in told.values()]),
                    role=roles.pop() if len(roles) == 1 else "mixed", n=counts.pop() if len(counts) == 1 else None,
                ))  # fmt: skip
        judged = {c.metric.partition("/")[2] for c in made if kind_of(c.metric) == "winrate"}
        judges = {name: found.judge for name, same in members.items() for group in same.values() for found in group}
        # A judge's mean score says less than its win rate and has no common scale: it is on the run page only.
        shown = [c for c in made if kind_of(c.metric) in _KIND_ORDER or judges[c.metric] not in judged]
        return sorted(shown, key=_order)


def _order(c: Column) -> tuple[int, int, str, tuple[str, ...]]:
    return _KIND_ORDER.get(kind_of(c.metric), len(_KIND_ORDER)), _ROLE_ORDER.get(c.role, 1), c.metric, c.differs


def _told(m: Metric) -> dict[str, Any]:
    direction = "higher is better" if m.higher_is_better else "lower is better"
    return {"unit": m.unit, "direction": direction, "passport": m.passport}


def _flat(fact: dict[str, Any]) -> dict[str, Any]:
    """One level deep: ``reward.weights_sha256`` names what differs better than ``reward``."""
    flat = {"unit": fact["unit"], "direction": fact["direction"]}
    for key, value in fact["passport"].items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def differing(mine: dict[str, Any], namesakes: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """``field = value`` for every field in which the namesakes do not all agree."""
    absent = object()
    fields = sorted({key for other in namesakes for key in other})
    return tuple(
        f"{key} = {plain_value(mine[key]) if key in mine else 'not stated'}"
        for key in fields
        if any(other.get(key, absent) != namesakes[0].get(key, absent) for other in namesakes)
    )
