"""A board's statistics as a part of a page: places, strengths, tie groups, all pairs, noise floor, hacking, anytime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from markupsafe import Markup

from bench.core.anytime import MAX_RATIO
from leaderboard import charts
from leaderboard.budget_curves import PROFILE_AT, TARGET, Hacking, Span, profiles
from leaderboard.pages import Figure, render
from leaderboard.statistics import BASE, POWER, BoardFacts, Need, PairFact
from leaderboard.table import Board

N_PROFILES = 15
"""Tuners that a table of profiles shows."""
N_CURVES = 6
"""Rows that the chart along the budget shows: more lines cannot be told apart."""
_ROLE_OF_LINES = "held-out"
_LETTERS = ascii_uppercase
"""What names rows in the heads of the matrix: numbers would look like places. ``MAX_ROWS`` has enough of them."""


def board_statistics_html(board: Board, facts: BoardFacts, root: str = "") -> Markup:
    """The part of a board's page that says how sure its order is.

    Args:
        root: from the page to the site's folder, ``../`` for every folder between.
    """
    names = [facts.names[name] for name in facts.rows]
    return Markup(render(
        "statistics.jinja", key=board.key, text=f"{board.suite} · {board.model} · {board.budget}", root=root,
        notes=facts.notes, target=_percent(TARGET), standings=_standings(board, facts), groups=_groups(facts),
        matrix=_matrix(facts), names=names, judges=" and ".join(facts.judges), legend=_legend(facts),
        letters=_LETTERS, floors=_floors(facts), needs=_needs(facts), n_pairs=len(facts.pairs), power=_percent(POWER),
        charts=_charts(board, facts),
    ))  # fmt: skip


def profiles_html(boards: Sequence[Board], facts: Mapping[str, BoardFacts]) -> Markup:
    """Performance profiles over suites; empty with fewer than two suites of one base model.

    Args:
        facts: by board key.
    """
    views = [
        {
            "model": p.model + (f" on {p.device_class}" if p.device_class else ""), "edition": p.edition,
            "suites": p.suites, "at": [f"{at:g}" for at in PROFILE_AT],
            "rows": [
                {
                    "name": r.name, "score": f"{r.score:.2f}", "score_sort": r.score,
                    "shares": [{"text": f"{100 * s:.0f}", "sort": s} for s in r.shares],
                    "times": [{"text": _time(t) if had else "no run", "sort": math.inf if t is None else t}
                              for t, had in zip(r.times, r.runs, strict=True)],
                }
                for r in p.rows[:N_PROFILES]
            ],
            "n_rows": len(p.rows),
        }
        for p in profiles(boards, {key: found.anytime for key, found in facts.items()})
    ]  # fmt: skip
    return Markup(render("profiles.jinja", profiles=views, target=_percent(TARGET), max_ratio=f"{MAX_RATIO:g}"))


def places_text(place: tuple[int, int] | None) -> str:
    """``1–3``; a row that is not compared has none."""
    if place is None:
        return "–"
    return str(place[0]) if place[0] == place[1] else f"{place[0]}–{place[1]}"


def hacking_text(found: Hacking | None) -> tuple[str, str]:
    """(the flag in a word or nothing, the reason in a sentence)"""
    if found is None:
        return "", "not known: it has no win rate under a judge tuned for"
    end = found.curve[-1]
    if end.trained is None or end.held_out is None:
        return "", "not known"
    said = f"{' + '.join(found.trained_on)} {_percent(end.trained.value)}, held-out {_percent(end.held_out.value)}"
    peak = f"; held-out was best at {_percent(found.peak)} of the budget" if found.peak is not None else ""
    if found.flag:
        return f"yes: held-out {found.flag}", f"{said}{peak}"
    if end.held_out.high is not None and end.held_out.high < 0.5:
        up = end.trained.low is not None and end.trained.low > 0.5
        why = "the gap's interval reaches 0" if up else "the trained-on interval does not clear 50 %"
        return "", f"worse than the base; no flag, since {why}: {said}{peak}"
    return "", f"no sign: {said}{peak}"


def _standings(board: Board, facts: BoardFacts) -> list[dict[str, Any]]:
    rows = []
    for i, row in enumerate(board.rows):
        run_id = row.runs[0].run_id
        hacked, anytime = facts.hacking.get(run_id), facts.anytime.get(run_id)
        flag, why = hacking_text(hacked)
        rows.append({
            "order": i, "place": places_text(facts.places.get(run_id)), "name": facts.names[run_id], "run_id": run_id,
            "strength": _figure(facts.strengths.get(run_id), 1.0, signed=True),
            "gap": _figure(hacked.gap if hacked is not None else None, 100.0, signed=True), "flag": flag, "why": why,
            "area": Figure("–") if anytime is None else Figure(f"{100 * anytime.area:.1f}", sort=anytime.area),
            "reached": "–" if anytime is None else _time(anytime.to_target),
            "reached_sort": 9 if anytime is None or anytime.to_target is None else anytime.to_target,
        })  # fmt: skip
    return rows


def _groups(facts: BoardFacts) -> list[str]:
    """Groups of two or more, and the rows that stand alone."""
    many = [" · ".join(facts.names[name] for name in group) for group in facts.groups if len(group) > 1]
    alone = [facts.names[group[0]] for group in facts.groups if len(group) == 1]
    return [*many, *([f"Told from every other: {', '.join(alone)}"] if alone else [])]


def _matrix(facts: BoardFacts) -> list[dict[str, Any]]:
    """A line a tuner; the base has a column only, since its line would say the same once more."""
    known = {(p.a, p.b): p for p in facts.pairs}
    lines = []
    for a in facts.rows:
        if a != BASE:
            cells = [None if a == b else _pair(known[a, b], facts, False) if (a, b) in known
                     else _pair(known[b, a], facts, True) for b in facts.rows]  # fmt: skip
            lines.append({"name": facts.names[a], "cells": cells})
    return lines


def _pair(p: PairFact, facts: BoardFacts, turned: bool) -> dict[str, str]:
    a, b = (p.b, p.a) if turned else (p.a, p.b)
    value = 1 - p.rate.value if turned else p.rate.value
    low, high = (p.rate.low, p.rate.high) if not turned else (_other(p.rate.high), _other(p.rate.low))
    wins, loses = p.told_apart and value > 0.5, p.told_apart and value < 0.5
    noise = abs(value - 0.5) < p.floor
    return {
        "text": f"{100 * value:.0f}", "mark": " ▲" if wins else " ▼" if loses else "",
        "span": "" if low is None or high is None else f"{100 * low:.0f}–{100 * high:.0f}",
        "kind": " ".join([*(["wins"] if wins else ["loses"] if loses else []), *(["noise"] if noise else [])]),
        "title": f"{facts.names[a]} over {facts.names[b]}: p = {_p(p.p)}, after Holm {_p(p.p_holm)}, {p.n_seeds} "
                 f"tuning seed{'' if p.n_seeds == 1 else 's'}{', below the noise floor' if noise else ''}",
    }  # fmt: skip


def _legend(facts: BoardFacts) -> str:
    noise = (
        " Grey: no further from 50 than what other noise or another tuning seed does, so not told apart whatever its p."
        if facts.floor_noise is not None or facts.floor_seed is not None else ""
    )  # fmt: skip
    return (
        f"▲ and ▼: significantly more or less than half, with Holm's correction over all {len(facts.pairs)} pairs. "
        f"Below each, its 95 % interval over tuning seeds and {facts.n_prompts} prompts, without correction.{noise}"
    )


def _floors(facts: BoardFacts) -> list[str]:
    said = []
    if facts.floor_noise is not None:
        points = f"{100 * facts.floor_noise:.1f}"
        said.append(f"The base model against itself with other noise, as many images: within {points} "
                    "points of 50 % in 95 % of cases.")  # fmt: skip
    if facts.floor_seed is not None:
        points = f"{100 * facts.floor_seed:.1f}"
        said.append(f"A tuner against itself with another tuning seed: within {points} points of 50 % in 95 % of cases "
                    "for one run against one; for the means of n seeds, that over the root of n.")  # fmt: skip
    elif facts.pairs:
        said.append("No row has several tuning seeds: how far another seed of the same tuner would lie is not known.")
    return said


def _needs(facts: BoardFacts) -> list[str]:
    return [_need(need, facts) for need in facts.needs]


def _need(need: Need, facts: BoardFacts) -> str:
    ways = []
    if need.more_prompts is not None:
        ways.append(f"{_count(need.more_prompts)} more prompts")
    if need.more_seeds is not None:
        ways.append(f"{_count(need.more_seeds)} more tuning seeds")
    pair = f"{facts.names[need.a]} and {facts.names[need.b]}"
    if not ways:
        return f"{pair}: neither more prompts nor more tuning seeds alone would do"
    return f"{pair}: about {' or '.join(ways)}"


def _charts(board: Board, facts: BoardFacts) -> list[dict[str, Any]]:
    made = []
    tuners = [name for name in facts.rows if name != BASE]
    if len(tuners) > 1:
        points = [charts.Point(x=i, value=s.value, low=s.low, high=s.high, series="strength", role=_ROLE_OF_LINES)
                  for i, name in enumerate(tuners) for s in [facts.strengths[name]]]  # fmt: skip
        svg = charts.forest(
            points, [facts.names[n] for n in tuners], charts.Axis("Elo points, base model = 0"), neutral=0
        )
        made.append({
            "title": "Bradley-Terry strength", "note": "with 95 % intervals over tuning seeds and prompts", "role": "",
            "alt": "Strength of every tuner in Elo points against the base model; the figures are in the table above",
            "svg": svg,
        })  # fmt: skip
    curves = [(run_id, facts.anytime[run_id]) for row in board.rows
              if (run_id := row.runs[0].run_id) in facts.anytime and len(facts.anytime[run_id].points) > 2]  # fmt: skip
    points = [
        charts.Point(x=fraction, value=span.value, low=None, high=None, series=facts.names[run_id], role=_ROLE_OF_LINES)
        for run_id, found in curves[:N_CURVES] for fraction, span in found.points
    ]  # fmt: skip
    if points:
        svg = charts.over_budget(points, charts.Axis("share of the budget", ".0%"), charts.Axis("win rate", ".0%"),
                                 limit=1.0, neutral=0.5)  # fmt: skip
        more = f", the first {N_CURVES} rows" if len(curves) > N_CURVES else ""
        made.append({
            "title": f"Held-out win rate along the budget{more}", "note": "intervals are in the table", "role": "",
            "alt": "Held-out win rate of the tuners at each share of the budget; means are in the table above",
            "svg": svg,
        })  # fmt: skip
    return made


def _figure(span: Span | None, scale: float, *, signed: bool) -> Figure:
    if span is None:
        return Figure("–")
    if span.low is None or span.high is None:
        return Figure(_number(scale * span.value, signed), sort=span.value)
    ends = f"{_number(scale * span.low, signed)} to {_number(scale * span.high, signed)}"
    return Figure(_number(scale * span.value, signed), ends, span.value)


def _number(value: float, signed: bool) -> str:
    text = f"{value:+,.0f}" if signed else f"{value:,.0f}"
    return ("0" if text in ("+0", "-0") else text).replace("-", "−")


def _count(n: int) -> str:
    """A planning figure: two significant digits above a hundred."""
    if n < 100:
        return str(n)
    size = 10 ** (len(str(n)) - 2)
    return f"{math.ceil(n / size) * size:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _time(share: float | None) -> str:
    return "not reached" if share is None else f"{100 * share:.0f} %"


def _other(end: float | None) -> float | None:
    return None if end is None else 1 - end


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"
