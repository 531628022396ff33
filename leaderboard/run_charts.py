"""The curves of a run page: quality along the budget, the gap between trained-on and held-out, scalars of tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.core.budget import KINDS
from bench.core.record import Curve, MetricEntry
from leaderboard import charts, wording
from leaderboard.budget_curves import Hacking
from leaderboard.chart_data import Axis, Point
from leaderboard.run import Metric, Run

_FIRST_SCALARS = ("reward", "grad_norm", "loss")
_KINDS = {kind: i for i, kind in enumerate(wording.METRIC_KINDS)}
_ROLES = {role: i for i, role in enumerate(wording.ROLE_HELP)}


def over_budget(run: Run) -> list[dict[str, Any]]:
    """Every metric that was scored on two or more tuned snapshots, against what was spent; win rates share a chart."""
    series = along_budget(run)
    spent = spent_of(run)
    panels: dict[str, list[str]] = {}
    for name in sorted(series, key=lambda n: metric_order(series[n][-1])):
        if sum(spent[m.snapshot] > 0 for m in series[name]) >= 2:
            panels.setdefault("winrate" if wording.is_share(name) else name, []).append(name)
    made = []
    for key, names in panels.items():
        entries = [m for name in names for m in series[name]]
        shares, first = key == "winrate", entries[0]
        y = Axis("win rate", ".0%") if shares else Axis(first.unit)
        points = [Point(spent[m.snapshot], m.value or 0.0, m.ci_low, m.ci_high,
                        wording.subject_of(m.name) or m.name, m.role) for m in entries]  # fmt: skip
        title = "Win rate against the base" if shares else wording.full_label(key)
        arrow = "higher is better" if first.higher_is_better else "lower is better"
        svg = charts.over_budget(points, spent_axis(run), y, limit=limit_of(run), neutral=0.5 if shares else None)
        ends = [f"{name}: {_text(series[name][0])} first, {_text(series[name][-1])} last" for name in names]
        made.append({"title": title, "svg": svg, "note": arrow, "role": "" if len(names) > 1 else first.role,
                     "alt": f"{title} against what was spent, {arrow}. " + "; ".join(ends)})  # fmt: skip
    return made


def along_budget(run: Run) -> dict[str, list[Metric]]:
    """Every metric's values in order of what was spent, by name."""
    spent = spent_of(run)
    series: dict[str, list[Metric]] = {}
    for m in sorted(run.metrics, key=lambda m: spent.get(m.snapshot, 0.0)):
        if m.value is not None and m.snapshot in spent:
            series.setdefault(m.name, []).append(m)
    return series


def spent_of(run: Run) -> dict[str, float]:
    """What of the primary kind was spent when each snapshot was taken."""
    return {s.name: s.spent.get(run.budget.primary, 0.0) for s in run.snapshots}


def limit_of(run: Run) -> float:
    return run.budget.limit(run.budget.primary) or 1.0


def spent_axis(run: Run) -> Axis:
    primary = run.budget.primary
    return Axis(f"spent, {wording.unit_of(primary)} (limit {wording.amount(primary, limit_of(run))})", "~s")


def gap(hacked: Hacking) -> list[dict[str, Any]]:
    """Trained-on against held-out win rates along the budget, and what lies between them."""
    points, between = [], []
    for p in hacked.curve:
        for role, span in (("trained-on", p.trained), ("held-out", p.held_out)):
            if span is not None:
                points.append(Point(p.fraction, span.value, span.low, span.high, "mean of judges", role))
        if p.trained is not None and p.held_out is not None:
            points_apart = 100 * (p.trained.value - p.held_out.value)
            between.append(Point(p.fraction, points_apart, None, None, "gap", "trained-on"))
    if len(between) < 2:
        return []
    x, last = Axis("share of the budget", ".0%"), between[-1].value
    return [
        {"title": "Trained-on and held-out", "role": "", "note": "win rate against the base, mean of judges",
         "svg": charts.over_budget(points, x, Axis("win rate", ".0%"), limit=1.0, neutral=0.5),
         "alt": "Win rates under trained-on and held-out judges along the budget; they end "
                f"{last:+.1f} points apart"},
        {"title": "The gap", "role": "", "note": "trained-on minus held-out",
         "svg": charts.over_budget(between, x, Axis("points", ".4~g"), limit=1.0, neutral=0.0),
         "alt": f"Trained-on minus held-out win rate along the budget, {last:+.1f} points at the end"},
    ]  # fmt: skip


def scalars(run: Run, curve: Curve) -> list[dict[str, Any]]:
    """What the tuner logged, against the primary kind or the first column where that was not logged."""
    columns, rows = curve.columns, curve.rows
    if len(rows) < 2 or set(map(len, rows)) != {len(columns)}:
        return []
    axis = columns.index(run.budget.primary) if run.budget.primary in columns else 0
    x = Axis(f"spent, {wording.unit_of(columns[axis])}", "~s")
    made: list[dict[str, Any]] = []
    by_column = list(zip(*(row for row in rows if row[axis] is not None), strict=True)) or [()] * len(columns)
    xs = by_column[axis]
    for name in sorted(columns, key=lambda c: (_place(c), columns.index(c))):
        i = columns.index(name)
        if i == axis or name == "unit" or name in KINDS:
            continue
        column = by_column[i]
        values = [y for y in column if y is not None] if None in column else column
        if len(values) < 2:
            continue
        first, last = values[0], values[-1]
        if values.count(first) == len(values):
            made.append({"title": name, "constant": f"{last:.4g}"})
            continue
        svg = charts.curve(xs, column, x, Axis(name, ".4~g"))
        made.append({"title": name, "svg": svg, "note": "", "role": "",
                     "alt": f"{name} during tuning; first value {first:.4g}, last {last:.4g}"})  # fmt: skip
    return made


def _place(column: str) -> float:
    """Reward and gradient norm are what a reader looks for first."""
    return _FIRST_SCALARS.index(column) if column in _FIRST_SCALARS else math.inf


def metric_order(entry: Metric | MetricEntry) -> tuple[int, int, int, str]:
    kind = wording.kind_of(entry.name)
    return entry.value is None, _KINDS.get(kind, len(_KINDS)), _ROLES[entry.role], entry.name


def over_scales(run: Run) -> list[dict[str, Any]]:
    """Quality against the LoRA scale that the images were sampled with, where scales other than 1 were scored."""
    final = run.final
    if final is None or not run.scales:
        return []
    stops: list[tuple[float, Sequence[Metric]]] = [(s.snapshot.adapter_scale, s.metrics) for s in run.scales]
    stops.append((final.adapter_scale, list(run.entries(final).values())))
    if run.base is not None:
        stops.append((0.0, list(run.entries(run.base).values())))  # scale 0 is the base model itself
    found: dict[str, list[Point]] = {}
    units: dict[str, Metric] = {}
    for scale, entries in sorted(stops, key=lambda stop: stop[0]):
        for m in entries:
            if m.value is not None:
                key = "winrate" if wording.is_share(m.name) else m.name
                units[key] = m
                found.setdefault(key, []).append(
                    Point(scale, m.value, m.ci_low, m.ci_high, wording.subject_of(m.name) or m.name, m.role)
                )
    made = []
    for key in sorted(found, key=lambda k: metric_order(units[k])):
        points = found[key]
        if len({p.x for p in points}) < 2:
            continue
        shares, title = key == "winrate", wording.full_label(key)
        y = Axis("win rate", ".0%") if shares else Axis(units[key].unit)
        svg = charts.over_budget(points, Axis("LoRA scale"), y, limit=max(p.x for p in points),
                               neutral=0.5 if shares else None)  # fmt: skip
        arrow = "higher is better" if units[key].higher_is_better else "lower is better"
        made.append({"title": title, "svg": svg, "note": arrow, "role": "" if shares else units[key].role,
                     "alt": f"{title} against the LoRA scale, {arrow}; " + ", ".join(
                         f"{p.series} {p.value:.4g} at {p.x:g}" for p in points)})  # fmt: skip
    return made


def _text(entry: Metric) -> str:
    """The value alone, for a chart's description."""
    return wording.figure(entry.name, entry.value, 3) + (" %" if wording.is_share(entry.name) else "")
