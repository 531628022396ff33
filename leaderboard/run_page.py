"""One run's page: what was measured, what was spent, how it was made, and pictures chosen by rule."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from markupsafe import Markup

from bench.core.budget import KIND_HELP, KINDS
from leaderboard import charts, wording
from leaderboard.evidence import CategoryTable, Change, Evidence, Gallery, traces
from leaderboard.page import Made, Page, Site, inputs_of, root_of, run_path
from leaderboard.pages import Figure, render
from leaderboard.run import Change as Difference
from leaderboard.run import Metric, Run, Snapshot
from leaderboard.stats import apart


def pages(site: Site) -> Iterator[Page]:
    for run in site.runs:
        where = run.folder.relative_to(site.runs_dir).as_posix()
        yield Page(run_path(run.run_id), inputs_of(where, run.digest, traces(run)), partial(run_page, run))


def run_page(run: Run) -> Made:
    """One run's page, and the pictures it shows by file name."""
    evidence = Evidence(run)
    gallery = evidence.gallery()
    categories = evidence.categories()
    pictures = {
        picture.name: picture for _, pairs in gallery.groups for pair in pairs for picture in (pair.base, pair.tuned)
    }
    page = render(
        "run.jinja", root=root_of(run_path(run.run_id)), run=run, record=run.record, sample=run.edition == "sample",
        status_help=wording.STATUS_HELP, budget=wording.budget_text(run.budget), metrics=_metric_rows(run),
        budget_charts=_budget_charts(run), curves=_curves(run), ledger=_ledger_rows(run),
        settings=_settings(run), gallery=gallery, gallery_changes=_gallery_changes(gallery),
        breakdowns=_breakdowns(run), categories=[_category_view(t) for t in categories],
        facts=_facts(run), problems=evidence.problems,
    )  # fmt: skip
    return page, pictures


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
            change = Difference((after.value or 0.0) - (before.value or 0.0), None, None) if known else None
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


def _metric_order(entry: Metric) -> tuple[int, int, int, str]:
    kinds, roles = list(wording.METRIC_KINDS), list(wording.ROLE_HELP)
    kind = wording.kind_of(entry.name)
    return entry.value is None, kinds.index(kind) if kind in kinds else len(kinds), roles.index(entry.role), entry.name


def _entry_figure(entry: Metric | None, decimals: int) -> Figure:
    if entry is None:
        return Figure("–")
    if entry.value is None:
        return Figure("failed", title=entry.error or "no reason given")
    return Figure(wording.figure(entry.name, entry.value, decimals),
                  wording.span(entry.name, entry.ci_low, entry.ci_high, decimals), entry.value)  # fmt: skip


def _change_figure(metric: str, change: Difference | None, decimals: int) -> Figure:
    if change is None:
        return Figure("–")
    return Figure(wording.figure(metric, change.value, decimals, signed=True),
                  wording.span(metric, change.ci_low, change.ci_high, decimals, signed=True), change.value)  # fmt: skip


def _verdict(entry: Metric, after: Metric | None, change: Difference | None) -> str:
    """``better`` or ``worse`` when the interval is clear of no change, else ``not separable``; empty without one."""
    low, high, value, neutral = (change.ci_low, change.ci_high, change.value, 0.0) if change else (None, None, 0.0, 0.0)
    if wording.kind_of(entry.name) == "winrate" and after is not None and after.value is not None:
        low, high, value, neutral = after.ci_low, after.ci_high, after.value, 0.5
    if low is None or high is None:
        return ""
    if not apart(low, high, neutral, neutral):
        return "not separable"
    return "better" if (value > neutral) == entry.higher_is_better else "worse"


def _budget_charts(run: Run) -> list[dict[str, Any]]:
    """Every metric that was scored on two or more tuned snapshots, against what was spent; win rates share a chart."""
    primary = run.budget.primary
    limit = run.budget.limit(primary) or 1.0
    spent = {s.name: s.spent.get(primary, 0.0) for s in run.record.snapshots}
    series: dict[str, list[Metric]] = {}
    for m in sorted(run.record.metrics, key=lambda m: spent.get(m.snapshot, 0.0)):
        if m.value is not None and m.snapshot in spent:
            series.setdefault(m.name, []).append(m)
    panels: dict[str, list[str]] = {}
    for name in sorted(series, key=lambda n: _metric_order(series[n][-1])):
        if sum(spent[m.snapshot] > 0 for m in series[name]) >= 2:
            panels.setdefault("winrate" if wording.is_share(name) else name, []).append(name)
    x = charts.Axis(f"spent, {wording.unit_of(primary)} (limit {wording.amount(primary, limit)})", "~s")
    made = []
    for key, names in panels.items():
        entries = [m for name in names for m in series[name]]
        shares, first = key == "winrate", entries[0]
        y = charts.Axis("win rate", ".0%") if shares else charts.Axis(first.unit)
        points = [charts.Point(spent[m.snapshot], m.value or 0.0, m.ci_low, m.ci_high,
                               wording.subject_of(m.name) or m.name, m.role) for m in entries]  # fmt: skip
        title = "Win rate against the base" if shares else wording.full_label(key)
        arrow = "higher is better" if first.higher_is_better else "lower is better"
        svg = charts.over_budget(points, x, y, limit=limit, neutral=0.5 if shares else None)
        ends = [f"{name}: {_text(series[name][0])} first, {_text(series[name][-1])} last" for name in names]
        made.append({"title": title, "svg": Markup(svg), "note": arrow, "role": "" if len(names) > 1 else first.role,
                     "alt": f"{title} against what was spent, {arrow}. " + "; ".join(ends)})  # fmt: skip
    return made


def _text(entry: Metric) -> str:
    """The value alone, for a chart's description."""
    return wording.figure(entry.name, entry.value, 3) + (" %" if wording.is_share(entry.name) else "")


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
        if i == axis or name == "unit" or name in KINDS or sum(b is not None for _, b in xs) < 2:
            continue
        svg = charts.curve([a for a, _ in xs], [b for _, b in xs], x, charts.Axis(name, "~g"))
        last = next(b for _, b in reversed(xs) if b is not None)
        made.append({"title": name, "svg": Markup(svg), "note": "", "role": "",
                     "alt": f"{name} during tuning; last value {last:.4g}"})  # fmt: skip
    return made


def _ledger_rows(run: Run) -> list[dict[str, Any]]:
    ledger = run.record.ledger
    rows = []
    for kind in (run.budget.primary, *(k for k in KINDS if k != run.budget.primary)):
        if kind in ledger.spent:
            limit, spent = run.budget.limit(kind), ledger.spent[kind]
            rows.append({
                "kind": kind, "help": KIND_HELP[kind], "spent": wording.number(spent),
                "limit": "–" if limit is None else wording.number(limit),
                "share": "" if limit is None else f"{spent / limit:.1%}",
                "lost": wording.number(ledger.lost.get(kind, 0.0)), "primary": kind == run.budget.primary,
            })  # fmt: skip
    return rows


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
        ("Platform", p.platform), ("Device", p.device),
        ("World size", str(p.world_size)), ("Threads", str(p.n_threads)),
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

    A figure is a mapping with a number under ``value``, ``accuracy`` or ``mean`` and perhaps ``n``.
    """
    base, final = _details(run, run.base), _details(run, run.final)
    made = []
    for name in sorted(final):
        for key, part in sorted(final[name].items()):
            after = _leaves(part)
            if len(after) < 2:
                continue
            before = _leaves(base[name].get(key)) if name in base else {}
            rows = [{
                "name": leaf, "n": "" if after[leaf][1] is None else f"{after[leaf][1]:,}",
                "base": f"{before[leaf][0]:.3f}" if leaf in before else "–", "tuned": f"{after[leaf][0]:.3f}",
                "difference": f"{after[leaf][0] - before[leaf][0]:+.3f}".replace("-", "−") if leaf in before else "–",
            } for leaf in sorted(after)]  # fmt: skip
            made.append({"title": wording.full_label(name),
                         "by": key.replace("_", " "), "rows": rows})  # fmt: skip
    return made


def _details(run: Run, snapshot: Snapshot | None) -> dict[str, dict[str, Any]]:
    """The whole ``detail`` of a snapshot's metrics by name: boards' metrics hold its single figures only."""
    return {m.name: m.detail for m in run.record.metrics if snapshot is not None and m.snapshot == snapshot.name}


def _leaves(part: Any) -> dict[str, tuple[float, int | None]]:
    """(figure, n) by name where every entry of ``part`` is a mapping that holds a figure; else empty."""
    if not isinstance(part, dict):
        return {}
    found: dict[str, tuple[float, int | None]] = {}
    for name, leaf in part.items():
        fields = leaf if isinstance(leaf, dict) else {}
        value = next((fields[key] for key in ("value", "accuracy", "mean") if key in fields), None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return {}
        n = fields.get("n")
        found[str(name)] = (float(value), n if isinstance(n, int) else None)
    return found


def _category_view(table: CategoryTable) -> dict[str, Any]:
    def figure(metric: Metric, change: Change | None) -> Figure:
        if change is None:
            return Figure("–")
        halves = [(change.high - change.low) / 2] if change.low is not None and change.high is not None else []
        decimals = min(4, wording.places(metric.name, [change.value], halves))
        span = wording.span(metric.name, change.low, change.high, decimals, signed=True)
        return Figure(wording.figure(metric.name, change.value, decimals, signed=True), span, change.value)

    return {
        "tag": table.tag,
        "columns": [{"name": m.name, "role": m.role, "up": m.higher_is_better} for m in table.metrics],
        "rows": [{"name": name, "n": n, "cells": [figure(m, cells.get(m.name)) for m in table.metrics]}
                 for name, n, cells in table.rows],
    }  # fmt: skip
