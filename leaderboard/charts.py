"""Charts as static SVG from Vega-Lite specs: no script in the page, one look in light and dark.

Colours are the page's CSS variables, so that a chart follows its page; the SVG goes inline. The specs are plain data:
building them through altair's objects costs more than drawing them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert

ROLE_COLOURS = {"held-out": "var(--held-out)", "related": "var(--related)", "trained-on": "var(--trained-on)"}
_INK, _MUTED, _LINE = "currentColor", "var(--muted)", "var(--line)"
_WIDTH, _HEIGHT = 290, 170
"""Small, so that text stays readable when a phone shows the figure at full width."""
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3])
_HAS_INTERVAL = [{"filter": "isValid(datum.low) && isValid(datum.high)"}]
_VEGA_LITE = "5.20"
"""Fixed, so that an update of the converter does not redraw every chart."""
_CONFIG = {
    "background": "transparent", "padding": 2, "font": "Liberation Sans, Arial, sans-serif", "view": {"stroke": None},
    "axis": {"labelColor": _MUTED, "titleColor": _INK, "gridColor": _LINE, "domainColor": _LINE, "tickColor": _LINE,
             "labelFontSize": 10.5, "titleFontSize": 11, "titleFontWeight": "normal"},
    "legend": {"labelColor": _INK, "labelFontSize": 11, "symbolSize": 60, "rowPadding": 2},
}  # fmt: skip

Spec = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One figure with its interval."""

    x: float
    value: float
    low: float | None
    high: float | None
    series: str
    role: str


@dataclass(frozen=True)
class Axis:
    title: str
    format: str = ""
    """A d3 number format; empty leaves it to Vega."""

    def channel(self, field: str, **scale: Any) -> Spec:
        axis = {"tickCount": 5, **({"format": self.format} if self.format else {})}
        return {"field": field, "type": "quantitative", "title": self.title, "axis": axis, "scale": scale}


class _Series:
    """Colour by role, shape and dash by name, so that no two differ by colour alone."""

    def __init__(self, points: Sequence[Point]) -> None:
        roles = list(ROLE_COLOURS)
        names = sorted({(p.series, p.role) for p in points}, key=lambda s: (roles.index(s[1]), s[0]))
        self.domain = [self.label(*name) for name in names]
        self._colours = [ROLE_COLOURS[role] for _, role in names]

    @staticmethod
    def label(name: str, role: str) -> str:
        return f"{name} ({role})"

    def colour(self) -> Spec:
        return self._channel(self._colours)

    def shape(self) -> Spec:
        return self._channel(_SHAPES)

    def dash(self) -> Spec:
        return self._channel(_DASHES)

    def _channel(self, values: Sequence[Any]) -> Spec:
        chosen = [values[i % len(values)] for i in range(len(self.domain))]
        legend = {"orient": "bottom", "direction": "vertical", "title": None, "labelLimit": _WIDTH, "symbolOpacity": 1,
                  "symbolStrokeWidth": 0}  # fmt: skip
        return {"field": "series", "type": "nominal", "scale": {"domain": self.domain, "range": chosen},
                "legend": legend if len(self.domain) > 1 else None}  # fmt: skip


def over_budget(points: Sequence[Point], x: Axis, y: Axis, *, limit: float, neutral: float | None = None) -> str:
    """Figures with intervals against what was spent; ``neutral`` draws the line of no change."""
    series = _Series(points)
    place = {
        "x": x.channel("x", domain=[0, max([limit, *(p.x for p in points)])], nice=False),
        "y": y.channel("y", zero=False), "color": series.colour(),
    }  # fmt: skip
    span = {"x": place["x"], "y": {**place["y"], "field": "low"}, "y2": {"field": "high"}, "color": series.colour()}
    layers = [
        {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {**place, "strokeDash": series.dash()}},
        {"mark": {"type": "rule", "opacity": 0.55}, "transform": _HAS_INTERVAL, "encoding": span},
        {"mark": {"type": "point", "filled": True, "size": 36, "opacity": 1},
         "encoding": {**place, "shape": series.shape()}},
    ]  # fmt: skip
    if neutral is not None:
        layers.insert(0, _neutral_line("y", neutral))
    rows = [_row(p, x=p.x, y=p.value) for p in points]
    return _svg({"layer": layers, "width": _WIDTH, "height": _HEIGHT}, rows)


def curve(xs: Sequence[float], ys: Sequence[float | None], x: Axis, y: Axis) -> str:
    """One scalar of tuning; a gap where it has no value."""
    mark = {"type": "line", "strokeWidth": 1.2, "color": _INK}
    encoding = {"x": x.channel("x", nice=False), "y": y.channel("y", zero=False)}
    rows = [{"x": a, "y": b} for a, b in zip(xs, ys, strict=True)]
    return _svg({"mark": mark, "encoding": encoding, "width": _WIDTH, "height": 110}, rows)


def forest(points: Sequence[Point], rows: Sequence[str], x: Axis, *, neutral: float) -> str:
    """One line a tuner: figures with intervals against the line of no change. ``Point.x`` is the place in ``rows``."""
    series = _Series(points)
    # Rows are numbers with labels by lookup, so that two tuners of one name keep two lines.
    lookup = " ".join(f"datum.value === {i} ? {json.dumps(name)} :" for i, name in enumerate(rows)) + " ''"
    axis = {"labelExpr": lookup, "ticks": False, "domain": False, "labelLimit": 130, "grid": False}
    place: Spec = {
        "y": {"field": "row", "type": "ordinal", "title": None, "axis": axis,
              "scale": {"domain": list(range(len(rows))), "paddingInner": 0.35}},
        "yOffset": {"field": "series", "type": "nominal", "scale": {"domain": series.domain}},
        "x": x.channel("x", zero=False), "color": series.colour(),
    }  # fmt: skip
    span = {**place, "x": {**place["x"], "field": "low"}, "x2": {"field": "high"}}
    layers = [
        _neutral_line("x", neutral),
        {"mark": {"type": "rule", "strokeWidth": 1.5}, "transform": _HAS_INTERVAL, "encoding": span},
        {"mark": {"type": "point", "filled": True, "size": 40, "opacity": 1},
         "encoding": {**place, "shape": series.shape()}},
    ]  # fmt: skip
    height = {"step": 12 * len(series.domain) + 14, "for": "position"}
    data = [_row(p, row=int(p.x), x=p.value) for p in points]
    return _svg({"layer": layers, "width": _WIDTH + 60, "height": height}, data)


def _row(point: Point, **position: float) -> Spec:
    return {**position, "low": point.low, "high": point.high, "series": _Series.label(point.series, point.role)}


def _neutral_line(channel: str, at: float) -> Spec:
    mark = {"type": "rule", "color": _MUTED, "strokeDash": [3, 3]}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {channel: {"datum": at}}}


def _svg(spec: Spec, rows: Sequence[Mapping[str, Any]]) -> str:
    """The chart's SVG for use inside an HTML page: no namespace addresses, scales with its column."""
    whole = {**spec, "data": {"values": list(rows)}, "config": _CONFIG}
    svg: str = vl_convert.vegalite_to_svg(whole, vl_version=_VEGA_LITE)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2)
    # The figure around it is labelled once; a reader gains nothing from a label on every mark.
    return re.sub(r' (aria-[a-z]+|role)="[^"]*"', "", svg)
