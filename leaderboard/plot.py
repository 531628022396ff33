"""Charts as inline SVG without any script: what a page shows where none may run, and until Vega has drawn its own.

Drawn here and not by Vega at build time: 0.1 ms a chart against 30 to 180 ms, and a site of 5,000 runs has tens of
thousands. ``leaderboard.specs`` says the same figures in Vega-Lite; ``leaderboard.charts`` makes both of one list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from leaderboard.chart_data import DASHES, ROLE_COLOURS, Axis, Point, Series, Shape, series_of, slots_of
from leaderboard.escaping import html

WIDTH, HEIGHT = 320, 190
FOREST_WIDTH = 380
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 8, 34
FOREST_LEFT = 140
_N_TICKS = 5
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LETTERS = 24
"""Of a row's name beside a forest; the whole name is its title."""
_OUTLINES = ("M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0", "M-3-3h6v6h-6z", "M0-3.6L3.6 3h-7.2z", "M0-4L4 0L0 4L-4 0z",
             "M-4-1h3v-3h2v3h3v2h-3v3h-2v-3h-3z", "M0 3.6L3.6-3h-7.2z")  # fmt: skip
"""By series, in the order of ``chart_data.SHAPES``: no two differ by colour alone."""


class _Scale:
    """Data to pixels."""

    __slots__ = ("_a", "_b", "end", "high", "low", "start")

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end
        self._a = (end - start) / (high - low)
        self._b = start - low * self._a

    def __call__(self, value: float) -> str:
        return f"{self._a * value + self._b:.1f}"

    def matrix(self, up: _Scale) -> str:
        """What takes a point in the data's own units to its place."""
        return f"matrix({self._a:.6g} 0 0 {up._a:.6g} {self._b:.6g} {up._b:.6g})"


def over_budget(
    points: Sequence[Point], x: Axis, y: Axis, *, limit: float, neutral: float | None = None,
    colours: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Figures with intervals against what was spent; ``neutral`` draws the line of no change.

    Colours tell roles apart, or the series that ``colours`` names.
    """
    values = [v for p in points for v in (p.value, p.low, p.high) if v is not None]
    across = _Scale(0.0, max([limit, *(p.x for p in points)]) or 1.0, LEFT, WIDTH - RIGHT)
    up = _vertical(values if neutral is None else [*values, neutral])
    parts = _axes(across, up, x, y)
    if neutral is not None:
        parts.append(_line("neutral", LEFT, up(neutral), WIDTH - RIGHT, up(neutral)))
    series = series_of(points)
    for i, one in enumerate(series):
        mine = [p for p in points if (p.series, p.role) == one] if len(series) > 1 else list(points)
        mine.sort(key=lambda p: p.x)
        shown, outline = html(one[0]), _OUTLINES[i % len(_OUTLINES)]
        line, drawn = [], []
        for p in mine:
            (at, amount), y_at = _along(across.high, p.x, x.format), up(p.value)
            line.append(f"{at} {y_at}")
            if p.low is not None and p.high is not None:
                drawn.append(f'<path class="span" d="M{at} {up(p.low)}V{up(p.high)}"/>')
            drawn.append(f"<g><title>{shown}: {_format(p.value, y.format)} at {amount}</title>"
                         f'<path class="mark" transform="translate({at} {y_at})" d="{outline}"/></g>')  # fmt: skip
        parts.append(f'<g style="color:{colour_of(one, colours)}"><path class="line"{_dash(i)} d="M{"L".join(line)}"/>'
                     f"{''.join(drawn)}</g>")  # fmt: skip
    return f"{_svg(parts)}{_legend(tuple(series), colours)}"


def curve(xs: Sequence[float], ys: Sequence[float | None], x: Axis, y: Axis, told: Sequence[str]) -> str:
    """One scalar of tuning; a gap where it has no value. At least two values.

    Args:
        told: the line of ``xs`` and ``ys`` in their own units (``chart_data.polyline``).
    """
    low, high = min(xs), max(xs)
    across = _Scale(low, high if high > low else low + 1.0, LEFT, WIDTH - RIGHT)
    up = _vertical([v for v in ys if v is not None])
    return _svg(
        [*_axes(across, up, x, y), f'<path class="line data" transform="{across.matrix(up)}" d="M{"M".join(told)}"/>']
    )


def forest(points: Sequence[Point], rows: Sequence[str], x: Axis, *, neutral: float) -> str:
    """One line a tuner: figures with intervals against the line of no change. ``Point.x`` is the place in ``rows``."""
    series = series_of(points)
    slots = slots_of(points)
    step = 12 * len(slots) + 12
    bottom = TOP + step * len(rows)
    values = [v for p in points for v in (p.value, p.low, p.high) if v is not None]
    low, high = _with_room([*values, neutral])
    across = _Scale(low, high, FOREST_LEFT, FOREST_WIDTH - RIGHT)
    parts = list(_across(across, x, TOP, bottom))
    parts.append(_line("neutral", across(neutral), TOP, across(neutral), bottom))
    for i, name in enumerate(rows):
        shown = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        parts.append(f'<text x="{FOREST_LEFT - 8}" y="{TOP + step * (i + 0.5):.1f}" dy=".32em" text-anchor="end">'
                     f"<title>{html(name)}</title>{html(shown)}</text>")  # fmt: skip
    for k, (name, role) in enumerate(series):
        parts.append(f'<g style="color:{colour_of((name, role), None)}">')
        for p in points:
            if (p.series, p.role) == (name, role):
                at = f"{TOP + step * p.x + 12 * (slots.index(p.series) + 1):.1f}"
                if p.low is not None and p.high is not None:
                    parts.append(_line("span", across(p.low), at, across(p.high), at))
                said = html(f"{rows[int(p.x)]}, {name}: {_format(p.value, x.format)}")
                parts.append(f"<g><title>{said}</title>{_mark(k, across(p.value), at)}</g>")
        parts.append("</g>")
    return f"{_svg(parts, FOREST_WIDTH, bottom + BOTTOM)}{_legend(tuple(series), None)}"


def radar(spokes: Sequence[str], shapes: Sequence[Shape], least: float, most: float, middle: float | None) -> str:
    """Values from ``least``, in the middle, to ``most`` on as many axes; ``middle`` is drawn as a web of its own."""

    def web(values: Sequence[float]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners(values, least, most))

    n = len(spokes)
    parts = [f'<polygon class="web" points="{web([most] * n)}"/>']
    if middle is not None:
        parts.append(f'<polygon class="web" stroke-dasharray="3 3" points="{web([middle] * n)}"/>')
    for (x, y), (at, up), name in zip(corners([1.0] * n, 0, 1), corners([1.16] * n, 0, 1), spokes, strict=True):
        parts.append(f'<path class="grid" d="M0 0L{x:.1f} {y:.1f}"/>')
        parts.append(f'<text text-anchor="middle" dy=".32em" x="{at:.1f}" y="{up:.1f}">{html(name)}</text>')
    for i, (name, values) in enumerate(shapes):
        parts.append(f'<polygon class="area s{i}" points="{web(values)}"{_dash(i)}>'
                     f"<title>{html(name)}</title></polygon>")  # fmt: skip
    names = "".join(f'<li><svg class="plot s{i}" viewBox="0 0 22 12"><path class="line"{_dash(i)} d="M0 6h22"/></svg> '
                    f"{html(name)}</li>" for i, (name, _) in enumerate(shapes))  # fmt: skip
    return f'<svg class="plot" viewBox="-160 -130 320 260">{"".join(parts)}</svg><ul class="legend">{names}</ul>'


def corners(values: Sequence[float], least: float, most: float) -> list[tuple[float, float]]:
    """Where values lie on a radar's axes: the first axis points up, ``least`` is the middle and ``most`` lies 100 from
    it, y grows down."""
    angles = (2 * math.pi * i / len(values) - math.pi / 2 for i in range(len(values)))
    away = (100 * (v - least) / (most - least) for v in values)
    return [(r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, away, strict=True)]


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _vertical(values: Sequence[float]) -> _Scale:
    return _Scale(*_with_room(values), HEIGHT - BOTTOM, TOP)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between ``low`` and ``high``, steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / _N_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _axes(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    parts = []
    for value in _ticks(up.low, up.high):
        at = up(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/><text x="{LEFT - 5}" y="{at}" dy=".32em" '
                     f'text-anchor="end">{_format(value, y.format)}</text>')  # fmt: skip
    parts.append(_across_cached(across.low, across.high, x))
    return parts


@lru_cache(maxsize=4096)
def _along(high: float, value: float, form: str) -> tuple[str, str]:
    """Place and words of an amount spent, of an axis from 0 to ``high``: all charts of a page share the snapshots'."""
    return _Scale(0.0, high, LEFT, WIDTH - RIGHT)(value), _format(value, form)


@lru_cache(maxsize=512)
def _across_cached(low: float, high: float, x: Axis) -> str:
    """All charts of a page have one axis of what was spent, and many pages share it."""
    return "".join(_across(_Scale(low, high, LEFT, WIDTH - RIGHT), x, TOP, HEIGHT - BOTTOM))


def _across(across: _Scale, x: Axis, top: float, bottom: float) -> Iterator[str]:
    for value in _ticks(across.low, across.high):
        at = across(value)
        yield (f'<path class="grid" d="M{at} {top}V{bottom}"/><text x="{at}" y="{bottom + 13}" '
               f'text-anchor="middle">{_format(value, x.format)}</text>')  # fmt: skip
    middle = (across.start + across.end) / 2
    yield f'<text class="title" x="{middle:.0f}" y="{bottom + 29}" text-anchor="middle">{html(x.title)}</text>'


def _format(value: float, form: str) -> str:
    """The few d3 number formats that our axes use; four significant digits otherwise."""
    if form == ".0%":
        return f"{value * 100:.0f} %"
    if form == "~s":
        for size, letter in _PREFIXES:
            if abs(value) >= size:
                return f"{value / size:.4g}{letter}"
    return f"{value:.4g}".replace("-", "−")


def _dash(i: int) -> str:
    dash = DASHES[i % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _mark(i: int, x: str, y: str) -> str:
    return f'<path class="mark" transform="translate({x} {y})" d="{_OUTLINES[i % len(_OUTLINES)]}"/>'


def _line(kind: str, x1: object, y1: object, x2: object, y2: object) -> str:
    return f'<path class="{kind}" d="M{x1} {y1}L{x2} {y2}"/>'


def _svg(parts: Sequence[str], width: int = WIDTH, height: float = HEIGHT) -> str:
    return f'<svg class="plot" viewBox="0 0 {width} {height:.0f}">{"".join(parts)}</svg>'


def colour_of(series: Series, colours: Mapping[str, str] | None) -> str:
    return colours[series[0]] if colours else ROLE_COLOURS[series[1]]


def _legend(series: tuple[Series, ...], colours: Mapping[str, str] | None) -> str:
    """HTML below the chart, which wraps on a phone; nothing for one series."""
    return "" if len(series) < 2 else _keys(series, tuple(colour_of(s, colours) for s in series), colours is None)


@lru_cache(maxsize=512)
def _keys(series: tuple[Series, ...], colours: tuple[str, ...], with_roles: bool) -> str:
    rows = []
    for i, ((name, role), colour) in enumerate(zip(series, colours, strict=True)):
        drawn = f'<path class="line"{_dash(i)} d="M0 6h22"/>{_mark(i, "11", "6")}'
        rows.append(f'<li><svg class="plot" viewBox="0 0 22 12" style="color:{colour}">'
                    f"{drawn}</svg> {html(name)}{f' ({role})' if with_roles else ''}</li>")  # fmt: skip
    return f'<ul class="legend">{"".join(rows)}</ul>'
