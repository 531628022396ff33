"""Differences between two models by category: the tags of the suite's prompts (PartiPrompts' categories and
challenges, ViLG-300's categories, HPSv2's styles)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leaderboard import wording
from leaderboard.evidence import Differences, PromptLine
from leaderboard.pages import Figure
from leaderboard.run import Metric
from leaderboard.stats import clustered_mean

MIN_PROMPTS_A_VALUE = 3
"""A tag with fewer prompts a value on average, such as a pair number, names no category."""


@dataclass(frozen=True)
class Change:
    """First minus second within one category."""

    value: float
    low: float | None
    high: float | None
    n_prompts: int


@dataclass(frozen=True)
class CategoryTable:
    """One tag of the prompts: categories x metrics."""

    tag: str
    metrics: tuple[Metric, ...]
    rows: tuple[tuple[str, int, dict[str, Change]], ...]
    """Category, prompts in it, change by metric."""


def by_category(prompts: Mapping[str, PromptLine], changes: Mapping[str, Differences]) -> list[CategoryTable]:
    """Changes by every tag that has few enough values to be a category."""
    tags = sorted({tag for prompt in prompts.values() for tag in prompt.tags})
    tables = []
    for tag in tags if changes else []:
        members: dict[str, set[str]] = {}
        for prompt in prompts.values():
            if tag in prompt.tags:
                members.setdefault(prompt.tags[tag], set()).add(prompt.id)
        n_prompts = sum(len(ids) for ids in members.values())
        if len(members) < 2 or n_prompts < MIN_PROMPTS_A_VALUE * len(members):
            continue
        rows = tuple((category, len(members[category]), _row(members[category], changes))
                     for category in sorted(members))  # fmt: skip
        tables.append(CategoryTable(tag, tuple(d.entry for d in changes.values()), rows))
    return tables


def _row(members: set[str], changes: Mapping[str, Differences]) -> dict[str, Change]:
    cells = {}
    for name, found in changes.items():
        mine = [(value, key[0]) for key, value in found.by_key.items() if key[0] in members]
        if mine:
            mean, low, high = clustered_mean([v for v, _ in mine], [c for _, c in mine])
            cells[name] = Change(mean, low, high, len({c for _, c in mine}))
    return cells


def view(table: CategoryTable, roles: Mapping[str, str]) -> dict[str, Any]:
    """What templates print of a table; ``roles`` are those of a comparison of two runs, else the entries' own."""

    def figure(metric: Metric, change: Change | None) -> Figure:
        if change is None:
            return Figure("–")
        halves = [(change.high - change.low) / 2] if change.low is not None and change.high is not None else []
        decimals = min(4, wording.places(metric.name, [change.value], halves))
        span = wording.span(metric.name, change.low, change.high, decimals, signed=True)
        return Figure(wording.figure(metric.name, change.value, decimals, signed=True), span, change.value)

    return {
        "tag": table.tag,
        "columns": [{"name": m.name, "role": roles.get(m.name, m.role), "up": m.higher_is_better}
                    for m in table.metrics],
        "rows": [{"name": name, "n": n, "cells": [figure(m, cells.get(m.name)) for m in table.metrics]}
                 for name, n, cells in table.rows],
    }  # fmt: skip
