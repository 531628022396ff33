"""Charts of a page: a Vega-Lite specification, and the drawing that stands in its place where no script runs.

Both are made of one list of figures. With scripts, ``assets/charts.js`` draws the specification when the chart comes
into view, with tooltips; pages say the same without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from leaderboard import plot, specs
from leaderboard.chart_data import Axis, Point, Shape, polyline, thinned

__all__ = ["Axis", "Point", "curve", "forest", "over_budget", "radar"]


def over_budget(
    points: Sequence[Point], x: Axis, y: Axis, *, limit: float, neutral: float | None = None,
    colours: Mapping[str, str] | None = None,
) -> Markup:  # fmt: skip
    """Figures with intervals against what was spent; ``neutral`` draws the line of no change.

    Args:
        limit: where the axis ends, unless more was spent.
        colours: by series; colours tell roles apart otherwise.
    """
    return _both(
        plot.over_budget(points, x, y, limit=limit, neutral=neutral, colours=colours),
        specs.over_budget(points, x, y, limit=limit, neutral=neutral, colours=colours),
    )


def curve(xs: Sequence[float], ys: Sequence[float | None], x: Axis, y: Axis) -> Markup:
    """One scalar of tuning; a gap where it has no value. At least two values; long ones are ``thinned``."""
    xs, ys = thinned(xs, ys)
    told = polyline(xs, ys)
    return _both(plot.curve(xs, ys, x, y, told), specs.curve(told, x, y))


def forest(points: Sequence[Point], rows: Sequence[str], x: Axis, *, neutral: float) -> Markup:
    """One line a tuner: figures with intervals against the line of no change. ``Point.x`` is the place in ``rows``."""
    return _both(plot.forest(points, rows, x, neutral=neutral), specs.forest(points, rows, x, neutral=neutral))


def radar(
    spokes: Sequence[str], shapes: Sequence[Shape], *, least: float, most: float, middle: float | None = None
) -> Markup:
    """Values between ``least`` and ``most`` in several dimensions, a shape a name; ``middle`` is a web of its own."""
    return _both(plot.radar(spokes, shapes, least, most, middle), specs.radar(spokes, shapes, least, most, middle))


def _both(drawn: str, spec: str) -> Markup:
    # "<" is written as JSON's escape, so that no text in it ends the element or begins another.
    return Markup(f'{drawn}<script type="application/json">{spec.replace("<", chr(92) + "u003c")}</script>')
