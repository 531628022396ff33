"""Charts as Vega-Lite specifications, which a page carries beside the drawing of the same figures.

A specification holds marks, encodings and data. What all charts share (fonts, colours of axes) is the configuration
that ``assets/charts.js`` passes on; the legend is the page's own. None names its schema's address: nothing in a site
points to the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from leaderboard import plot
from leaderboard.chart_data import DASHES, SHAPES, Axis, Point, Series, Shape, series_of, slots_of

Spec = dict[str, Any]
_DATA = '"<<data>>"'
_Y, _NEXT = ',"y":', '},{"x":'
_HAS_INTERVAL = [{"filter": "isValid(datum.low) && isValid(datum.high)"}]
_WIDTH, _HEIGHT = plot.WIDTH - plot.LEFT - plot.RIGHT, plot.HEIGHT - plot.TOP - plot.BOTTOM


def over_budget(
    points: Sequence[Point], x: Axis, y: Axis, *, limit: float, neutral: float | None = None,
    colours: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """The chart of ``leaderboard.plot.over_budget``."""
    series = series_of(points)
    at = {s: i for i, s in enumerate(series)}
    end = max([limit, *(p.x for p in points)]) or 1.0
    drawn = tuple(plot.colour_of(s, colours) for s in series)
    spans = any(p.low is not None and p.high is not None for p in points)
    frame = _over_budget(tuple(_label(s, colours) for s in series), drawn, x, y, end, neutral, spans)
    rows = [
        f'{{"x":{p.x:.6g},"y":{p.value:.6g},"s":{at[p.series, p.role]}}}' if p.low is None or p.high is None else
        f'{{"x":{p.x:.6g},"y":{p.value:.6g},"low":{p.low:.6g},"high":{p.high:.6g},"s":{at[p.series, p.role]}}}'
        for p in points
    ]  # fmt: skip
    return frame.replace(_DATA, f"[{','.join(rows)}]")


@lru_cache(maxsize=512)
def _over_budget(
    names: tuple[str, ...], colours: tuple[str, ...], x: Axis, y: Axis, end: float, neutral: float | None, spans: bool
) -> str:  # fmt: skip
    place = {"x": _channel("x", x, domain=[0, end], nice=False), "y": _channel("y", y, zero=False),
             **_told_apart(names, colours), "tooltip": _tooltip(names, x, y, spans=spans)}  # fmt: skip
    span = {**place, "y": {**place["y"], "field": "low"}, "y2": {"field": "high"}}
    layers: list[Spec] = [
        {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": _without(place, "shape", "tooltip")},
        {"mark": {"type": "rule", "opacity": 0.55}, "transform": _HAS_INTERVAL,
         "encoding": _without(span, "shape", "strokeDash", "tooltip")},
        {"mark": {"type": "point", "filled": True, "size": 36, "opacity": 1},
         "encoding": _without(place, "strokeDash")},
    ]  # fmt: skip
    if not spans:
        del layers[1]
    if neutral is not None:
        layers.insert(0, _neutral_line("y", neutral))
    return _json({"width": _WIDTH, "height": _HEIGHT, "layer": layers, **_data(names)})


def curve(told: Sequence[str], x: Axis, y: Axis) -> str:
    """The chart of ``leaderboard.plot.curve``; ``told`` is its line (``chart_data.polyline``)."""
    rows = [f'{{"x":{part.replace(" ", _Y).replace("L", _NEXT)}}}' for part in told]
    gap = f',{{"x":{told[0].partition(" ")[0]},"y":null}},' if told else ""
    return _curve(x, y).replace(_DATA, f"[{gap.join(rows)}]")


@lru_cache(maxsize=512)
def _curve(x: Axis, y: Axis) -> str:
    tooltip = [{"field": name, "type": "quantitative", "title": axis.title, "format": axis.format or ".4~g"}
               for name, axis in (("x", x), ("y", y))]  # fmt: skip
    encoding = {"x": _channel("x", x, zero=False, nice=False), "y": _channel("y", y._replace(title=""), zero=False)}
    return _json({
        "width": _WIDTH, "height": _HEIGHT, "data": {"values": "<<data>>"}, "encoding": encoding,
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5, "color": "currentColor"}},
            {"mark": {"type": "point", "opacity": 0, "size": 60, "filled": True}, "encoding": {"tooltip": tooltip}},
        ],
    })  # fmt: skip


def forest(points: Sequence[Point], rows: Sequence[str], x: Axis, *, neutral: float) -> str:
    """The chart of ``leaderboard.plot.forest``."""
    series = series_of(points)
    names, slots = tuple(_label(s, None) for s in series), slots_of(points)
    spans = any(p.low is not None and p.high is not None for p in points)
    # Rows are numbers with labels by lookup, so that two tuners of one name keep two lines.
    labels = " ".join(f"datum.value === {i} ? {json.dumps(name)} :" for i, name in enumerate(rows)) + " ''"
    axis = {"labelExpr": labels, "ticks": False, "domain": False, "grid": False, "labelLimit": plot.FOREST_LEFT - 14,
            "minExtent": plot.FOREST_LEFT - 6, "maxExtent": plot.FOREST_LEFT - 6}  # fmt: skip
    place: Spec = {
        "y": {"field": "row", "type": "ordinal", "title": None, "axis": axis,
              "scale": {"domain": list(range(len(rows))), "paddingInner": 0.35}},
        "yOffset": {"field": "slot", "type": "nominal", "scale": {"domain": list(range(len(slots)))}},
        "x": _channel("x", x, zero=False), **_told_apart(names, tuple(plot.colour_of(s, None) for s in series)),
        "tooltip": [{"field": "name", "title": "row"}, *_tooltip(names, None, x, "x", spans=spans)],
    }  # fmt: skip
    span = {**place, "x": {**place["x"], "field": "low"}, "x2": {"field": "high"}}
    layers = [
        _neutral_line("x", neutral),
        {"mark": {"type": "rule", "strokeWidth": 1.5}, "transform": _HAS_INTERVAL,
         "encoding": _without(span, "shape", "strokeDash")},
        {"mark": {"type": "point", "filled": True, "size": 40, "opacity": 1},
         "encoding": _without(place, "strokeDash")},
    ]  # fmt: skip
    if not spans:
        del layers[1]
    step = 12 * len(slots) + 12
    values = [{"row": int(p.x), "name": rows[int(p.x)], "x": p.value, "low": p.low, "high": p.high,
               "slot": slots.index(p.series), "s": series.index((p.series, p.role))} for p in points]  # fmt: skip
    width = plot.FOREST_WIDTH - plot.FOREST_LEFT - plot.RIGHT
    whole = {"width": width, "height": step * len(rows), "layer": layers, **_data(names)}
    return _json(whole).replace(_DATA, _json(values))


def radar(spokes: Sequence[str], shapes: Sequence[Shape], least: float, most: float, middle: float | None) -> str:
    """The chart of ``leaderboard.plot.radar``: Vega-Lite knows no polar axes, so corners come as x and y."""
    n = len(spokes)

    def lines(name: str, values: Sequence[float]) -> list[Spec]:
        found = plot.corners(values, least, most)
        return [{"i": i, "x": round(x, 1), "y": round(-y, 1), "s": name, "axis": spokes[i % n], "value": values[i % n]}
                for i, (x, y) in enumerate(found)]  # fmt: skip

    webs = [p for at in (most, middle) if at is not None for p in lines(f"{at}", [at] * n)]
    drawn = [point for name, values in shapes for point in lines(name, values)]
    outside = lines("", [least + 1.16 * (most - least)] * n)
    labels = [{**point, "text": name} for point, name in zip(outside, spokes, strict=True)]
    names = [name for name, _ in shapes]
    colours = [f"var(--{name})" for name in ("held-out", "trained-on", "related", "good", "bad", "muted")]
    field = {"type": "quantitative", "axis": None}
    place = {"x": {"field": "x", **field, "scale": {"domain": [-160, 160]}},
             "y": {"field": "y", **field, "scale": {"domain": [-130, 130]}}}  # fmt: skip
    colour = {"field": "s", "type": "nominal", "legend": None,
              "scale": {"domain": names, "range": colours[: len(names)]}}  # fmt: skip
    line = {"type": "line", "interpolate": "linear-closed"}
    order = {"field": "i", "type": "quantitative"}
    tooltip = [{"field": "s", "title": "tuner"}, {"field": "axis", "title": "dimension"},
               {"field": "value", "type": "quantitative", "format": ".4~g"}]  # fmt: skip
    return _json({
        "width": 320, "height": 260, "encoding": place,
        "layer": [
            {"data": {"values": webs}, "mark": {**line, "color": "var(--line)", "strokeWidth": 1},
             "encoding": {"detail": {"field": "s"}, "order": order}},
            {"data": {"values": labels}, "mark": {"type": "text", "fontSize": 11, "color": "var(--muted)"},
             "encoding": {"text": {"field": "text"}}},
            {"data": {"values": drawn}, "mark": {**line, "strokeWidth": 1.6},
             "encoding": {"color": colour, "order": order}},
            {"data": {"values": drawn}, "mark": {"type": "point", "filled": True, "size": 30, "opacity": 1},
             "encoding": {"color": colour, "tooltip": tooltip}},
        ],
    })  # fmt: skip


def _channel(field: str, axis: Axis, **scale: Any) -> Spec:
    shown = {"tickCount": 5, **({"format": axis.format} if axis.format else {})}
    return {"field": field, "type": "quantitative", "title": axis.title or None, "axis": shown, "scale": scale}


def _told_apart(names: Sequence[str], colours: Sequence[str]) -> Spec:
    """Colour, shape and dash by series, as the drawing has them; the legend is the page's own."""
    dashes = [[float(n) for n in dash.split()] or [1, 0] for dash in DASHES]

    def channel(values: Sequence[Any]) -> Spec:
        chosen = [values[i % len(values)] for i in range(len(names))]
        return {"field": "series", "type": "nominal", "legend": None, "scale": {"domain": list(names), "range": chosen}}

    return {"color": channel(colours), "shape": channel(SHAPES), "strokeDash": channel(dashes)}


def _tooltip(names: Sequence[str], x: Axis | None, y: Axis, field: str = "y", *, spans: bool) -> list[Spec]:
    form = ".1%" if y.format == ".0%" else ".4~g"
    shown: list[Spec] = [{"field": "series", "title": "series"}] if len(names) > 1 else []
    if x is not None:
        shown.append({"field": "x", "type": "quantitative", "title": x.title, "format": x.format or ".4~g"})
    shown.append({"field": field, "type": "quantitative", "title": y.title or "value", "format": form})
    ends = (("low", "from"), ("high", "to")) if spans else ()
    return [*shown, *({"field": end, "type": "quantitative", "title": f"95 % {word}", "format": form}
                      for end, word in ends)]  # fmt: skip


def _data(names: Sequence[str]) -> Spec:
    """Rows hold a series' number; its name stands once."""
    return {"data": {"values": "<<data>>"},
            "transform": [{"calculate": f"{json.dumps(list(names))}[datum.s]", "as": "series"}]}  # fmt: skip


def _neutral_line(channel: str, at: float) -> Spec:
    mark = {"type": "rule", "color": "var(--muted)", "strokeDash": [3, 3]}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {channel: {"datum": at}}}


def _without(encoding: Spec, *channels: str) -> Spec:
    return {name: value for name, value in encoding.items() if name not in channels}


def _label(series: Series, colours: Mapping[str, str] | None) -> str:
    return series[0] if colours else f"{series[0]} ({series[1]})"


def _json(spec: Any) -> str:
    return json.dumps(spec, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
