"""Records to tables: one long pandas table of every figure, and the boards made from it.

Direction and role come from the records, never from a metric's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.core.identity import canonical_json, digest
from leaderboard.run import Run
from leaderboard.stats import apart
from leaderboard.wording import METRIC_KINDS, budget_text, kind_of, plain_value

LONG_COLUMNS = (
    "suite", "edition", "budget", "model", "tuner", "reward", "settings", "seed", "run_id", "status", "ranked",
    "snapshot", "fraction", "stage", "metric", "value", "ci_low", "ci_high", "n", "unit", "higher_is_better", "role",
    "judge", "family", "difference", "difference_low", "difference_high", "passport", "error",
)  # fmt: skip
_ROLE_ORDER = {"held-out": 0, "related": 1, "trained-on": 2}
_KIND_ORDER = {kind: i for i, kind in enumerate(METRIC_KINDS)}


def long_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every metric of every snapshot of every run, one a row, in order of run id, snapshot and metric.

    ``stage`` is ``base``, ``final`` (the last tuned snapshot) or ``between``.
    """
    rows: list[dict[str, Any]] = []
    for run in sorted(runs, key=lambda r: r.run_id):
        fractions = {s.name: s.fraction for s in run.snapshots}
        stages = {s.name: stage for s, stage in ((run.base, "base"), (run.final, "final")) if s is not None}
        for m in sorted(run.metrics, key=lambda m: (fractions.get(m.snapshot, 0.0), m.name)):
            change = m.difference
            rows.append({
                "suite": run.suite, "edition": run.edition, "budget": budget_text(run.budget), "model": run.model,
                "tuner": run.tuner, "reward": run.reward, "settings": canonical_json(run.changed), "seed": run.seed,
                "run_id": run.run_id, "status": run.status, "ranked": run.ranked,
                "snapshot": m.snapshot, "fraction": fractions.get(m.snapshot),
                "stage": stages.get(m.snapshot, "between"), "metric": m.name, "value": m.value, "ci_low": m.ci_low,
                "ci_high": m.ci_high, "n": m.n, "unit": m.unit, "higher_is_better": m.higher_is_better,
                "role": m.role, "judge": m.judge, "family": m.family,
                "difference": change.value if change else None, "difference_low": change.ci_low if change else None,
                "difference_high": change.ci_high if change else None, "passport": canonical_json(m.passport),
                "error": m.error,
            })  # fmt: skip
    table = pd.DataFrame(rows, columns=list(LONG_COLUMNS))
    floats = ["fraction", "value", "ci_low", "ci_high", "difference", "difference_low", "difference_high"]
    return table.astype(dict.fromkeys(floats, "float64"))


@dataclass(frozen=True)
class Cell:
    """One figure of a board: the mean over seeds; the interval is the hull of the seeds' intervals."""

    value: float
    low: float | None
    high: float | None
    n: int
    """Images behind it, of one seed."""
    role: str


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


@dataclass(frozen=True)
class Row:
    """One tuner with one set of settings and one reward: its seeds together."""

    runs: tuple[Run, ...]
    cells: dict[str, Cell]
    rank: Cell | None
    """What the default order goes by: the held-out win rate."""
    place: int
    separable: bool | None
    """Whether its interval is clear of the first row's; None for the first and where nothing is compared."""
    beats_base: bool | None
    """Whether the interval is clear of 50 %; None without one."""
    errors: dict[str, str] = field(default_factory=dict)
    """Why a metric has no value."""


@dataclass(frozen=True)
class Board:
    """One suite, one budget, one base model, one protocol."""

    key: str
    suite: str
    title: str
    edition: str
    model: str
    budget: str
    protocol: tuple[str, ...]
    """Where it departs from other boards of the same suite, budget and model."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    ended: tuple[Row, ...]
    """Runs without a full result, one a row."""
    base: dict[str, tuple[float, float]]
    """The base model's figures by column: lowest and highest over the runs (they agree on one machine)."""
    rank_columns: tuple[str, ...]
    """Columns of the judges that are held out for every row."""

    @property
    def n(self) -> int | None:
        """Images behind every figure, for one seed, where all columns agree."""
        counts = {c.n for c in self.columns}
        return counts.pop() if len(counts) == 1 else None


def boards(runs: Sequence[Run]) -> list[Board]:
    """The boards of the ranked runs, in order of suite, model and budget."""
    groups: dict[tuple[str, str, str], dict[str, list[Run]]] = {}
    for run in runs:
        if run.ranked:
            place = (run.suite, run.model, canonical_json(run.budget.to_json()))
            groups.setdefault(place, {}).setdefault(digest(_protocol(run), 8), []).append(run)
    made = []
    for place in sorted(groups):
        protocols = groups[place]
        namesakes = [_protocol(protocols[key][0]) for key in sorted(protocols)]
        for key in sorted(protocols):
            differs = _differing(_protocol(protocols[key][0]), namesakes)
            made.append(_board(digest([place, key], 8), protocols[key], differs))
    return made


def unranked(runs: Sequence[Run]) -> list[Run]:
    """Runs that no board shows."""
    return sorted((r for r in runs if not r.ranked), key=lambda r: (r.suite, r.tuner, r.seed, r.run_id))


def metric_columns(table: pd.DataFrame) -> list[Column]:
    """The comparable columns of a slice of the long table.

    Two values share a column only when metric, unit, direction and the whole passport agree.
    """
    found: list[Column] = []
    final = table[table["stage"] == "final"]
    for metric, same in final.groupby("metric", sort=True):
        name = str(metric)
        groups = list(same.groupby(["unit", "higher_is_better", "passport"], sort=True))
        facts = [_facts(group.iloc[0]) for _, group in groups]
        for (_, group), fact in zip(groups, facts, strict=True):
            if group["value"].isna().all():
                continue  # a failed metric is told on its row
            roles, counts = sorted(set(group["role"])), set(group["n"])
            found.append(Column(
                key=digest([name, fact], 10), metric=name, unit=str(fact["unit"]),
                higher_is_better=bool(group.iloc[0]["higher_is_better"]), passport=dict(fact["passport"]),
                differs=_differing(_flat(fact), [_flat(f) for f in facts]),
                role=roles[0] if len(roles) == 1 else "mixed", n=int(counts.pop()) if len(counts) == 1 else None,
            ))  # fmt: skip
    judged = {c.metric.partition("/")[2] for c in found if kind_of(c.metric) == "winrate"}
    judges = {str(m): str(j) for m, j in zip(final["metric"], final["judge"], strict=True)}
    # A judge's mean score says less than its win rate and has no common scale: it is on the run page only.
    shown = [c for c in found if kind_of(c.metric) in _KIND_ORDER or judges[c.metric] not in judged]

    def order(c: Column) -> tuple[int, int, str, tuple[str, ...]]:
        return _KIND_ORDER.get(kind_of(c.metric), len(_KIND_ORDER)), _ROLE_ORDER.get(c.role, 1), c.metric, c.differs

    return sorted(shown, key=order)


def _facts(row: pd.Series[Any]) -> dict[str, Any]:
    direction = "higher is better" if row["higher_is_better"] else "lower is better"
    return {"unit": row["unit"], "direction": direction, "passport": json.loads(row["passport"])}


def _flat(fact: dict[str, Any]) -> dict[str, Any]:
    """One level deep: ``reward.weights_sha256`` names what differs better than ``reward``."""
    flat = {"unit": fact["unit"], "direction": fact["direction"]}
    for key, value in fact["passport"].items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _protocol(run: Run) -> dict[str, Any]:
    """What must agree on a board beyond suite, budget and model."""
    keys = ("prompt_hash", "train_prompt_hash", "model_revision", "sampler", "train_sampler", "global_batch",
            "eval_seeds", "limit")  # fmt: skip
    return {key: run.spec.get(key) for key in keys}


def _differing(mine: dict[str, Any], namesakes: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """``field = value`` for every field in which the namesakes do not all agree."""
    absent = object()
    fields = sorted({key for other in namesakes for key in other})
    return tuple(
        f"{key} = {plain_value(mine[key]) if key in mine else 'not stated'}"
        for key in fields
        if any(other.get(key, absent) != namesakes[0].get(key, absent) for other in namesakes)
    )


def _board(key: str, runs: Sequence[Run], protocol: tuple[str, ...]) -> Board:
    table = long_table(runs)
    columns = metric_columns(table)
    configurations: dict[str, list[Run]] = {}
    for run in runs:
        if run.status == "done":
            name = [run.tuner, run.reward, run.changed, run.spec.get("tuner_version")]
            configurations.setdefault(canonical_json(name), []).append(run)
    groups = [tuple(sorted(configurations[name], key=lambda r: (r.seed, r.run_id))) for name in sorted(configurations)]
    ended = sorted((r for r in runs if r.status != "done"), key=lambda r: (r.tuner, r.reward, r.seed, r.run_id))
    filled = [_row(group, table, columns) for group in groups]
    rank_columns = _rank_columns(filled, columns)
    first = runs[0]
    return Board(
        key=key, suite=first.suite, title=first.suite_title, edition=first.edition,
        model=first.model, budget=budget_text(first.budget), protocol=protocol, columns=tuple(columns),
        rows=_ranked(filled, columns, rank_columns), ended=tuple(_row((run,), table, columns) for run in ended),
        base=_base(table, columns), rank_columns=rank_columns,
    )  # fmt: skip


def _row(runs: tuple[Run, ...], table: pd.DataFrame, columns: Sequence[Column]) -> Row:
    mine = table[table["run_id"].isin([r.run_id for r in runs]) & (table["stage"] == "final")]
    cells = {}
    for column in columns:
        figures = _slice(mine, column)
        if not figures.empty:
            spans = figures["ci_low"].notna().all() and figures["ci_high"].notna().all()
            cells[column.key] = Cell(
                value=math.fsum(figures["value"]) / len(figures), low=float(figures["ci_low"].min()) if spans else None,
                high=float(figures["ci_high"].max()) if spans else None, n=int(figures["n"].min()),
                role=str(figures.iloc[0]["role"]),
            )  # fmt: skip
    failed = mine[mine["value"].isna()]
    errors = {str(m): str(e or "no value") for m, e in zip(failed["metric"], failed["error"], strict=True)}
    return Row(runs=runs, cells=cells, rank=None, place=0, separable=None, beats_base=None, errors=errors)


def _slice(table: pd.DataFrame, column: Column) -> pd.DataFrame:
    """The rows of the long table that belong to ``column``, values only, by run id."""
    same = (
        (table["metric"] == column.metric)
        & (table["unit"] == column.unit)
        & (table["higher_is_better"] == column.higher_is_better)
        & (table["passport"] == canonical_json(column.passport))
        & table["value"].notna()
    )
    return table[same].sort_values("run_id")


def _rank_columns(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[str, ...]:
    """Win-rate columns that every row with any held-out win rate has, held out in each."""
    judged = [
        {c.key for c in columns if kind_of(c.metric) == "winrate" and c.key in row.cells
         and row.cells[c.key].role == "held-out"}
        for row in rows
    ]  # fmt: skip
    some = [keys for keys in judged if keys]
    return tuple(sorted(set.intersection(*some))) if some else ()


def _ranked(rows: Sequence[Row], columns: Sequence[Column], rank_columns: tuple[str, ...]) -> tuple[Row, ...]:
    """The rows in default order: by held-out win rate, those without one last, then by name.

    With several held-out judges the mean of their win rates counts; the mean of their interval ends is an interval
    that is never too narrow, whatever the judges' correlation. Where no judge is held out for all rows, each row goes
    by its own and no row is called separable.
    """
    winrates = [c.key for c in columns if kind_of(c.metric) == "winrate"]
    scored: list[tuple[float, str, Row, Cell | None]] = []
    for row in rows:
        keys = rank_columns or [k for k in winrates if k in row.cells and row.cells[k].role == "held-out"]
        rank = _mean_cell([row.cells[k] for k in keys if k in row.cells])
        order = -rank.value if rank else math.inf
        scored.append((order, canonical_json([row.runs[0].tuner, row.runs[0].reward, row.runs[0].changed]), row, rank))
    scored.sort(key=lambda item: item[:2])
    first = scored[0][3] if scored else None
    placed = []
    for i, (_, _, row, rank) in enumerate(scored):
        compared = i > 0 and rank is not None and first is not None and bool(rank_columns)
        placed.append(Row(
            runs=row.runs, cells=row.cells, rank=rank, place=i + 1, errors=row.errors,
            separable=apart(first.low, first.high, rank.low, rank.high) if compared and first and rank else None,
            beats_base=rank.low > 0.5 if rank is not None and rank.low is not None else None,
        ))  # fmt: skip
    return tuple(placed)


def _mean_cell(cells: Sequence[Cell]) -> Cell | None:
    if not cells:
        return None
    lows, highs = [c.low for c in cells if c.low is not None], [c.high for c in cells if c.high is not None]
    spans = len(lows) == len(highs) == len(cells)
    return Cell(
        value=math.fsum(c.value for c in cells) / len(cells), low=math.fsum(lows) / len(cells) if spans else None,
        high=math.fsum(highs) / len(cells) if spans else None, n=min(c.n for c in cells), role="held-out",
    )  # fmt: skip


def _base(table: pd.DataFrame, columns: Sequence[Column]) -> dict[str, tuple[float, float]]:
    base = table[table["stage"] == "base"]
    found = {}
    for column in columns:
        figures = _slice(base, column)
        if not figures.empty:
            found[column.key] = (float(figures["value"].min()), float(figures["value"].max()))
    return found
