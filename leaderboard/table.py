"""Records to tables: one long pandas table of every figure, and the boards made from it.

Direction and role come from the records, never from a metric's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leaderboard.columns import Column, Figures, differing
from leaderboard.run import Metric, Run, Scaled
from leaderboard.spelling import short_digest, spelled
from leaderboard.stats import apart, over_seeds
from leaderboard.wording import is_share, kind_of

if TYPE_CHECKING:
    import pandas as pd

LONG_COLUMNS = (
    "suite", "edition", "budget", "model", "tuner", "reward", "settings", "seed", "run_id", "status", "ranked",
    "snapshot", "fraction", "stage", "metric", "value", "ci_low", "ci_high", "n", "unit", "higher_is_better", "role",
    "judge", "family", "difference", "difference_low", "difference_high", "passport", "error",
)  # fmt: skip


def long_table(runs: Sequence[Run]) -> pd.DataFrame:
    """``long_rows`` as a table."""
    import pandas as pd  # half a second, which a site does without

    table = pd.DataFrame.from_records(list(long_rows(runs)), columns=list(LONG_COLUMNS))
    floats = ["fraction", "value", "ci_low", "ci_high", "difference", "difference_low", "difference_high"]
    return table.astype(dict.fromkeys(floats, "float64"))


def long_rows(runs: Sequence[Run]) -> Iterator[tuple[Any, ...]]:
    """Every metric of every snapshot of every run, one a row, in order of run id, snapshot and metric.

    The fields are ``LONG_COLUMNS``. ``stage`` is ``base``, ``final`` (the last tuned snapshot) or ``between``.
    """
    passports: dict[int, str] = {}
    for run in sorted(runs, key=lambda r: r.run_id):
        fractions = {s.name: s.fraction for s in run.snapshots}
        stages = {s.name: stage for s, stage in ((run.base, "base"), (run.final, "final")) if s is not None}
        shared = (run.suite, run.edition, "none" if run.external is not None else run.terms, run.model,
                  run.tuner, run.trained_reward, spelled(run.changed), run.seed, run.run_id, run.status,
                  run.ranked)  # fmt: skip
        for m in sorted(run.metrics, key=lambda m: (fractions.get(m.snapshot, 0.0), m.name)):
            if id(m.passport) not in passports:
                passports[id(m.passport)] = spelled(m.passport)
            yield (
                *shared, m.snapshot, fractions.get(m.snapshot), stages.get(m.snapshot, "between"), m.name, m.value,
                m.ci_low, m.ci_high, m.n, m.unit, m.higher_is_better, m.role, m.judge, m.family,
                *(m.difference or (None, None, None)), passports[id(m.passport)], m.error,
            )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One figure of a board: the mean over tuning seeds, with its interval over seeds and prompts (``over_seeds``)."""

    value: float
    low: float | None
    high: float | None
    n: int
    """Images behind it, of one seed."""
    role: str


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
    scaled: tuple[tuple[float, float | None, dict[str, Cell]], ...] = ()
    """Other adapter scales of the first run: scale, U for an image, figures."""
    repeats: tuple[Run, ...] = ()
    """The same measurement again (``_once``): linked, and not counted."""

    @property
    def shown(self) -> tuple[Run, ...]:
        return (*self.runs, *self.repeats)

    @property
    def u_per_image(self) -> float | None:
        """U-Net evaluations that sampling one image took, where every run's was measured."""
        found = [run.final.u_per_image for run in self.runs if run.final is not None]
        known = [u for u in found if u is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(self.runs) else None


@dataclass(frozen=True)
class Board:
    """One suite, one budget (in device-seconds: on one kind of hardware), one base model, one protocol."""

    key: str
    suite: str
    title: str
    edition: str
    model: str
    budget: str
    """With the device class, where seconds count (``Run.terms``)."""
    device_class: str
    protocol: tuple[str, ...]
    """Where it departs from other boards of the same suite, budget and model."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    ended: tuple[Row, ...]
    """Runs without a full result, one a row."""
    external: tuple[Row, ...]
    """Images from elsewhere on the same prompts: no budget, no place."""
    base: dict[str, tuple[float, float]]
    """The base model's figures by column: lowest and highest over the runs (they agree on one machine)."""
    rank_columns: tuple[str, ...]
    """Columns of the judges that are held out for every row."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run that the board shows."""
        return tuple(run for row in (*self.rows, *self.ended, *self.external) for run in row.shown)

    @property
    def n(self) -> int | None:
        """Images behind every figure, for one seed, where all columns agree."""
        counts = {c.n for c in self.columns}
        return counts.pop() if len(counts) == 1 else None


def boards(runs: Sequence[Run]) -> list[Board]:
    """The boards of the ranked runs, in order of suite, model and budget.

    Images from elsewhere stand on every board of their prompts, and on one of their own where there is none.
    """
    groups: dict[tuple[str, str, str], dict[str, list[Run]]] = {}
    elsewhere: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.ranked and run.external is not None:
            elsewhere.setdefault(_prompts(run), []).append(run)
        elif run.ranked:
            place = (run.suite, run.model, spelled(run.budget.to_json()) + run.device_class)
            groups.setdefault(place, {}).setdefault(short_digest(_protocol(run), 8), []).append(run)
    made, met = [], set()
    for place in sorted(groups):
        protocols = groups[place]
        namesakes = [_protocol(protocols[key][0]) for key in sorted(protocols)]
        for key in sorted(protocols):
            differs = differing(_protocol(protocols[key][0]), namesakes)
            prompts = _prompts(protocols[key][0])
            met.add(prompts)
            made.append(_board(short_digest([place, key], 8), protocols[key], elsewhere.get(prompts, []), differs))
    alone = [_board(short_digest(prompts, 8), [], elsewhere[prompts], ()) for prompts in sorted(elsewhere.keys() - met)]
    return [*made, *alone]


def _prompts(run: Run) -> tuple[str, str]:
    """What images from elsewhere must share with a board."""
    return run.suite, spelled([run.spec.get("prompt_hash"), run.spec.get("limit")])


def unranked(runs: Sequence[Run]) -> list[Run]:
    """Runs that no board shows."""
    return sorted((r for r in runs if not r.ranked), key=lambda r: (r.suite, r.tuner, r.seed, r.run_id))


def _protocol(run: Run) -> dict[str, Any]:
    """What must agree on a board beyond suite, budget and model."""
    keys = ("prompt_hash", "train_prompt_hash", "model_revision", "sampler", "train_sampler", "global_batch",
            "eval_seeds", "limit")  # fmt: skip
    return {key: run.spec.get(key) for key in keys}


def _board(key: str, runs: Sequence[Run], elsewhere: Sequence[Run], protocol: tuple[str, ...]) -> Board:
    figures = Figures([*runs, *elsewhere])
    configurations: dict[str, list[Run]] = {}
    for run in runs:
        if run.status == "done":
            name = [run.tuner, run.reward, run.changed, run.spec.get("tuner_version")]
            configurations.setdefault(spelled(name), []).append(run)
    groups = [tuple(sorted(configurations[name], key=lambda r: (r.seed, r.run_id))) for name in sorted(configurations)]
    ended = sorted((r for r in runs if r.status != "done"), key=lambda r: (r.tuner, r.reward, r.seed, r.run_id))
    filled = [_row(*_once(group), figures=figures) for group in groups]
    rank_columns = _rank_columns(filled, figures.columns)
    first = (*runs, *elsewhere)[0]
    return Board(
        key=key, suite=first.suite, title=first.suite_title, edition=first.edition,
        model=first.model if runs else "", budget=first.terms if runs else "",
        device_class=first.device_class if runs else "", protocol=protocol,
        columns=tuple(figures.columns), rows=_ranked(filled, figures.columns, rank_columns),
        ended=tuple(_row((run,), figures=figures) for run in ended),
        external=tuple(_row((run,), figures=figures) for run in sorted(elsewhere, key=lambda r: (r.tuner, r.run_id))),
        base=_base(runs, figures), rank_columns=rank_columns,
    )  # fmt: skip


_ASIDE = frozenset({"fractions", "metrics", "train_list", "protocol", "recipe"})
"""Of a spec: when and by what was scored, and how it was asked for; what was asked for stands in the other fields."""


def _once(runs: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Runs to count, and those that are one of these again, in the given order.

    Runs that differ in nothing but the shares of the budget at which they were scored are one measurement: counted
    twice, it would weigh twice and make an interval over seeds narrower than it is. The one with the most snapshots
    counts.
    """
    best: dict[str, Run] = {}
    for run in sorted(runs, key=lambda r: (-len(r.snapshots), r.run_id)):
        # a field that an older version did not write yet is as good as an empty one
        best.setdefault(spelled({key: value for key, value in run.spec.items() if value and key not in _ASIDE}), run)
    counted = {run.run_id for run in best.values()}
    return (tuple(r for r in runs if r.run_id in counted), tuple(r for r in runs if r.run_id not in counted))


def _row(runs: tuple[Run, ...], repeats: tuple[Run, ...] = (), *, figures: Figures) -> Row:
    found: dict[str, list[Metric]] = {}
    errors: dict[str, str] = {}
    for run in sorted(runs, key=lambda r: r.run_id):
        errors |= figures.failed(run)
        for key, m in figures.final(run).items():
            found.setdefault(key, []).append(m)
    return Row(
        runs=runs, cells={key: _cell(same) for key, same in found.items()}, rank=None, place=0, separable=None,
        beats_base=None, errors=errors, scaled=tuple(_scaled(entry, figures) for entry in runs[0].scales),
        repeats=repeats,
    )  # fmt: skip


def _cell(same: Sequence[Metric]) -> Cell:
    value, low, high = over_seeds([m.value or 0.0 for m in same], [m.ci_low for m in same], [m.ci_high for m in same])
    if is_share(same[0].name) and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return Cell(value=value, low=low, high=high, n=min(m.n for m in same), role=same[0].role)


def _scaled(entry: Scaled, figures: Figures) -> tuple[float, float | None, dict[str, Cell]]:
    cells = {key: _cell([m]) for key, m in figures.scaled(entry.metrics).items()}
    return entry.snapshot.adapter_scale, entry.snapshot.u_per_image, cells


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
        scored.append((order, spelled([row.runs[0].tuner, row.runs[0].reward, row.runs[0].changed]), row, rank))
    scored.sort(key=lambda item: item[:2])
    first = scored[0][3] if scored else None
    placed = []
    for i, (_, _, row, rank) in enumerate(scored):
        compared = i > 0 and rank is not None and first is not None and bool(rank_columns)
        placed.append(Row(
            runs=row.runs, cells=row.cells, rank=rank, place=i + 1, errors=row.errors, scaled=row.scaled,
            repeats=row.repeats,
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


def _base(runs: Sequence[Run], figures: Figures) -> dict[str, tuple[float, float]]:
    found: dict[str, list[float]] = {}
    for run in runs:
        for key, m in figures.base(run).items():
            found.setdefault(key, []).append(m.value or 0.0)
    return {key: (min(values), max(values)) for key, values in found.items()}
