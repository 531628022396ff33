"""Files for other programs and for papers: each board as CSV, JSON with its schema, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field

from leaderboard import wording
from leaderboard.board_view import best_rows, board_view
from leaderboard.columns import Column
from leaderboard.escaping import csv_text, latex, markdown, one_line
from leaderboard.overview import overview
from leaderboard.page import Made, Page, Site, board_name, inputs_of
from leaderboard.pages import Figure, board_text
from leaderboard.statistics import BoardFacts, row_id
from leaderboard.table import LONG_COLUMNS, Board, Cell, Row, long_rows

_RUN, _VALUE, _N, _CHANGE, _PASSPORT = map(LONG_COLUMNS.index, ("snapshot", "value", "n", "difference", "passport"))
_NEEDS_QUOTES = re.compile(r'[",\r\n]')


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ExportedFigure(_Strict):
    column: str
    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    """Images behind it, of one tuning seed."""
    role: str


class ExportedColumn(_Strict):
    key: str
    metric: str
    unit: str
    higher_is_better: bool
    passport: dict[str, Any]
    """All that must agree for two figures to be comparable."""


class ExportedRow(_Strict):
    kind: Literal["ranked", "ended", "external"]
    place: tuple[int, int] | None
    """Best and worst place that the statistics leave open; null where nothing is compared."""
    best: bool
    """Not told from the first by the statistics."""
    tuner: str
    reward: str
    settings: dict[str, Any]
    """Differences to the tuner's defaults."""
    seeds: list[int]
    run_ids: list[str]
    status: str
    reason: str
    spent: dict[str, float]
    """By budget kind, mean over the seeds."""
    u_per_image: float | None
    held_out: ExportedFigure | None
    """The held-out win rate that rows are ordered by; ``column`` is empty."""
    figures: list[ExportedFigure]


class ExportedBoard(_Strict):
    """``data/<board>.json``"""

    schema_: Literal["tunebench/board"] = Field(default="tunebench/board", alias="schema")
    schema_version: Literal[1] = 1
    suite: str
    edition: str
    model: str
    budget: str
    protocol: list[str]
    columns: list[ExportedColumn]
    rows: list[ExportedRow]
    statistics: dict[str, Any]
    """All pairs, strengths, tie groups, floors and anytime figures, by the id of each row's first run."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)


def pages(site: Site) -> Iterator[Page]:
    yield Page("data/board.schema.json", inputs_of("schema"), _schema)
    yield Page("data/overview.csv", inputs_of([run.digest for run in site.runs]), partial(_overview, site), here=True)
    for board in site.boards:
        facts = site.facts[board.key]
        inputs = inputs_of(board.key, board.protocol, [run.digest for run in board.runs], facts.digest)
        made: dict[str, Callable[..., Made]] = {"csv": _csv, "json": _json, "md": _markdown, "tex": _latex,
                                                "figures.csv": _figures}  # fmt: skip
        for ending, make in made.items():
            yield Page(f"data/{board_name(board)}.{ending}", inputs, partial(make, board, facts), group=board.key)


def _schema() -> Made:
    schema = {**ExportedBoard.model_json_schema(by_alias=True), "$id": "tunebench/board/1"}
    return json.dumps(schema, indent=1, sort_keys=True) + "\n", {}


def _overview(site: Site) -> Made:
    seen = overview(site.boards)
    head = ["tuner", "model", "mean", *seen.suites]
    rows = [[line.tuner, line.model, line.mean, *(best.cell.value if (best := line.by_suite.get(s)) else None
                                                  for s in seen.suites)] for line in seen.lines]  # fmt: skip
    return _as_csv(head, rows), {}


def _figures(board: Board, _: BoardFacts) -> Made:
    """Every metric of every snapshot of every run, one a row."""
    cells: dict[str, str] = {}  # a board repeats some hundred texts in ten thousands of rows

    def cell(value: Any) -> str:
        if type(value) is float:
            return f"{value:.10g}"
        if not value and value is not False and value != 0:
            return ""
        text = csv_text(value) if isinstance(value, str) else str(value)
        if text not in cells:
            quoted = '"' + text.replace('"', '""') + '"'
            cells[text] = quoted if _NEEDS_QUOTES.search(text) else text
        return cells[text]

    parts: dict[tuple[Any, ...], str] = {}  # most of a row is that of the row before, or of the same metric elsewhere

    def told(*part: Any) -> str:
        found = parts.get(part)
        if found is None:
            found = parts[part] = ",".join(map(cell, part[1:]))
        return found

    lines = [",".join(LONG_COLUMNS)]
    for row in long_rows(board.runs):
        lines.append(f"{told('run', *row[:_RUN])},{told('stage', *row[_RUN:_VALUE])},"
                     f"{','.join(map(cell, row[_VALUE:_N]))},{told('what', *row[_N:_CHANGE])},"
                     f"{','.join(map(cell, row[_CHANGE:_PASSPORT]))},{told('how', *row[_PASSPORT:])}")  # fmt: skip
    return "\n".join([*lines, ""]), {}


def _csv(board: Board, facts: BoardFacts) -> Made:
    columns = [name for c in board.columns for name in (_title(c), f"{_title(c)}: low", f"{_title(c)}: high")]
    head = ["place", "last_place", "tuner", "reward", "settings", "seeds", "status", "reason", "spent", "limit",
            "u_per_image", "held_out", "held_out: low", "held_out: high", *columns]  # fmt: skip
    rows = []
    for kind, row in _rows(board):
        first = row.runs[0]
        place = facts.places.get(row_id(row), (None, None))
        primary, away = first.budget.primary, kind == "external"
        spent = [run.spent.get(primary, 0.0) for run in row.runs]
        cells = [v for c in board.columns for v in _ends(row.cells.get(c.key))]
        rows.append([
            *place, first.tuner, first.trained_reward, _settings(row), " ".join(str(run.seed) for run in row.runs),
            "external" if away else first.status, one_line(first.reason), None if away else sum(spent) / len(spent),
            None if away else first.budget.limit(primary), row.u_per_image, *_ends(row.rank), *cells,
        ])  # fmt: skip
    return _as_csv(head, rows), {}


def _json(board: Board, facts: BoardFacts) -> Made:
    best = best_rows(board, facts)

    def exported(kind: Any, row: Row) -> ExportedRow:
        first = row.runs[0]
        kinds = sorted({kind for run in row.runs for kind in run.spent}) if kind != "external" else []
        figures = [_figure(c.key, row.cells[c.key]) for c in board.columns if c.key in row.cells]
        return ExportedRow(
            kind=kind, place=facts.places.get(row_id(row)), best=row_id(row) in best, tuner=first.tuner,
            reward=first.trained_reward, settings=first.changed, seeds=[run.seed for run in row.runs],
            run_ids=[run.run_id for run in row.runs], status=first.status, reason=first.reason,
            spent={kind: sum(run.spent.get(kind, 0.0) for run in row.runs) / len(row.runs) for kind in kinds},
            u_per_image=row.u_per_image, held_out=_figure("", row.rank) if row.rank else None, figures=figures,
        )  # fmt: skip

    whole = ExportedBoard(
        suite=board.suite, edition=board.edition, model=board.model, budget=board.budget, protocol=list(board.protocol),
        columns=[ExportedColumn(key=c.key, metric=c.metric, unit=c.unit, higher_is_better=c.higher_is_better,
                                passport=c.passport) for c in board.columns],
        rows=[exported(kind, row) for kind, row in _rows(board)],
        statistics=facts.model_dump(mode="json", exclude={"digest"}),
    )  # fmt: skip
    data = whole.model_dump(mode="json", by_alias=True)
    return pydantic_core.to_json(data, indent=1).decode() + "\n", {}  # json.dumps indents ten times as slowly


def _markdown(board: Board, facts: BoardFacts) -> Made:
    head, rows = _printed(board, facts)
    lines = [f"# {markdown(board_text(board))}", "", _row_of([markdown(cell) for cell in head]),
             _row_of(["---", *("---:" for _ in head[1:])])]  # fmt: skip
    for bold, cells in rows:
        text = [markdown(cell) for cell in cells]
        lines.append(_row_of([text[0], f"**{text[1]}**" if bold else text[1], *text[2:]]))
    return "\n".join([*lines, "", markdown(_caption(board, facts)), ""]), {}


def _row_of(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex(board: Board, facts: BoardFacts) -> Made:
    head, rows = _printed(board, facts)
    body = []
    for bold, cells in rows:
        text = [latex(cell) for cell in cells]
        body.append(" & ".join([text[0], rf"\textbf{{{text[1]}}}" if bold else text[1], *text[2:]]) + r" \\")
    lines = [
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering",
        rf"\caption{{{latex(_caption(board, facts))}}}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule",
        " & ".join(latex(cell) for cell in head) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}",
        r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines), {}


def _printed(board: Board, facts: BoardFacts) -> tuple[list[str], list[tuple[bool, list[str]]]]:
    """Heading, and rows of text with whether the second cell is bold: what the statistics do not tell from the best."""
    view, best = board_view(board, facts, ""), best_rows(board, facts)
    columns = [c for c in board.columns if wording.kind_of(c.metric) in wording.METRIC_KINDS]
    keys = {c.key for c in columns}
    head = ["Tuner", "Held-out win rate, % ↑", *(f"{_title(c)} {'↑' if c.higher_is_better else '↓'}" for c in columns),
            "Spent / limit", "Seeds"]  # fmt: skip
    rows = []
    for part, name in ((view["rows"], ""), (view["external"], " (images from elsewhere)")):
        for r in part:
            figures = [f for c, f in zip(board.columns, r["cells"], strict=True) if c.key in keys]
            tuner = r["head"].tuner + name + (f" ({r['changed']})" if r["changed"] else "")
            if view["reward"] is None and not name:
                tuner += f" on {r['head'].trained_reward}"
            spent = "–" if name else f"{r['spent']['text']} / {r['spent']['limit']}"
            rows.append((row_id(r["row"]) in best,
                         [tuner, _text(r["rank"]), *map(_text, figures), spent, str(len(r["seeds"]))]))  # fmt: skip
    base = [f for c, f in zip(board.columns, view["base"], strict=True) if c.key in keys]
    if board.model:
        rows.append((False, [f"{board.model} (base model)", "–", *map(_text, base), "0", "–"]))
    for p in view["published"]:
        figures = [f for c, f in zip(board.columns, p["cells"], strict=True) if c.key in keys]
        rows.append((False, [f"{p['row'].name} (published: {p['row'].source})", "–", *map(_text, figures), "–", "–"]))
    return head, rows


def _text(figure: Figure) -> str:
    return f"{figure.text} [{figure.span}]" if figure.span else figure.text


def _caption(board: Board, facts: BoardFacts) -> str:
    said = f"{board_text(board)}. 95 % intervals in brackets."
    if facts.places:
        said += " Bold: not told from the best row (all pairs, Holm)."
    if board.external:
        said += " Images from elsewhere have no budget and other noise."
    return f"{said} Embedded tiny world: not comparable with published figures." if board.edition == "sample" else said


def _title(c: Column) -> str:
    return " ".join([wording.full_label(c.metric), *(["%"] if wording.is_share(c.metric) else []), *c.differs])


def _rows(board: Board) -> Iterator[tuple[str, Row]]:
    for kind, rows in (("ranked", board.rows), ("external", board.external), ("ended", board.ended)):
        for row in rows:
            yield kind, row


def _figure(column: str, cell: Cell) -> ExportedFigure:
    return ExportedFigure(column=column, value=cell.value, ci_low=cell.low, ci_high=cell.high, n=cell.n, role=cell.role)


def _ends(cell: Cell | None) -> tuple[float | None, float | None, float | None]:
    return (cell.value, cell.low, cell.high) if cell is not None else (None, None, None)


def _settings(row: Row) -> str:
    return "; ".join(f"{k} = {wording.plain_value(v)}" for k, v in sorted(row.runs[0].changed.items()))


def _as_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (head, *rows):
        writer.writerow(
            [csv_text(v) if isinstance(v, str) else f"{v:.10g}" if isinstance(v, float) else v for v in row]
        )
    return text.getvalue()
