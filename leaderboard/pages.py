"""What the pages say: tables and records turned into the plain values that the templates write out."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.core.budget import KIND_HELP, KINDS
from bench.core.identity import canonical_json
from bench.core.record import Interval, MetricEntry
from leaderboard import charts, wording
from leaderboard.evidence import Change, Evidence, Gallery, Picture
from leaderboard.read import Run, Unreadable
from leaderboard.stats import apart
from leaderboard.table import Board, Cell, Column, Row, metric_columns

SAMPLE_BANNER = "Embedded tiny world: not comparable with published figures"


@dataclass(frozen=True)
class Figure:
    """A figure ready to print, with the number it sorts by."""

    text: str
    span: str = ""
    sort: float | None = None
    unit: str = ""
    role: str = ""
    n: str = ""
    """Images behind it, where the column's heading does not say."""
    title: str = ""
    """Why there is no value."""


def index_page(
    boards: Sequence[Board], unranked: Sequence[Run], unreadable: Sequence[Unreadable], n_runs: int
) -> str:
    """The front page: every board, then what is on none."""
    return _render(
        "index.jinja", root="", boards=[_board_view(b) for b in boards], unranked=unranked, unreadable=unreadable,
        n_runs=n_runs, sample=any(b.edition == "sample" for b in boards) or any(r.edition == "sample" for r in unranked),
        metric_help=wording.METRIC_KINDS, role_help=wording.ROLE_HELP,
    )  # fmt: skip


def run_page(run: Run) -> tuple[str, dict[str, Picture]]:
    """One run's page, and the pictures it shows by file name."""
    evidence = Evidence(run)
    gallery = evidence.gallery()
    categories = evidence.categories()
    pictures = {
        picture.name: picture for _, pairs in gallery.groups for pair in pairs for picture in (pair.base, pair.tuned)
    }
    page = _render(
        "run.jinja", root="../", run=run, record=run.record, sample=run.edition == "sample",
        status_help=wording.STATUS_HELP, budget=wording.budget_text(run.budget), metrics=_metric_rows(run),
        budget_charts=_budget_charts(run), curves=_curves(run), ledger=_ledger_rows(run), spent=_spent(run),
        settings=_settings(run), gallery=gallery, gallery_changes=_gallery_changes(gallery),
        breakdowns=_breakdowns(run), categories=[_category_view(t) for t in categories],
        facts=_facts(run), problems=evidence.problems,
    )  # fmt: skip
    return page, pictures


def board_text(board: Board) -> str:
    """How other lines refer to a board."""
    return f"{board.suite} · {board.model} · {board.budget}"


# --- the front page ---


def _board_view(board: Board) -> dict[str, Any]:
    decimals = {c.key: _decimals(c, [r.cells[c.key] for r in (*board.rows, *board.ended) if c.key in r.cells])
                for c in board.columns}  # fmt: skip
    by_key = {c.key: c for c in board.columns}
    rank_places = max((decimals[c.key] for c in board.columns if wording.kind_of(c.metric) == "winrate"), default=1)

    def row_view(row: Row) -> dict[str, Any]:
        head = row.runs[0]
        return {
            "row": row, "head": head, "seeds": row.runs, "spent": _spent_over(row.runs),
            "changed": ", ".join(f"{k} = {wording.plain_value(v)}" for k, v in sorted(head.changed.items())),
            "rank": _cell_figure("winrate", row.rank, rank_places, None) if row.rank else Figure("–"),
            "cells": [_cell_figure(c.metric, row.cells.get(c.key), decimals[c.key], c, row.errors.get(c.metric, ""))
                      for c in board.columns],
        }  # fmt: skip

    judges = [wording.subject_of(by_key[key].metric) for key in board.rank_columns]
    return {
        "board": board, "text": board_text(board), "columns": [_column_view(c, board) for c in board.columns],
        "rows": [row_view(r) for r in board.rows], "ended": [row_view(r) for r in board.ended],
        "base": [_base_figure(c, board, decimals[c.key]) for c in board.columns], "judges": judges,
        "mean_rank": len(board.rank_columns) != 1, "chart": _board_chart(board), "notes": _board_notes(board),
        "seeded": any(len(r.runs) > 1 for r in board.rows),
    }  # fmt: skip


def _column_view(column: Column, board: Board) -> dict[str, Any]:
    kind = wording.kind_of(column.metric)
    return {
        "column": column, "label": wording.metric_label(column.metric),
        "subject": wording.subject_of(column.metric) if kind in wording.METRIC_KINDS else "",
        "unit": "%" if wording.is_share(column.metric) else column.unit,
        "help": wording.METRIC_KINDS[kind][1] if kind in wording.METRIC_KINDS else "",
        "mixed": column.role == "mixed", "judged": kind == "winrate", "ranks": board.rank_columns == (column.key,),
    }  # fmt: skip


def _decimals(column: Column, cells: Sequence[Cell]) -> int:
    halves = [(c.high - c.low) / 2 for c in cells if c.low is not None and c.high is not None]
    return wording.places(column.metric, [c.value for c in cells], halves)


def _cell_figure(metric: str, cell: Cell | None, decimals: int, column: Column | None, error: str = "") -> Figure:
    if cell is None:
        return Figure("failed" if error else "–", title=error)
    return Figure(
        wording.figure(metric, cell.value, decimals), wording.span(metric, cell.low, cell.high, decimals), cell.value,
        role=cell.role, n=f"n = {cell.n:,}" if column is not None and column.n is None else "",
    )  # fmt: skip


def _base_figure(column: Column, board: Board, decimals: int) -> Figure:
    if column.key not in board.base:
        return Figure("–")
    low, high = board.base[column.key]
    low_text, high_text = (wording.figure(column.metric, v, decimals) for v in (low, high))
    # Machines may disagree in the last digits; when they disagree in a printed one, the page says so.
    return Figure(low_text if low_text == high_text else f"{low_text} to {high_text}", sort=low)


def _spent_over(runs: Sequence[Run]) -> dict[str, Any]:
    """Spent against limit over the seeds of a row: the mean of the primary kind, and every kind."""
    budget = runs[0].budget
    kinds = []
    for kind in KINDS:
        spent = [r.record.ledger.spent[kind] for r in runs if kind in r.record.ledger.spent]
        lost = [r.record.ledger.lost.get(kind, 0.0) for r in runs]
        if spent:
            kinds.append({"kind": kind, "spent": wording.amount(kind, math.fsum(spent) / len(spent)),
                          "limit": None if budget.limit(kind) is None else wording.amount(kind, budget.limit(kind) or 0.0),
                          "lost": wording.amount(kind, math.fsum(lost) / len(lost)) if any(lost) else ""})  # fmt: skip
    limit = budget.limit(budget.primary) or 1.0
    used = [r.record.ledger.spent.get(budget.primary, 0.0) / limit for r in runs]
    mean = math.fsum(used) / len(used)
    return {
        "kinds": kinds, "share": mean, "text": wording.number(mean * limit), "limit": wording.amount(budget.primary, limit),
        "over": f"{max(used) - 1:.1%} over the limit" if max(used) > 1.0005 else "",
    }  # fmt: skip


def _board_notes(board: Board) -> list[str]:
    """What a reader must know about this board's order."""
    notes = []
    ranked = [r for r in board.rows if r.rank is not None]
    if len(board.rank_columns) > 1:
        notes.append("Ordered by the mean win rate over the judges that are held out for every row; the interval is the "
                     "mean of theirs, which is never too narrow.")  # fmt: skip
    if not board.rank_columns and ranked:
        notes.append("The rows were trained on different rewards and no judge is held out for all of them: each is placed "
                     "by the mean of its own held-out judges, and no row is called separable.")  # fmt: skip
    if not ranked and board.rows:
        notes.append("No row has a held-out win rate: the order is by name.")
    if any(c.differs for c in board.columns):
        notes.append("Some figures of one metric were made under different protocols and are not comparable: they stand in "
                     "columns of their own, whose headings name what differs.")  # fmt: skip
    return notes


def _board_chart(board: Board) -> Markup | None:
    columns = [c for c in board.columns if wording.kind_of(c.metric) == "winrate"]
    points = [
        charts.Point(x=i, value=cell.value, low=cell.low, high=cell.high, series=_series(c), role=cell.role)
        for i, row in enumerate(board.rows) for c in columns if (cell := row.cells.get(c.key)) is not None
    ]  # fmt: skip
    if len(board.rows) < 2 or not points:
        return None
    names = [f"{row.place}. {row.runs[0].tuner}" for row in board.rows]
    return Markup(charts.forest(points, names, charts.Axis("win rate against the base", ".0%"), neutral=0.5))


def _series(column: Column) -> str:
    return " ".join([wording.subject_of(column.metric) or column.metric, *column.differs])


# --- the run page ---


def _metric_rows(run: Run) -> list[dict[str, Any]]:
    """Metric × (base, tuned, difference, role, n), in the boards' order, failed metrics last."""
    base, final = run.entries(run.base), run.entries(run.final)
    names = sorted(final.keys() | base.keys(), key=lambda name: _metric_order(final.get(name) or base[name]))
    rows = []
    for name in names:
        before, after = base.get(name), final.get(name)
        entry = after or before
        assert entry is not None
        change = after.difference if after is not None else None
        plain = change is None and before is not None and after is not None
        if change is None and before is not None and after is not None:
            known = before.value is not None and after.value is not None and before.passport == after.passport
            change = Interval(value=(after.value or 0.0) - (before.value or 0.0)) if known else None
        figures = [v for m in (before, after) if m for v in (m.value, m.ci_low, m.ci_high) if v is not None]
        halves = [(m.ci_high - m.ci_low) / 2 for m in (after, change)
                  if m is not None and m.ci_low is not None and m.ci_high is not None]  # fmt: skip
        decimals = wording.places(name, figures, halves)
        rows.append({
            "name": name, "label": wording.metric_label(name), "entry": entry,
            "subject": wording.subject_of(name) if wording.kind_of(name) in wording.METRIC_KINDS else "",
            "unit": "%" if wording.is_share(name) else entry.unit,
            "base": _entry_figure(before, decimals), "tuned": _entry_figure(after, decimals),
            "difference": _change_figure(name, change, decimals), "verdict": _verdict(entry, after, change),
            "unpaired": plain and change is not None, "warnings": entry.warnings,
            "passport": [(k, wording.plain_value(v)) for k, v in sorted(entry.passport.items())],
        })  # fmt: skip
    return rows


def _metric_order(entry: MetricEntry) -> tuple[int, int, int, str]:
    kinds, roles = list(wording.METRIC_KINDS), list(wording.ROLE_HELP)
    kind = wording.kind_of(entry.name)
    return entry.value is None, kinds.index(kind) if kind in kinds else len(kinds), roles.index(entry.role), entry.name


def _entry_figure(entry: MetricEntry | None, decimals: int) -> Figure:
    if entry is None:
        return Figure("–")
    if entry.value is None:
        return Figure("failed", title=entry.error or "no reason given")
    return Figure(wording.figure(entry.name, entry.value, decimals),
                  wording.span(entry.name, entry.ci_low, entry.ci_high, decimals), entry.value)  # fmt: skip


def _change_figure(metric: str, change: Interval | None, decimals: int) -> Figure:
    if change is None:
        return Figure("–")
    return Figure(wording.figure(metric, change.value, decimals, signed=True),
                  wording.span(metric, change.ci_low, change.ci_high, decimals, signed=True), change.value)  # fmt: skip


def _verdict(entry: MetricEntry, after: MetricEntry | None, change: Interval | None) -> str:
    """``better`` or ``worse`` when the interval is clear of no change, ``not separable`` when it is not, else nothing."""
    low, high, value, neutral = (change.ci_low, change.ci_high, change.value, 0.0) if change else (None, None, 0.0, 0.0)
    if wording.kind_of(entry.name) == "winrate" and after is not None and after.value is not None:
        low, high, value, neutral = after.ci_low, after.ci_high, after.value, 0.5
    if low is None or high is None:
        return ""
    if not apart(low, high, neutral, neutral):
        return "not separable"
    return "better" if (value > neutral) == entry.higher_is_better else "worse"


def _budget_charts(run: Run) -> list[dict[str, Any]]:
    """Every metric that was scored at three or more snapshots, against what had been spent; win rates share one chart."""
    spent = {s.name: s.spent.get(run.budget.primary, 0.0) for s in run.record.snapshots}
    limit = run.budget.limit(run.budget.primary) or 1.0
    series: dict[str, list[charts.Point]] = {}
    entries: dict[str, MetricEntry] = {}
    for m in sorted(run.record.metrics, key=lambda m: (m.name, spent.get(m.snapshot, 0.0))):
        if m.value is not None and m.snapshot in spent:
            entries[m.name] = m
            name = wording.subject_of(m.name) or m.name
            series.setdefault(m.name, []).append(charts.Point(spent[m.snapshot], m.value, m.ci_low, m.ci_high, name, m.role))
    kept = {name: points for name, points in series.items() if len(points) >= 3}
    panels: dict[str, list[str]] = {}
    for name in sorted(kept, key=lambda n: _metric_order(entries[n])):
        panels.setdefault("winrate" if wording.kind_of(name) == "winrate" else name, []).append(name)
    x = charts.Axis(f"spent, {wording.unit_of(run.budget.primary)} (limit {wording.amount(run.budget.primary, limit)})", "~s")
    made = []
    for key, names in panels.items():
        shares = key == "winrate"
        entry = entries[names[0]]
        title = "Win rate against the base" if shares else f"{wording.metric_label(key)} {wording.subject_of(key)}".strip()
        if wording.kind_of(key) not in wording.METRIC_KINDS:
            title = key
        arrow = "higher is better" if entry.higher_is_better else "lower is better"
        svg = charts.over_budget([p for n in names for p in kept[n]], x,
                                 charts.Axis("win rate", ".0%") if shares else charts.Axis(entry.unit or "value"),
                                 limit=limit, neutral=0.5 if shares else None)  # fmt: skip
        made.append({"title": title, "svg": Markup(svg), "note": arrow,
                     "alt": f"{title} against the budget spent, {arrow}: " + "; ".join(
                         f"{n} from {wording.figure(n, kept[n][0].value, 3)} to {wording.figure(n, kept[n][-1].value, 3)}"
                         for n in names)})  # fmt: skip
    return made


def _curves(run: Run) -> list[dict[str, Any]]:
    """Scalars of tuning against the primary kind, or the first column where that was not logged."""
    columns, rows = run.record.curve.columns, run.record.curve.rows
    if len(rows) < 2 or any(len(row) != len(columns) for row in rows):
        return []
    axis = columns.index(run.budget.primary) if run.budget.primary in columns else 0
    x = charts.Axis(f"spent, {wording.unit_of(columns[axis])}", "~s")
    made = []
    for i, name in enumerate(columns):
        points = [(row[axis], row[i]) for row in rows]
        xs = [(a, b) for a, b in points if a is not None]
        if i == axis or name in KINDS or sum(b is not None for _, b in xs) < 2:
            continue
        svg = charts.curve([a for a, _ in xs], [b for _, b in xs], x, charts.Axis(name, "~g"))
        last = next(b for _, b in reversed(xs) if b is not None)
        made.append({"title": name, "svg": Markup(svg), "note": "", "alt": f"{name} during tuning; last value {last:.4g}"})
    return made


def _ledger_rows(run: Run) -> list[dict[str, str]]:
    ledger = run.record.ledger
    rows = []
    for kind in (run.budget.primary, *(k for k in KINDS if k != run.budget.primary)):
        if kind in ledger.spent:
            limit, spent = run.budget.limit(kind), ledger.spent[kind]
            rows.append({
                "kind": kind, "help": KIND_HELP[kind], "spent": wording.number(spent),
                "limit": "–" if limit is None else wording.number(limit),
                "share": "" if limit is None else f"{spent / limit:.1%}",
                "lost": wording.number(ledger.lost.get(kind, 0.0)), "primary": "yes" if kind == run.budget.primary else "",
            })  # fmt: skip
    return rows


def _spent(run: Run) -> dict[str, Any]:
    return _spent_over([run])


def _settings(run: Run) -> list[dict[str, Any]]:
    known = {**run.changed, **run.record.settings}
    return [{"name": name, "value": wording.plain_value(known[name]), "changed": name in run.changed}
            for name in sorted(known)]  # fmt: skip


def _facts(run: Run) -> list[tuple[str, str]]:
    """Provenance in one list."""
    p = run.record.provenance
    commit = p.commit or "not known"
    if p.dirty is not None:
        commit += " with uncommitted changes" if p.dirty else " (clean)"
    spec = run.record.spec
    sampler = spec.get("sampler") or {}
    facts = [
        ("Run", run.run_id), ("Suite", run.suite), ("Prompts", str(spec.get("prompt_hash", "not stated"))),
        ("Base model", f"{run.model} at {spec.get('model_revision', 'unstated revision')}"),
        ("Sampler", ", ".join(f"{k} {wording.plain_value(v)}" for k, v in sorted(sampler.items()) if v is not None)),
        ("Noise seeds", wording.plain_value(spec.get("eval_seeds"))), ("Tuning seed", str(run.seed)),
        ("Global batch", wording.plain_value(spec.get("global_batch"))), ("Commit", commit), ("Python", p.python),
        ("Platform", p.platform), ("Device", p.device), ("World size", str(p.world_size)), ("Threads", str(p.n_threads)),
    ]  # fmt: skip
    return [*facts, ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(p.packages.items())))]


def _gallery_changes(gallery: Gallery) -> dict[tuple[str, int], str]:
    """The caption's figure for every pair that has one."""
    if gallery.judge is None:
        return {}
    name = gallery.judge.name
    pairs = [pair for _, group in gallery.groups for pair in group if pair.change is not None]
    decimals = wording.places(name, [p.change or 0.0 for p in pairs], [])
    return {(p.prompt.id, p.seed): wording.figure(name, p.change, min(decimals, 4), signed=True) for p in pairs}


def _breakdowns(run: Run) -> list[dict[str, Any]]:
    """Every table inside a metric's ``detail``: a mapping from names to figures, base beside tuned.

    A figure is a number, or a mapping with one under ``value``, ``accuracy`` or ``mean`` and perhaps ``n``.
    """
    base, final = run.entries(run.base), run.entries(run.final)
    made = []
    for name in sorted(final):
        for key, part in sorted(final[name].detail.items()):
            after = _leaves(part)
            if len(after) < 2:
                continue
            before = _leaves(base[name].detail.get(key)) if name in base else {}
            rows = [{
                "name": leaf, "n": "" if after[leaf][1] is None else f"{after[leaf][1]:,}",
                "base": f"{before[leaf][0]:.3f}" if leaf in before else "–", "tuned": f"{after[leaf][0]:.3f}",
                "difference": f"{after[leaf][0] - before[leaf][0]:+.3f}".replace("-", "−") if leaf in before else "–",
            } for leaf in sorted(after)]  # fmt: skip
            made.append({"title": f"{wording.metric_label(name)} {wording.subject_of(name)}".strip(),
                         "by": key.replace("_", " "), "rows": rows})  # fmt: skip
    return made


def _leaves(part: Any) -> dict[str, tuple[float, int | None]]:
    """(figure, n) by name, of the entries of ``part`` that hold one; empty where any holds none."""
    if not isinstance(part, dict):
        return {}
    found: dict[str, tuple[float, int | None]] = {}
    for name, leaf in part.items():
        value = next((leaf[k] for k in ("value", "accuracy", "mean") if k in leaf), None) if isinstance(leaf, dict) else leaf
        if isinstance(value, bool) or not isinstance(value, int | float):
            return {}
        n = leaf.get("n") if isinstance(leaf, dict) else None
        found[str(name)] = (float(value), n if isinstance(n, int) else None)
    return found


def _category_view(table: Any) -> dict[str, Any]:
    def figure(metric: MetricEntry, change: Change | None) -> Figure:
        if change is None:
            return Figure("–")
        halves = [(change.high - change.low) / 2] if change.low is not None and change.high is not None else []
        decimals = min(4, wording.places(metric.name, [change.value], halves))
        return Figure(wording.figure(metric.name, change.value, decimals, signed=True),
                      wording.span(metric.name, change.low, change.high, decimals, signed=True), change.value)  # fmt: skip

    return {
        "tag": table.tag,
        "columns": [{"name": m.name, "role": m.role, "up": m.higher_is_better} for m in table.metrics],
        "rows": [{"name": name, "n": n, "cells": [figure(m, cells.get(m.name)) for m in table.metrics]}
                 for name, n, cells in table.rows],
    }  # fmt: skip


# --- templates ---


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("leaderboard"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    assets = resources.files("leaderboard") / "assets"
    style, script = (assets.joinpath(name).read_text("utf-8") for name in ("site.css", "site.js"))
    environment.globals.update(
        style=Markup(style), script=Markup(script), sample_banner=SAMPLE_BANNER,
        # Only this very script may run and nothing may be fetched: text that slipped through escaping stays text.
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    return environment


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)
