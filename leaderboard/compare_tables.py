"""The figures of a comparison: paired differences, win rates, what differs in the settings, curves overlaid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core import paired, ranking
from bench.core.record import Interval
from leaderboard import charts as drawn
from leaderboard import run_charts, wording
from leaderboard.chart_data import Axis, Point
from leaderboard.evidence import Differences, Side, differences
from leaderboard.pages import Figure
from leaderboard.run import Run
from leaderboard.run_tables import change_figure, entries, entry_figure

_AGAINST_BASE = ("winrate", "human", "human-rank", "human-scale")
"""Figures against the base model or of a study: their difference is not the win rate of A against B."""
COLOURS = ("var(--first)", "var(--second)")


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """``field: value of a, value of b`` for every field, one level deep, in which two mappings differ."""
    flat_a, flat_b = _flat(a), _flat(b)
    absent = object()
    return [
        f"{key}: {_said(flat_a, key)} and {_said(flat_b, key)}"
        for key in sorted(flat_a.keys() | flat_b.keys())
        if flat_a.get(key, absent) != flat_b.get(key, absent)
    ]


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _said(fields: Mapping[str, Any], key: str) -> str:
    return wording.plain_value(fields[key]) if key in fields else "not stated"


def comparable(a: Side, b: Side) -> dict[str, Differences]:
    """Per-image differences, A minus B, of metrics made under one protocol."""
    both = sorted(a.entries.keys() & b.entries.keys())
    alike = (name for name in both if a.entries[name].passport == b.entries[name].passport)
    names = [name for name in alike if wording.kind_of(name) not in _AGAINST_BASE]
    return differences(a, b, names)


def joint_roles(a: Side, b: Side) -> dict[str, str]:
    """A metric's role for the pair: the least telling of the two."""
    order = list(wording.ROLE_HELP)
    return {name: max((a.entries[name].role, b.entries[name].role), key=order.index)
            for name in a.entries.keys() & b.entries.keys()}  # fmt: skip


def metrics(a: Side, b: Side, changes: Mapping[str, Differences], roles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Metric x (A, B, A - B, how often A is better, reading); p values by Holm over all of the page's metrics."""
    first = entries(a.evidence.run.record, a.snapshot and a.snapshot.name)
    second = entries(b.evidence.run.record, b.snapshot and b.snapshot.name)
    both = [name for name in first if name in second]
    rates = {name: _rate(found) for name, found in changes.items()}
    adjusted = dict(zip(rates, ranking.holm([rate.sign_test_p for rate in rates.values()]), strict=True))
    rows = []
    for name in sorted(both, key=lambda n: (*run_charts.metric_order(first[n])[:2], roles[n], n)):
        x, y = first[name], second[name]
        tested = _tested_by(name)
        rate, change, problem, reading = rates.get(tested), None, "", ""
        if x.passport != y.passport:
            problem, rate = "not comparable: " + "; ".join(differing(x.passport, y.passport)), None
        elif rate is not None:
            reading = ("A" if rate.value > 0.5 else "B") + " better" if adjusted[tested] <= 0.05 else "not separable"
            if name in changes:
                found = changes[name]
                mean = paired.mean_difference(found.first, found.second, [key[0] for key in found.keys])
                change = Interval(value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high)
        elif x.value is not None and y.value is not None and wording.kind_of(name) not in _AGAINST_BASE:
            change = Interval(value=x.value - y.value)
        figures = [v for m in (x, y) for v in (m.value, m.ci_low, m.ci_high) if v is not None]
        halves = [(m.ci_high - m.ci_low) / 2 for m in (x, y, change)
                  if m is not None and m.ci_low is not None and m.ci_high is not None]  # fmt: skip
        decimals = wording.places(name, figures, halves)
        rows.append({
            "label": wording.metric_label(name), "entry": x, "role": roles[name],
            "subject": wording.subject_of(name) if wording.kind_of(name) in wording.METRIC_KINDS else "",
            "unit": "%" if wording.is_share(name) else x.unit, "a": entry_figure(x, decimals),
            "b": entry_figure(y, decimals), "difference": change_figure(name, change, decimals),
            "unpaired": rate is None and change is not None, "problem": problem, "reading": reading,
            "rate": _rate_figure(rate), "p": "" if rate is None else _p(adjusted[tested]),
            "title": _wins(rate),
        })  # fmt: skip
    return rows


def _tested_by(name: str) -> str:
    """The metric whose scores by image say how often A is better: of a win rate against the base, its judge's."""
    return f"reward/{wording.subject_of(name)}" if wording.kind_of(name) == "winrate" else name


def _rate(found: Differences) -> paired.WinRate:
    """How often A is better, whichever direction better is."""
    sign = 1.0 if found.entry.higher_is_better else -1.0
    first, second = ([sign * v for v in side] for side in (found.first, found.second))
    tie_eps = float(found.entry.passport.get("reward", {}).get("tie_eps", 0.0))
    return paired.win_rate(first, second, [key[0] for key in found.keys], tie_eps=tie_eps)


def _rate_figure(rate: paired.WinRate | None) -> Figure:
    if rate is None:
        return Figure("–")
    decimals = wording.places("winrate", [rate.value], [(rate.ci_high - rate.ci_low) / 2])
    return Figure(wording.figure("winrate", rate.value, decimals) + " %",
                  wording.span("winrate", rate.ci_low, rate.ci_high, decimals), rate.value)  # fmt: skip


def _wins(rate: paired.WinRate | None) -> str:
    return "" if rate is None else f"{rate.wins} won, {rate.ties} tied, {rate.losses} lost; {rate.n_clusters} prompts"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def budgets(a: Run, b: Run) -> list[str]:
    """What a reader must know before he compares; empty where both had the same to spend."""
    limits = [run.terms for run in (a, b)]
    if limits[0] == limits[1]:
        return []
    return [f"The budgets differ: {limits[0]} for A, {limits[1]} for B. What follows is no comparison of tuners."]


def settings(a: Run, b: Run) -> list[tuple[str, str, str]]:
    """What was asked for and differs, by name: of the specification, then of the tuners' settings."""
    fields = ("tuner", "tuner_version", "reward", "reward_revision", "seed", "suite", "train_prompt_hash", "budget",
              "train_sampler", "global_batch")  # fmt: skip
    specs = [_flat({key: run.spec[key] for key in fields if key in run.spec}) for run in (a, b)]
    chosen = [{**run.changed, **run.record.settings} for run in (a, b)]
    rows = []
    for first, second in (specs, chosen):
        for key in sorted(first.keys() | second.keys()):
            values = [wording.plain_value(side[key]) if key in side else "–" for side in (first, second)]
            if values[0] != values[1]:
                rows.append((key, values[0], values[1]))
    return rows


def charts(a: Run, b: Run, names: tuple[str, str]) -> list[dict[str, Any]]:
    """The metrics that both have along the budget, one chart each with both curves."""
    alike = a.budget.primary == b.budget.primary
    series = [run_charts.along_budget(run) for run in (a, b)]
    limits = [run_charts.limit_of(run) for run in (a, b)]
    made = []
    for metric in sorted(series[0].keys() & series[1].keys(), key=lambda n: run_charts.metric_order(series[0][n][-1])):
        found = [side[metric] for side in series]
        snapshots = [run_charts.spent_of(run) for run in (a, b)]
        if max(sum(spent[m.snapshot] > 0 for m in side) for side, spent in zip(found, snapshots, strict=True)) < 2:
            continue
        points = [
            Point(spent[m.snapshot] / (1.0 if alike else limit), m.value or 0.0, m.ci_low, m.ci_high, name, m.role)
            for side, spent, limit, name in zip(found, snapshots, limits, names, strict=True) for m in side
        ]  # fmt: skip
        shares, last = wording.is_share(metric), found[0][-1]
        x = run_charts.spent_axis(a) if alike and limits[0] == limits[1] else Axis("spent", "~s")
        if not alike:
            x = Axis("spent, share of the own budget", ".0%")
        svg = drawn.over_budget(points, x, Axis("win rate against the base", ".0%") if shares else Axis(last.unit),
                               limit=max(limits) if alike else 1.0, neutral=0.5 if shares else None,
                               colours=dict(zip(names, COLOURS, strict=True)))  # fmt: skip
        arrow = "higher is better" if last.higher_is_better else "lower is better"
        ends = ", ".join(f"{name} ends at {side[-1].value:.4g}" for name, side in zip(names, found, strict=True))
        title = wording.full_label(metric)
        made.append({"title": title, "svg": svg, "note": arrow, "role": last.role,
                     "alt": f"{title} of both runs against what was spent, {arrow}; {ends}"})  # fmt: skip
    return made
