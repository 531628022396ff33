"""Charts: the drawing and the specification say the same figures; the library beside the site reaches nowhere."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from bench.core.record import Curve
from leaderboard import charts, run_charts, vega
from leaderboard.budget_curves import CurvePoint, Hacking, Span
from leaderboard.chart_data import MOST_POINTS, thinned
from leaderboard.charts import Axis, Point
from leaderboard.read import read_runs
from tests.leaderboard.factories import Fake

POINTS = [
    Point(0.0, 0.5, None, None, "pick", "held-out"), Point(6000.0, 0.62, 0.55, 0.69, "pick", "held-out"),
    Point(12000.0, 0.7, 0.6, 0.8, "</script><b>", "trained-on"),
]  # fmt: skip


def _spec(chart: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', chart, re.DOTALL)
    spec: dict[str, Any] = json.loads(found)
    return spec


def test_both_forms_hold_every_figure() -> None:
    chart = charts.over_budget(POINTS, Axis("spent", "~s"), Axis("win rate", ".0%"), limit=12000.0, neutral=0.5)
    spec = _spec(chart)
    assert [(row["x"], row["y"], row.get("low")) for row in spec["data"]["values"]] == [
        (0, 0.5, None), (6000, 0.62, 0.55), (12000, 0.7, 0.6)]  # fmt: skip
    drawn = chart.split("<script")[0]
    assert "pick: 62 % at 6k" in drawn
    assert drawn.count('class="span"') == 2
    assert "$schema" not in chart
    assert "<b>" not in chart  # a name cannot end the element that holds the data


def test_a_gap_is_in_points_and_its_ticks_are_no_shares() -> None:
    """Gaps of 0, −0.4 and −0.9 points: in per cent, ticks without decimals would all say 0 or −1."""
    along = tuple(
        CurvePoint(fraction=f, trained=Span(value=0.5 - gap / 100, low=None, high=None),
                   held_out=Span(value=0.5, low=None, high=None)) for f, gap in ((0.0, 0.0), (0.5, 0.4), (1.0, 0.9))
    )  # fmt: skip
    hacked = Hacking(flag="", trained_on=("pick",), gap=None, paired=False, peak=None, curve=along)
    chart = run_charts.gap(hacked)[1]
    spec = _spec(chart["svg"])
    assert [row["y"] for row in spec["data"]["values"]] == pytest.approx([0, -0.4, -0.9])
    assert {layer["encoding"]["y"].get("axis", {}).get("format") for layer in spec["layer"]} - {None} == {".4~g"}
    assert _ticks(chart["svg"]) == ["−0.8", "−0.6", "−0.4", "−0.2", "0"]
    assert "-0.9 points" in chart["alt"]


def test_a_scalar_of_two_digits_is_no_power_of_ten(tmp_path: Path) -> None:
    """d3 writes 60 as ``6e+1`` under ``~g``, which keeps no digit before the exponent's."""
    (run,), _ = read_runs(Fake(fractions=(0.0, 1.0)).write(tmp_path).parents[2])
    curve = Curve(columns=["denoiser_u", "pool"], rows=[[0.0, 20.0], [50.0, 60.0], [100.0, 100.0]])
    (chart,) = run_charts.scalars(run, curve)
    assert _spec(chart["svg"])["encoding"]["y"]["axis"]["format"] == ".4~g"
    assert _ticks(chart["svg"]) == ["20", "40", "60", "80", "100"]


def _ticks(chart: str) -> list[str]:
    """The labels beside the vertical axis of the drawing."""
    return re.findall(r'text-anchor="end">([^<]*)</text>', chart.partition("<script")[0])


def test_a_forest_has_a_row_for_every_name() -> None:
    points = [Point(i, 0.5 + 0.1 * i, 0.4, 0.7, "judge", "held-out") for i in range(3)]
    chart = charts.forest(points, ["a", "a", "<c>"], Axis("win rate", ".0%"), neutral=0.5)
    assert [row["row"] for row in _spec(chart)["data"]["values"]] == [0, 1, 2]
    assert [row["name"] for row in _spec(chart)["data"]["values"]] == ["a", "a", "<c>"]
    assert chart.split("<script")[0].count("<title>a</title>a<") == 2


def test_a_radar_lies_where_its_values_do() -> None:
    chart = charts.radar(("up", "right", "down", "left"), [("mine", (10.0, 5.0, 0.0, 5.0))], least=0, most=10, middle=5)
    assert 'points="0.0,-100.0 50.0,0.0 0.0,0.0 -50.0,0.0"' in chart
    assert [row["value"] for row in _spec(chart)["layer"][2]["data"]["values"]] == [10, 5, 0, 5]


def test_a_thinned_curve_keeps_its_ends_spikes_and_gaps() -> None:
    xs = [float(i) for i in range(5000)]
    ys: list[float | None] = [math.sin(i / 300) for i in range(5000)]
    ys[1234], ys[4321] = 9.0, -9.0
    ys[2000:2400] = [None] * 400
    few_x, few_y = thinned(xs, ys)
    assert len(few_x) == len(few_y) <= MOST_POINTS
    assert (few_x[0], few_x[-1]) == (0.0, 4999.0)
    assert few_x == sorted(few_x)
    known = [y for y in few_y if y is not None]
    assert (max(known), min(known)) == (9.0, -9.0)
    assert None in few_y
    assert all(ys[int(x)] == y for x, y in zip(few_x, few_y, strict=True))


@pytest.mark.parametrize("n", [2, MOST_POINTS])
def test_a_short_curve_stays_as_it_is(n: int) -> None:
    xs, ys = [float(i) for i in range(n)], [float(-i) for i in range(n)]
    assert thinned(xs, ys) == (xs, ys)


def test_the_library_is_written_once_a_site_and_points_nowhere(site: Path) -> None:
    text = (site / vega.PATH).read_text("utf-8")
    assert len(text) > 500_000
    assert set(re.findall(r"[a-z]+://[^\s\"'`)]*", text)) - {"file://"} <= set(vega.NAMESPACES)
    assert len(list(site.rglob("vega*.js"))) == 1
    assert vega._bundle() == text  # the same bytes again
