"""Charts as static SVG from Vega-Lite specs: no script in the page, one look in light and dark.

Colours are the page's CSS variables, so that a chart follows its page; the SVG goes inline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

ROLE_COLOURS = {"held-out": "var(--held-out)", "related": "var(--related)", "trained-on": "var(--trained-on)"}
_INK, _MUTED, _LINE = "currentColor", "var(--muted)", "var(--line)"
_WIDTH, _HEIGHT = 290, 170
"""Small, so that text stays readable when a phone shows the figure at full width."""
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3])


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


def over_budget(points: Sequence[Point], x: Axis, y: Axis, *, limit: float, neutral: float | None = None) -> str:
    """Figures with intervals against what was spent; ``neutral`` draws the line of no change."""
    names = sorted({(p.series, p.role) for p in points}, key=lambda s: (list(ROLE_COLOURS).index(s[1]), s[0]))
    domain = [f"{name} ({role})" for name, role in names]
    rows = [{"x": p.x, "y": p.value, "low": p.low, "high": p.high, "series": f"{p.series} ({p.role})"} for p in points]
    legend = alt.Legend(orient="bottom", direction="vertical", title=None, labelLimit=_WIDTH)

    def scale(values: Sequence[Any]) -> Any:
        return alt.Scale(domain=domain, range=[values[i % len(values)] for i in range(len(names))])

    position = {
        "x": alt.X("x:Q", title=x.title, axis=_axis(x), scale=alt.Scale(domain=[0, max([limit, *(p.x for p in points)])],
                                                                      nice=False)),
        "y": alt.Y("y:Q", title=y.title, axis=_axis(y), scale=alt.Scale(zero=False, nice=True)),
    }  # fmt: skip
    colour = alt.Color("series:N", scale=scale([ROLE_COLOURS[role] for _, role in names]), legend=legend)
    base = alt.Chart(alt.Data(values=rows))
    layers = [
        base.mark_line(strokeWidth=1.5).encode(
            **position, color=colour, strokeDash=alt.StrokeDash("series:N", scale=scale(_DASHES), legend=legend)
        ),
        base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_rule(opacity=0.55).encode(
            x="x:Q", y=alt.Y("low:Q", title=y.title), y2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=36, opacity=1).encode(
            **position, color=colour, shape=alt.Shape("series:N", scale=scale(_SHAPES), legend=legend)
        ),
    ]
    if neutral is not None:
        layers.insert(0, alt.Chart(alt.Data(values=[{"y": neutral}])).mark_rule(color=_MUTED, strokeDash=[3, 3])
                      .encode(y="y:Q"))  # fmt: skip
    return _svg(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT))


def curve(xs: Sequence[float], ys: Sequence[float | None], x: Axis, y: Axis) -> str:
    """One scalar of tuning; a gap where it has no value."""
    rows = [{"x": a, "y": b} for a, b in zip(xs, ys, strict=True)]
    chart = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=1.2, color=_INK).encode(
        x=alt.X("x:Q", title=x.title, axis=_axis(x), scale=alt.Scale(nice=False)),
        y=alt.Y("y:Q", title=y.title, axis=_axis(y), scale=alt.Scale(zero=False)),
    )  # fmt: skip
    return _svg(chart.properties(width=_WIDTH, height=110))


def forest(points: Sequence[Point], rows: Sequence[str], x: Axis, *, neutral: float) -> str:
    """One line a tuner (``Point.x`` is its place in ``rows``): figures with intervals, against the line of no change."""
    names = sorted({(p.series, p.role) for p in points}, key=lambda s: (list(ROLE_COLOURS).index(s[1]), s[0]))
    domain = [f"{name} ({role})" for name, role in names]
    data = [{"row": int(p.x), "x": p.value, "low": p.low, "high": p.high, "series": f"{p.series} ({p.role})"}
            for p in points]  # fmt: skip
    legend = alt.Legend(orient="bottom", direction="vertical", title=None, labelLimit=_WIDTH)
    colour = alt.Color("series:N", legend=legend, scale=alt.Scale(
        domain=domain, range=[ROLE_COLOURS[role] for _, role in names]))  # fmt: skip
    shape = alt.Shape("series:N", legend=legend, scale=alt.Scale(
        domain=domain, range=[_SHAPES[i % len(_SHAPES)] for i in range(len(names))]))  # fmt: skip
    # Rows are numbers with labels by lookup, so that two tuners of one name keep two lines.
    lookup = " ".join(f"datum.value === {i} ? {_js(name)} :" for i, name in enumerate(rows)) + " ''"
    y = alt.Y("row:O", title=None, axis=alt.Axis(labelExpr=lookup, ticks=False, domain=False, labelLimit=130, grid=True,
                                                 labelFontSize=11), scale=alt.Scale(domain=list(range(len(rows)))))  # fmt: skip
    offset = alt.YOffset("series:N", scale=alt.Scale(domain=domain))
    base = alt.Chart(alt.Data(values=data))
    chart = alt.layer(
        alt.Chart(alt.Data(values=[{"x": neutral}])).mark_rule(color=_MUTED, strokeDash=[3, 3]).encode(x="x:Q"),
        base.transform_filter("isValid(datum.low) && isValid(datum.high)").mark_rule(strokeWidth=1.5).encode(
            y=y, yOffset=offset, x=alt.X("low:Q", title=x.title), x2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=40, opacity=1).encode(
            y=y, yOffset=offset, color=colour, shape=shape,
            x=alt.X("x:Q", title=x.title, axis=_axis(x), scale=alt.Scale(zero=False)),
        ),
    )  # fmt: skip
    return _svg(chart.properties(width=_WIDTH + 60, height=alt.Step(max(18, 14 * len(names)))))


def _axis(axis: Axis) -> Any:
    return alt.Axis(format=axis.format, tickCount=5) if axis.format else alt.Axis(tickCount=5)


def _js(text: str) -> str:
    """A string of Vega's expression language."""
    import json

    return json.dumps(text)


def _svg(chart: Any) -> str:
    """The chart's SVG for use inside an HTML page: no namespace addresses, scales with its column."""
    themed = chart.configure(background="transparent", padding=2, font="Liberation Sans, Arial, sans-serif").configure_axis(
        labelColor=_MUTED, titleColor=_INK, gridColor=_LINE, domainColor=_LINE, tickColor=_LINE, titleFontWeight="normal",
        labelFontSize=10.5, titleFontSize=11, gridOpacity=0.7,
    ).configure_view(stroke=None).configure_legend(labelColor=_INK, labelFontSize=11, symbolSize=60, rowPadding=2)  # fmt: skip
    svg: str = vl_convert.vegalite_to_svg(themed.to_dict(), vl_version=".".join(alt.SCHEMA_VERSION.split(".")[:2]))
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2)
    # The figure around it is labelled once; a reader gains nothing from a label on every mark.
    return re.sub(r' (aria-[a-z]+|role)="[^"]*"', "", svg)
