"""The tables of a run page: results, ledger, settings, provenance, what is inside the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.budget import KIND_HELP, KINDS
from bench.core.record import Interval, MetricEntry, Record
from leaderboard import wording
from leaderboard.pages import Figure
from leaderboard.run import Change, Run
from leaderboard.run_charts import metric_order
from leaderboard.stats import apart


def entries(record: Record, snapshot: str | None) -> dict[str, MetricEntry]:
    """A snapshot's metrics by name, whole."""
    return {m.name: m for m in record.metrics if m.snapshot == snapshot}


def results(run: Run, record: Record) -> list[dict[str, Any]]:
    """Metric x (base, tuned, difference, role, n), in the boards' order, failed metrics last."""
    base, final = entries(record, run.base and run.base.name), entries(record, run.final and run.final.name)
    names = sorted(final.keys() | base.keys(), key=lambda name: metric_order(final.get(name) or base[name]))
    rows = []
    for name in names:
        before, after = base.get(name), final.get(name)
        entry = after or before
        assert entry is not None
        change: Interval | Change | None = after.difference if after is not None else None
        plain = change is None and before is not None and after is not None
        if change is None and before is not None and after is not None:
            known = before.value is not None and after.value is not None and before.passport == after.passport
            change = Change((after.value or 0.0) - (before.value or 0.0), None, None) if known else None
        figures = [v for m in (before, after) if m for v in (m.value, m.ci_low, m.ci_high) if v is not None]
        halves = [(m.ci_high - m.ci_low) / 2 for m in (after, change)
                  if m is not None and m.ci_low is not None and m.ci_high is not None]  # fmt: skip
        decimals = wording.places(name, figures, halves)
        rows.append({
            "name": name, "label": wording.metric_label(name), "entry": entry,
            "subject": wording.subject_of(name) if wording.kind_of(name) in wording.METRIC_KINDS else "",
            "unit": "%" if wording.is_share(name) else entry.unit,
            "base": entry_figure(before, decimals), "tuned": entry_figure(after, decimals),
            "difference": change_figure(name, change, decimals), "verdict": _verdict(entry, after, change),
            "unpaired": plain and change is not None, "warnings": entry.warnings,
        })  # fmt: skip
    return rows


def entry_figure(entry: MetricEntry | None, decimals: int) -> Figure:
    if entry is None:
        return Figure("–")
    if entry.value is None:
        return Figure("failed", title=entry.error or "no reason given")
    return Figure(wording.figure(entry.name, entry.value, decimals),
                  wording.span(entry.name, entry.ci_low, entry.ci_high, decimals), entry.value)  # fmt: skip


def change_figure(metric: str, change: Interval | Change | None, decimals: int) -> Figure:
    if change is None:
        return Figure("–")
    return Figure(wording.figure(metric, change.value, decimals, signed=True),
                  wording.span(metric, change.ci_low, change.ci_high, decimals, signed=True), change.value)  # fmt: skip


def _verdict(entry: MetricEntry, after: MetricEntry | None, change: Interval | Change | None) -> str:
    """``better`` or ``worse`` when the interval is clear of no change, else ``not separable``; empty without one."""
    low, high, value, neutral = (change.ci_low, change.ci_high, change.value, 0.0) if change else (None, None, 0.0, 0.0)
    if wording.kind_of(entry.name) == "winrate" and after is not None and after.value is not None:
        low, high, value, neutral = after.ci_low, after.ci_high, after.value, 0.5
    if low is None or high is None:
        return ""
    if not apart(low, high, neutral, neutral):
        return "not separable"
    return "better" if (value > neutral) == entry.higher_is_better else "worse"


def ledger(run: Run, record: Record) -> list[dict[str, Any]]:
    found = record.ledger
    rows = []
    for kind in (run.budget.primary, *(k for k in KINDS if k != run.budget.primary)):
        if kind in found.spent:
            limit, spent = run.budget.limit(kind), found.spent[kind]
            rows.append({
                "kind": kind, "help": KIND_HELP[kind], "spent": wording.number(spent),
                "limit": "–" if limit is None else wording.number(limit),
                "share": "" if limit is None else wording.share(spent / limit, 1),
                "lost": wording.number(found.lost.get(kind, 0.0)), "primary": kind == run.budget.primary,
            })  # fmt: skip
    return rows


def sampling_cost(run: Run) -> str:
    """What one image takes at sampling time, base against tuned; empty where it was not measured."""
    parts = [f"{wording.number(s.u_per_image)} U an image {name}" for s, name in
             ((run.base, "from the base model"), (run.final, "from the tuned one"))
             if s is not None and s.u_per_image is not None]  # fmt: skip
    return ", ".join(parts)


def settings(run: Run, record: Record, method: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Every setting, the default beside each changed one.

    The base model's own default (``lr``, ``rank``) goes before the tuner's. The tuner's comes from its metadata, and
    only when that is of the version that ran: else it is not known any more, and the page says so.
    """
    known = {**run.changed, **record.settings}
    of_model = dict(run.spec.get("model_defaults") or {})
    facts: Mapping[str, Any] = {}
    if method is not None and method.get("version") == run.spec.get("tuner_version"):
        facts = method.get("settings") or {}

    def default(name: str) -> str:
        if name in of_model:
            return f"{wording.plain_value(of_model[name])} for {run.model}"
        return wording.plain_value(facts[name]["default"]) if name in facts else "not known"

    return [{"name": name, "value": wording.plain_value(known[name]), "changed": name in run.changed,
             "default": default(name) if name in run.changed else "", "unit": facts.get(name, {}).get("unit") or "",
             "help": facts.get(name, {}).get("help") or ""} for name in sorted(known)]  # fmt: skip


def provenance(run: Run, record: Record) -> list[tuple[str, str]]:
    p, spec = record.provenance, run.spec
    commit = p.commit or "not known"
    if p.dirty is not None:
        commit += " with uncommitted changes" if p.dirty else " (clean)"
    sampler = spec.get("sampler") or {}
    facts = [
        ("Run", run.run_id), ("Suite", run.suite), ("Prompts", str(spec.get("prompt_hash", "not stated"))),
        ("Base model", f"{run.model} at {spec.get('model_revision', 'unstated revision')}"),
        ("Sampler", ", ".join(f"{k} {wording.plain_value(v)}" for k, v in sorted(sampler.items()) if v is not None)),
        ("Noise seeds", wording.plain_value(spec.get("eval_seeds"))), ("Tuning seed", str(run.seed)),
        ("Global batch", wording.plain_value(spec.get("global_batch"))), ("Tuner version",
        wording.plain_value(spec.get("tuner_version"))), ("Commit", commit), ("Python", p.python),
        ("Platform", p.platform), ("Device", p.device),
        ("Hardware", p.hardware or "not recorded"), ("World size", str(p.world_size)),
        ("Micro-batch", "not recorded" if p.micro_batch is None else str(p.micro_batch)), ("Threads", str(p.n_threads)),
    ]  # fmt: skip
    return [*facts, ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(p.packages.items())))]


def breakdowns(run: Run, record: Record) -> Iterator[dict[str, Any]]:
    """Every table inside a metric's ``detail``, such as TIFA by kind of question, base beside tuned.

    A table is a mapping from names to mappings with a number under ``value``, ``accuracy`` or ``mean``, perhaps ``n``.
    """
    base, final = entries(record, run.base and run.base.name), entries(record, run.final and run.final.name)
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
            yield {"title": wording.full_label(name), "by": key.replace("_", " "), "rows": rows}


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
