"""Line charts as inline SVG, a fraction of a millisecond each.

``leaderboard.charts`` draws the same descriptions through Vega-Lite at some 30 ms a chart, which suits the few charts
of a board. A site of 5,000 runs has tens of thousands, so run pages are drawn here: the same points, axes, colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from leaderboard.charts import ROLE_COLOURS, Axis, Point

WIDTH, HEIGHT = 320, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 8, 34
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "4 4", "1 3")
_N_TICKS = 5
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class _Scale:
    """Data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> str:
        at = self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)
        return f"{at:.1f}".removesuffix(".0")


def over_budget(
    points: Sequence[Point], x: Axis, y: Axis, *, limit: float, neutral: float | None = None,
    colours: Mapping[str, str] | None = None,
) -> Markup:  # fmt: skip
    """Figures with intervals against what was spent; ``neutral`` draws the line of no change.

    Colours tell roles apart, or the series that ``colours`` names.
    """
    values = [v for p in points for v in (p.value, p.low, p.high) if v is not None]
    across = _Scale(0.0, max([limit, *(p.x for p in points)]) or 1.0, _LEFT, WIDTH - _RIGHT)
    up = _vertical(values if neutral is None else [*values, neutral])
    parts = [*_axes(across, up, x, y)]
    if neutral is not None:
        parts.append(_line("neutral", _LEFT, up(neutral), WIDTH - _RIGHT, up(neutral)))
    series = _series(points)
    for i, (name, role) in enumerate(series):
        mine = sorted((p for p in points if (p.series, p.role) == (name, role)), key=lambda p: p.x)
        path = "M" + "L".join(f"{across(p.x)} {up(p.value)}" for p in mine)
        parts.append(f'<g style="color:{_colour(name, role, colours)}"><path class="line"{_dash(i)} d="{path}"/>')
        for p in mine:
            if p.low is not None and p.high is not None:
                parts.append(_line("span", across(p.x), up(p.low), across(p.x), up(p.high)))
            said = f"{name}: {_format(p.value, y.format)} at {_format(p.x, x.format)}"
            parts.append(f"<g><title>{escape(said)}</title>{_mark(i, across(p.x), up(p.value))}</g>")
        parts.append("</g>")
    return Markup(f"{_svg(parts)}{_legend(series, colours) if len(series) > 1 else ''}")


def curve(xs: Sequence[float], ys: Sequence[float | None], x: Axis, y: Axis) -> Markup:
    """One scalar of tuning; a gap where it has no value. At least two values."""
    across = _Scale(min(xs), max([*xs, min(xs) + 1e-9]), _LEFT, WIDTH - _RIGHT)
    up = _vertical([v for v in ys if v is not None])
    path, pen = [], "M"
    for a, b in zip(xs, ys, strict=True):
        if b is None:
            pen = "M"
        else:
            path.append(f"{pen}{across(a)} {up(b)}")
            pen = "L"
    return Markup(_svg([*_axes(across, up, x, y), f'<path class="line" d="{"".join(path)}"/>']))


def _vertical(values: Sequence[float]) -> _Scale:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return _Scale(low - room, high + room, HEIGHT - _BOTTOM, _TOP)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between ``low`` and ``high``, steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / _N_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _axes(across: _Scale, up: _Scale, x: Axis, y: Axis) -> Iterator[str]:
    for value in _ticks(up.low, up.high):
        yield _line("grid", _LEFT, up(value), WIDTH - _RIGHT, up(value))
        yield f'<text x="{_LEFT - 5}" y="{up(value)}" dy=".32em" text-anchor="end">{_format(value, y.format)}</text>'
    for value in _ticks(across.low, across.high):
        yield _line("grid", across(value), _TOP, across(value), HEIGHT - _BOTTOM)
        label = _format(value, x.format)
        yield f'<text x="{across(value)}" y="{HEIGHT - _BOTTOM + 13}" text-anchor="middle">{label}</text>'
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield f'<text class="title" x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x.title)}</text>'


def _format(value: float, form: str) -> str:
    """The few d3 number formats that our axes use; four significant digits otherwise."""
    if form == ".0%":
        return f"{value * 100:.0f} %"
    if form == "~s":
        for size, letter in _PREFIXES:
            if abs(value) >= size:
                return f"{value / size:.4g}{letter}"
    return f"{value:.4g}".replace("-", "−")


def _series(points: Sequence[Point]) -> list[tuple[str, str]]:
    roles = list(ROLE_COLOURS)
    return sorted({(p.series, p.role) for p in points}, key=lambda s: (roles.index(s[1]), s[0]))


def _dash(i: int) -> str:
    dash = _DASHES[i % len(_DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _mark(i: int, x: str, y: str) -> str:
    """Shape by series, so that no two differ by colour alone."""
    shapes = ("M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0", "M-3-3h6v6h-6z", "M0-3.6L3.6 3h-7.2z", "M0-4L4 0L0 4L-4 0z",
              "M-4-1h3v-3h2v3h3v2h-3v3h-2v-3h-3z", "M0 3.6L3.6-3h-7.2z")  # fmt: skip
    return f'<path class="mark" transform="translate({x} {y})" d="{shapes[i % len(shapes)]}"/>'


def _line(kind: str, x1: object, y1: object, x2: object, y2: object) -> str:
    return f'<path class="{kind}" d="M{x1} {y1}L{x2} {y2}"/>'


def _svg(parts: Sequence[str]) -> str:
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'


def _colour(name: str, role: str, colours: Mapping[str, str] | None) -> str:
    return colours[name] if colours else ROLE_COLOURS[role]


def _legend(series: Sequence[tuple[str, str]], colours: Mapping[str, str] | None) -> str:
    rows = []
    for i, (name, role) in enumerate(series):
        drawn = f'<path class="line"{_dash(i)} d="M0 6h22"/>{_mark(i, "11", "6")}'
        rows.append(f'<li><svg class="plot" viewBox="0 0 22 12" style="color:{_colour(name, role, colours)}">'
                    f"{drawn}</svg> {escape(name)}{'' if colours else f' ({role})'}</li>")  # fmt: skip
    return f'<ul class="legend">{"".join(rows)}</ul>'
