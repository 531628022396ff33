"""The figures of all boards in the form of the papers' tables: DRTune's Table 1, RealignDiff's Table I, HG-DPO's
Table 2 and TreeReward's Figure 1. Every figure is the board's own; none is a published one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from leaderboard import wording
from leaderboard.columns import Column
from leaderboard.page import Made, Page, Site, board_path, inputs_of
from leaderboard.pages import Figure, board_text, render
from leaderboard.run import Metric, Run
from leaderboard.table import Board, Row

DIMENSIONS = ("style", "content", "color", "lighting", "detail", "layout")
"""TreeReward, section 5.1."""
MOST_IN_A_RADAR = 6
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
    shapes: tuple[tuple[str, str], ...]
    """Name and SVG points of every row."""


def pages(site: Site) -> Iterator[Page]:
    yield Page("tables.html", inputs_of([run.digest for run in site.runs]), partial(_page, site.boards), here=True)


def _page(boards: Sequence[Board]) -> Made:
    made: dict[str, Any] = {
        "rewards": [t for b in boards if (t := rewards_by_tuners(b)) is not None],
        "suites": suites_by_metrics(boards), "shifts": [t for b in boards if (t := colour_shifts(b)) is not None],
        "radars": [r for b in boards if (r := radar(b)) is not None],
    }  # fmt: skip
    return render(
        "tables.jinja", styles=("tables.css",), root="", board_path=board_path, board_text=board_text,
        dimensions=_spokes(), sample="sample" in {b.edition for b in boards}, **made,
    ), {}  # fmt: skip


def rewards_by_tuners(board: Board) -> PaperTable | None:
    """DRTune's Table 1: the mean of each reward that tuners were trained on, at the end, by tuner."""
    trained: dict[str, dict[str, list[Metric]]] = {}
    base: dict[str, Metric] = {}
    heads: dict[str, Run] = {}
    for row in board.rows:
        for run in row.runs:
            for name, m in run.entries(run.final).items():
                if m.role == "trained-on" and m.value is not None and wording.kind_of(name) == "reward":
                    trained.setdefault(run.tuner, {}).setdefault(name, []).append(m)
                    heads.setdefault(run.tuner, row.runs[0])
                    if name in run.entries(run.base):
                        base.setdefault(name, run.entries(run.base)[name])
    names = sorted({name for found in trained.values() for name in found})
    if not names:
        return None
    first = {name: next(found[name][0] for found in trained.values() if name in found) for name in names}
    head = tuple(f"{wording.subject_of(n)} {'↑' if first[n].higher_is_better else '↓'}" for n in names)
    rows = [("base model", "", tuple(_mean([base[n]] if n in base else []) for n in names))]
    rows += [(tuner, heads[tuner].run_id, tuple(_mean(trained[tuner].get(n, [])) for n in names))
             for tuner in sorted(trained)]  # fmt: skip
    return PaperTable(board, head, tuple(rows))


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


def radar(board: Board) -> Radar | None:
    """TreeReward's Figure 1: people's scores in its six dimensions, where a study asked for all of them."""
    asked = {
        d: next((c for c in board.columns if wording.kind_of(c.metric) == "human-scale"
                 and wording.subject_of(c.metric).rpartition("/")[2] == d), None)
        for d in DIMENSIONS
    }  # fmt: skip
    columns = [c for c in asked.values() if c is not None]
    rows = [row for row in (*board.rows, *board.external) if all(c.key in row.cells for c in columns)]
    if len(columns) < len(DIMENSIONS) or not rows:
        return None
    rows = rows[:MOST_IN_A_RADAR]
    values = [[row.cells[c.key].value for c in columns] for row in rows]
    table = PaperTable(board, DIMENSIONS, tuple(
        (row.runs[0].tuner, row.runs[0].run_id, tuple(Figure(f"{v + _SCALE:.2f}", "", v) for v in found))
        for row, found in zip(rows, values, strict=True)
    ))  # fmt: skip
    shapes = [(row.runs[0].tuner, " ".join(_at(i, (v + _SCALE) / (2 * _SCALE)) for i, v in enumerate(found)))
              for row, found in zip(rows, values, strict=True)]  # fmt: skip
    return Radar(table, tuple(shapes))


def _spokes() -> list[dict[str, str]]:
    """The radar's axes, and its webs at a half (the base model) and at the end."""
    return [{"name": name, "end": _at(i, 1.0), "half": _at(i, 0.5), "label": _at(i, 1.14)}
            for i, name in enumerate(DIMENSIONS)]  # fmt: skip


def _at(i: int, share: float) -> str:
    """``x,y`` of a share of axis ``i`` in a field from -130 to 130."""
    angle = 2 * math.pi * i / len(DIMENSIONS) - math.pi / 2
    return f"{100 * share * math.cos(angle):.1f},{100 * share * math.sin(angle):.1f}"


def _mean(found: Sequence[Metric]) -> Figure:
    values = [m.value for m in found if m.value is not None]
    if not values:
        return Figure("–")
    mean = math.fsum(values) / len(values)
    return Figure(wording.figure(found[0].name, mean, wording.places(found[0].name, values, [])), sort=mean)


def _plain(column: Column, value: float | None) -> Figure:
    if value is None:
        return Figure("–")
    return Figure(wording.figure(column.metric, value, wording.places(column.metric, [value], [])), sort=value)
