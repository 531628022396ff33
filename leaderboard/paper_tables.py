"""The figures of all boards in the form of the papers' tables: DRTune's Table 1, RealignDiff's Table I, HG-DPO's
Table 2 and TreeReward's Figure 1. Every figure is the board's own; none is a published one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from leaderboard import charts, wording
from leaderboard.chart_data import Shape
from leaderboard.columns import Column
from leaderboard.page import Made, Page, Site, board_path, inputs_of
from leaderboard.pages import Figure, board_text, render
from leaderboard.run import Metric, Run, Snapshot
from leaderboard.stats import over_seeds
from leaderboard.table import Board, Row

DIMENSIONS = ("style", "content", "color", "lighting", "detail", "layout")
"""TreeReward, section 5.1."""
MOST_IN_A_RADAR = 6
OWN_GAIN = ", gain over own base"
"""After a reward's name where each run is measured by a reward model of its own."""
_SCALE = 5.0
"""TreeReward's raters answer from -5 to 5; its Figure 1 moves that to 0 to 10, the base model at 5."""


@dataclass(frozen=True)
class PaperTable:
    board: Board
    head: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Figure, ...]], ...]
    """Name, run id of its page or nothing, figures."""


@dataclass(frozen=True)
class Radar:
    table: PaperTable
    chart: Markup
    note: str


def pages(site: Site) -> Iterator[Page]:
    yield Page("tables.html", inputs_of([run.digest for run in site.runs]), partial(_page, site.boards), here=True)


def _page(boards: Sequence[Board]) -> Made:
    made: dict[str, Any] = {
        "rewards": [t for b in boards if (t := rewards_by_tuners(b)) is not None],
        "suites": suites_by_metrics(boards), "shifts": [t for b in boards if (t := colour_shifts(b)) is not None],
        "radars": [found for b in boards for found in radars(b)],
    }  # fmt: skip
    return render(
        "tables.jinja", styles=("tables.css", "plot.css"), scripts=("charts.js",) if made["radars"] else (), root="",
        board_path=board_path, board_text=board_text, sample="sample" in {b.edition for b in boards}, **made,
    ), {}  # fmt: skip


def rewards_by_tuners(board: Board) -> PaperTable | None:
    """DRTune's Table 1: the mean of each reward that tuners were trained on, at the end, by tuner.

    Where runs were measured by different reward models of one name, as by the tree that each run fitted for itself,
    their means have no common scale: the gain over the run's own base model stands instead. Intervals are the records'
    own for one run and ``over_seeds`` for the seeds of one row; different settings are no sample of anything.
    """
    trained: dict[str, dict[str, list[Metric]]] = {}
    n_rows: dict[tuple[str, str], set[str]] = {}
    base: dict[str, list[Metric]] = {}
    heads: dict[str, Run] = {}
    for row in board.rows:
        for run in row.runs:
            start = run.entries(run.base)
            for name, m in run.entries(run.final).items():
                if m.role == "trained-on" and m.value is not None and wording.kind_of(name) == "reward":
                    trained.setdefault(name, {}).setdefault(run.tuner, []).append(m)
                    n_rows.setdefault((name, run.tuner), set()).add(row.runs[0].run_id)
                    heads.setdefault(run.tuner, row.runs[0])
                    if name in start:
                        base.setdefault(name, []).append(start[name])
    if not trained:
        return None
    own = {run_own for row in board.rows for run in row.runs for run_own in run.own_rewards}
    columns = []
    for name, found in sorted(trained.items()):
        measured = [*base.get(name, []), *(m for same in found.values() for m in same)]
        gains = wording.subject_of(name) in own or any(m.passport != measured[0].passport for m in measured)
        arrow = "↑" if measured[0].higher_is_better else "↓"
        columns.append((name, gains, f"{wording.subject_of(name)}{OWN_GAIN if gains else ''} {arrow}"))
    rows = [("base model", "", tuple(_mean([] if gains else base.get(n, [])[:1]) for n, gains, _ in columns))]
    for tuner, head in sorted(heads.items()):
        figures = [(_gain if gains else _mean)(trained[name].get(tuner, []), len(n_rows.get((name, tuner), ())))
                   for name, gains, _ in columns]  # fmt: skip
        rows.append((tuner, head.run_id, tuple(figures)))
    return PaperTable(board, tuple(head for _, _, head in columns), tuple(rows))


def suites_by_metrics(boards: Sequence[Board]) -> list[PaperTable]:
    """RealignDiff's Table I: FID, CLIP score, TIFA and people's votes by suite and tuner.

    Of a tuner's rows on a board the first one stands; a column is left out when another protocol's is first.
    """
    made = []
    for board in boards:
        columns: dict[str, Column] = {}
        for kind in ("fid", "clipscore", "tifa", "human", "human-rank"):
            for c in board.columns:
                if wording.kind_of(c.metric) == kind:
                    columns.setdefault(c.metric, c)
        if not columns:
            continue
        best: dict[str, Row] = {}
        for row in (*board.rows, *board.external):
            best.setdefault(row.runs[0].tuner, row)
        chosen = list(columns.values())
        head = tuple(f"{wording.full_label(c.metric)} {'↑' if c.higher_is_better else '↓'}" for c in chosen)
        base = tuple(_plain(c, board.base[c.key][0] if c.key in board.base else None) for c in chosen)
        rows = [(f"{board.model} (base model)", "", base)] if board.model else []
        rows += [(name + (" (from elsewhere)" if row.runs[0].external is not None else ""), row.runs[0].run_id,
                  tuple(_plain(c, row.cells[c.key].value if c.key in row.cells else None) for c in chosen))
                 for name, row in best.items()]  # fmt: skip
        made.append(PaperTable(board, head, tuple(rows)))
    return made


def colour_shifts(board: Board) -> PaperTable | None:
    """HG-DPO's Table 2: change of mean hue, saturation and value against the base model's images, by tuner."""
    columns = [c for c in board.columns if wording.kind_of(c.metric) == "colour-shift"]
    if not columns:
        return None
    best: dict[str, Row] = {}
    for row in board.rows:
        best.setdefault(row.runs[0].tuner, row)
    rows = [(name, row.runs[0].run_id, tuple(
        Figure("–") if (cell := row.cells.get(c.key)) is None
        else Figure(f"{cell.value:.2f}", wording.span(c.metric, cell.low, cell.high, 2), cell.value) for c in columns
    )) for name, row in sorted(best.items())]  # fmt: skip
    return PaperTable(board, tuple(f"{wording.subject_of(c.metric)}, %" for c in columns), tuple(rows))


def radars(board: Board) -> list[Radar]:
    """TreeReward's Figure 1: its six dimensions, as people scored them and as a fitted tree of rewards does."""
    return [found for found in (_of_people(board), _of_the_tree(board)) if found is not None]


def _of_people(board: Board) -> Radar | None:
    """Scores from a study that asked for all of the dimensions."""
    asked = {
        d: next((c for c in board.columns if wording.kind_of(c.metric) == "human-scale"
                 and wording.subject_of(c.metric).rpartition("/")[2] == d), None)
        for d in DIMENSIONS
    }  # fmt: skip
    columns = [c for c in asked.values() if c is not None]
    rows = [row for row in (*board.rows, *board.external) if all(c.key in row.cells for c in columns)]
    if len(columns) < len(DIMENSIONS) or not rows:
        return None
    shapes = [(row.runs[0], [row.cells[c.key].value + _SCALE for c in columns]) for row in rows[:MOST_IN_A_RADAR]]
    note = ("People's mean scores from −5 to 5 against the base model, moved to 0 to 10, so that the base model lies "
            "at 5 (the inner web).")  # fmt: skip
    chart = charts.radar(
        DIMENSIONS, [(run.tuner, found) for run, found in shapes], least=0, most=2 * _SCALE, middle=_SCALE
    )
    rows_of = [(run.tuner, run.run_id, tuple(Figure(f"{v:.2f}", "", v) for v in found)) for run, found in shapes]
    return Radar(PaperTable(board, DIMENSIONS, tuple(rows_of)), chart, note)


def _of_the_tree(board: Board) -> Radar | None:
    """Scores of the base model's and the tuned images by the tree that the best TreeReward row fitted for itself."""
    run = next((row.runs[0] for row in board.rows if tree_parts(row.runs[0], row.runs[0].final)), None)
    if run is None:
        return None
    shapes = tree_shapes(run)
    figures = [(name, run.run_id if i else "", tuple(Figure(f"{v:.3f}".replace("-", "−"), "", v) for v in found))
               for i, (name, found) in enumerate(shapes)]  # fmt: skip
    note = ("Mean scores of the suite's images by the tree of rewards that this run fitted and was tuned for; each "
            "run's tree is its own, so only its base model is beside it. All axes have one scale.")  # fmt: skip
    return Radar(PaperTable(board, DIMENSIONS, tuple(figures)), tree_radar(shapes), note)


def tree_parts(run: Run, snapshot: Snapshot | None) -> list[float]:
    """A snapshot's score in each of the six dimensions by the run's own tree; empty where it was not judged so."""
    for name, m in run.entries(snapshot).items():
        found = [m.detail.get(f"parts/{d}") for d in DIMENSIONS]
        if wording.kind_of(name) == "reward" and all(isinstance(v, int | float) for v in found):
            return [float(v) for v in found if v is not None]
    return []


def tree_shapes(run: Run) -> list[Shape]:
    """The base model and the tuned one, where a run fitted a tree; empty otherwise."""
    both: list[Shape] = [("base model", tree_parts(run, run.base)), (run.tuner, tree_parts(run, run.final))]
    return both if all(found for _, found in both) else []


def tree_radar(shapes: Sequence[Shape]) -> Markup:
    values = [v for _, found in shapes for v in found]
    room = 0.15 * (max(values) - min(values)) or 0.1
    return charts.radar(DIMENSIONS, shapes, least=min(values) - room, most=max(values) + room)


def _mean(found: Sequence[Metric], n_rows: int = 1) -> Figure:
    values = [m.value for m in found if m.value is not None]
    if not values:
        return Figure("–")
    name = found[0].name
    mean, low, high = over_seeds(values, [m.ci_low for m in found], [m.ci_high for m in found])
    return _with_interval(name, mean, values, low, high, shown=n_rows == 1)


def _gain(found: Sequence[Metric], n_rows: int) -> Figure:
    """The mean of the runs' gains over their own base, with the least and the most: every run's scale is its own. One
    run's gain has its interval."""
    changes = [m.difference for m in found if m.difference is not None]
    if not changes:
        return Figure("–")
    gains = [change.value for change in changes]
    name, mean = found[0].name, math.fsum(gains) / len(gains)
    if len(gains) == 1:
        return _with_interval(name, mean, gains, changes[0].ci_low, changes[0].ci_high, signed=True)
    return _with_interval(name, mean, gains, min(gains), max(gains), signed=True, is_interval=False)


def _with_interval(
    name: str, mean: float, values: Sequence[float], low: float | None, high: float | None, *, shown: bool = True,
    signed: bool = False, is_interval: bool = True,
) -> Figure:  # fmt: skip
    """
    Args:
        shown: False: there is none to show.
        is_interval: whether decimals go by its width; the least and the most of some figures say nothing of precision.
    """
    ends = low is not None and high is not None and shown
    halves = [(high - low) / 2] if ends and is_interval and low is not None and high is not None else []
    decimals = wording.places(name, values, halves)
    span = wording.span(name, low, high, decimals, signed=signed) if ends else ""
    return Figure(wording.figure(name, mean, decimals, signed=signed), span, mean)


def _plain(column: Column, value: float | None) -> Figure:
    if value is None:
        return Figure("–")
    return Figure(wording.figure(column.metric, value, wording.places(column.metric, [value], [])), sort=value)
