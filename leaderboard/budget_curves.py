"""Quality along the budget from the records: trained-on against held-out gains, anytime figures, suite profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from bench.core.anytime import area_under_curve, profile, profile_score, ratios_to_best, time_to_target
from bench.core.identity import canonical_json
from leaderboard.run import Metric, Run
from leaderboard.stats import apart, over_seeds
from leaderboard.table import Board, Row
from leaderboard.wording import kind_of, subject_of

TARGET = 0.6
"""Held-out win rate that time-to-target asks for: better than the base on three prompts of five. Fixed, so that it does
not depend on who else is on a board."""
PROFILE_AT = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(Frozen):
    """A figure with its 95 % interval."""

    value: float
    low: float | None
    high: float | None


class CurvePoint(Frozen):
    """Win rates against the base at one share of the budget."""

    fraction: float
    trained: Span | None
    held_out: Span | None


class Hacking(Frozen):
    """Whether a row got better at what it was trained on and not at what it was not."""

    flag: str
    """Empty, ``flat`` or ``down``: trained-on is up at the end (its interval lies above 50 %), held-out is not (its
    interval does not lie above 50 %; ``down``: it lies below), and the interval of their difference lies above 0."""
    trained_on: tuple[str, ...]
    gap: Span | None
    """Trained-on minus held-out win rate at the end."""
    paired: bool
    """The gap's interval is from per-image figures; otherwise from the two intervals, which is wider."""
    peak: float | None
    """The share of the budget at which held-out was best, where the end is below it by more than both intervals."""
    curve: tuple[CurvePoint, ...]


class Anytime(Frozen):
    """The held-out win rate along the budget."""

    area: float
    """Its mean over the budget; 0.5 is the base model."""
    to_target: float | None
    """Share of the budget at which it first is at ``TARGET``; None: not reached."""
    points: tuple[tuple[float, Span], ...]


def curve(row: Row, board: Board) -> tuple[CurvePoint, ...]:
    """Win rates at every share of the budget that all seeds have, from the base (50 % by definition) on."""
    judged = [_by_fraction(run) for run in row.runs]
    shared = sorted(set.intersection(*(set(found) for found in judged))) if judged else []
    held = [_key(board, column) for column in board.rank_columns]
    even = Span(value=0.5, low=0.5, high=0.5)
    points = [CurvePoint(fraction=0.0, trained=even, held_out=even)]
    for fraction in shared:
        entries = [found[fraction] for found in judged]
        names = held or sorted({m.name for found in entries for m in found if m.role == "held-out"})
        trained = sorted({m.name for found in entries for m in found if m.role == "trained-on"})
        points.append(CurvePoint(fraction=fraction, trained=_mean(entries, trained), held_out=_mean(entries, names)))
    return tuple(points)


def trained_judges(row: Row) -> tuple[str, ...]:
    """The judges of the row's win rates that it was trained on."""
    final = row.runs[0].entries(row.runs[0].final).values()
    return tuple(sorted(subject_of(m.name) for m in final if kind_of(m.name) == "winrate" and m.role == "trained-on"))


def hacking(row: Row, points: tuple[CurvePoint, ...], gap: Span | None) -> Hacking | None:
    """From a row's curve and, where per-image figures are there, the paired gap at its end; None without both roles."""
    end = points[-1]
    if end.trained is None or end.held_out is None or end.fraction == 0:
        return None
    paired = gap is not None
    gap = gap or _unpaired(end.trained, end.held_out)
    up = end.trained.low is not None and end.trained.low > 0.5
    not_up = end.held_out.low is not None and end.held_out.low <= 0.5
    down = end.held_out.high is not None and end.held_out.high < 0.5
    wide = gap.low is not None and gap.low > 0
    best = max((p for p in points if p.held_out is not None), key=lambda p: p.held_out.value if p.held_out else 0.0)
    fell = best.held_out is not None and best.held_out.value > end.held_out.value and apart(
        best.held_out.low, best.held_out.high, end.held_out.low, end.held_out.high
    )  # fmt: skip
    return Hacking(
        flag=("down" if down else "flat") if up and not_up and wide else "", trained_on=trained_judges(row), gap=gap,
        paired=paired, peak=best.fraction if fell and best.fraction > 0 else None, curve=points,
    )  # fmt: skip


def anytime(along: Sequence[CurvePoint]) -> Anytime | None:
    """None where no held-out win rate is known but the base's."""
    points = [(p.fraction, p.held_out) for p in along if p.held_out is not None]
    if len(points) < 2:
        return None
    times, values = [t for t, _ in points], [span.value for _, span in points]
    reached = time_to_target(times, values, TARGET)
    return Anytime(
        area=area_under_curve(times, values), to_target=reached if math.isfinite(reached) else None,
        points=tuple(points),
    )  # fmt: skip


class Profile(Frozen):
    """One tuner over the suites of one base model."""

    name: str
    times: tuple[float | None, ...]
    """To the target, by suite; None: not reached."""
    runs: tuple[bool, ...]
    """Whether there is a row on that suite at all."""
    shares: tuple[float, ...]
    """Suites within each factor of ``PROFILE_AT`` of the best."""
    score: float


class Profiles(Frozen):
    """Performance profiles (Dolan & Moré 2002; AlgoPerf) of the tuners of one base model over its suites."""

    model: str
    edition: str
    device_class: str
    """Of budgets in device-seconds: those of one kind of hardware go together."""
    suites: tuple[str, ...]
    """Suite and budget of each board."""
    rows: tuple[Profile, ...]


def profiles(boards: Sequence[Board], known: Mapping[str, Mapping[str, Anytime]]) -> list[Profiles]:
    """For every base model, edition and device class with two suites or more. A tuner goes by name, reward and
    settings.

    Args:
        known: anytime figures by board key and the id of a row's first run.
    """
    groups: dict[tuple[str, str, str], list[Board]] = {}
    for board in boards:
        if board.rank_columns:
            groups.setdefault((board.model, board.edition, board.device_class), []).append(board)
    found = []
    for (model, edition, device_class), mine in sorted(groups.items()):
        if len({board.suite for board in mine}) < 2:
            continue
        times = [
            {_identity(row): _time(known[board.key].get(row.runs[0].run_id)) for row in board.rows} for board in mine
        ]
        names = sorted({name for column in times for name in column})
        ratios = ratios_to_best([[column.get(name, math.inf) for column in times] for name in names])
        shares, scores = profile(ratios, PROFILE_AT), profile_score(ratios)
        rows = [
            Profile(
                name=name, times=tuple(t if math.isfinite(t := c.get(name, math.inf)) else None for c in times),
                runs=tuple(name in column for column in times), shares=tuple(map(float, shares[i])),
                score=float(scores[i]),
            )
            for i, name in enumerate(names)
        ]  # fmt: skip
        found.append(Profiles(
            model=model, edition=edition, device_class=device_class,
            suites=tuple(f"{b.suite}, {b.budget}" for b in mine),
            rows=tuple(sorted(rows, key=lambda r: (-r.score, r.name))),
        ))  # fmt: skip
    return found


def _identity(row: Row) -> str:
    head = row.runs[0]
    settings = "" if not head.changed else f" {canonical_json(head.changed)}"
    return f"{head.tuner} ({head.trained_reward}){settings}"


def _time(found: Anytime | None) -> float:
    return math.inf if found is None or found.to_target is None else found.to_target


def _by_fraction(run: Run) -> dict[float, list[Metric]]:
    """Win rates that have a value, by the share of the budget of their snapshot; the base has none."""
    fractions = {s.name: s.fraction for s in run.snapshots if s.fraction > 0}
    found: dict[float, list[Metric]] = {}
    for m in run.metrics:
        if kind_of(m.name) == "winrate" and m.value is not None and m.snapshot in fractions:
            found.setdefault(fractions[m.snapshot], []).append(m)
    return found


def _key(board: Board, column: str) -> str:
    return next(c.metric for c in board.columns if c.key == column)


def _mean(seeds: Sequence[Sequence[Metric]], names: Sequence[str]) -> Span | None:
    """The mean over judges of one row's win rate over its seeds; of the intervals' ends as well, which is never too
    narrow, whatever the judges' correlation."""
    spans = []
    for name in names:
        found = [m for entries in seeds for m in entries if m.name == name]
        if len(found) != len(seeds):
            return None
        spans.append(over_seeds([m.value or 0.0 for m in found], [m.ci_low for m in found], [m.ci_high for m in found]))
    if not spans:
        return None
    lows, highs = [low for _, low, _ in spans if low is not None], [high for _, _, high in spans if high is not None]
    whole = len(lows) == len(highs) == len(spans)
    return Span(
        value=math.fsum(v for v, _, _ in spans) / len(spans), low=math.fsum(lows) / len(spans) if whole else None,
        high=math.fsum(highs) / len(spans) if whole else None,
    )  # fmt: skip


def _unpaired(a: Span, b: Span) -> Span:
    """a - b from the two intervals: right for independent ones, too wide where prompts move both alike."""
    value = a.value - b.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Span(value=value, low=None, high=None)
    below, above = math.hypot(a.value - a.low, b.high - b.value), math.hypot(a.high - a.value, b.value - b.low)
    return Span(value=value, low=max(-1.0, value - below), high=min(1.0, value + above))
