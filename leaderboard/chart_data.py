"""What a chart shows, before anything draws it: figures with intervals, axes, and how series are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROLE_COLOURS = {"held-out": "var(--held-out)", "related": "var(--related)", "trained-on": "var(--trained-on)"}
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ("", "6 3", "2 2", "8 3 2 3", "4 4", "1 3")
MOST_POINTS = 100
"""Values of a curve that are drawn: a screen shows no more across a chart's width."""


class Point(NamedTuple):
    """One figure with its interval."""

    x: float
    value: float
    low: float | None
    high: float | None
    series: str
    role: str


class Axis(NamedTuple):
    title: str
    format: str = ""
    """A d3 number format: ``.0%``, ``~s`` or ``.4~g``; empty for Vega's own choice. Bare ``~g`` writes 60 as 6e+1."""


Series = tuple[str, str]
"""Name and role."""
Shape = tuple[str, Sequence[float]]
"""A name in a radar and its values, one for every axis."""


def series_of(points: Sequence[Point]) -> list[Series]:
    """Held-out first, then by name: a series has the same colour, shape and dash in every chart of a page."""
    roles = list(ROLE_COLOURS)
    return sorted({(p.series, p.role) for p in points}, key=lambda s: (roles.index(s[1]), s[0]))


def slots_of(points: Sequence[Point]) -> list[str]:
    """Where a series lies within a row: its name's place. One judge has one place, whatever its role in a row."""
    return list(dict.fromkeys(name for name, _ in series_of(points)))


def thinned(xs: Sequence[float], ys: Sequence[float | None]) -> tuple[list[float], list[float | None]]:
    """A long curve by ``MOST_POINTS`` of its values at most: of equal stretches the lowest and the highest one, in
    order, so that no spike is lost; the first and the last value stay. A stretch without any value stays a gap."""
    n = len(xs)
    if n <= MOST_POINTS:
        return list(xs), list(ys)
    stretches = _stretches(n)
    values = np.array(ys, dtype=np.float64)[stretches]  # no value becomes NaN
    gaps = np.isnan(values)
    low, high = (np.where(gaps, np.inf, values), np.where(gaps, -np.inf, values)) if gaps.any() else (values, values)
    ends = np.sort(np.stack((low.argmin(axis=1), high.argmax(axis=1)), axis=1), axis=1)
    kept = [0, *dict.fromkeys(np.take_along_axis(stretches, ends, axis=1).ravel().tolist()), n - 1]
    return [xs[i] for i in kept], [ys[i] for i in kept]


@lru_cache(maxsize=64)
def _stretches(n: int) -> NDArray[np.int64]:
    """Places of all values but the first and the last, a stretch a row; short rows repeat their last place."""
    n_stretches = MOST_POINTS // 2 - 1
    edges = np.array([1 + (n - 2) * i // n_stretches for i in range(n_stretches + 1)])
    width = int(np.diff(edges).max())
    found: NDArray[np.int64] = np.minimum(edges[:-1, None] + np.arange(width), edges[1:, None] - 1)
    return found


def polyline(xs: Sequence[float], ys: Sequence[float | None]) -> list[str]:
    """The stretches between gaps in the data's own units, as SVG writes lines: ``0 0.5L30 0.75L60 1``.

    Writing numbers is most of the work of a curve, so both forms are made of these."""
    if None not in ys:
        return [_line_of(len(xs)) % tuple(chain.from_iterable(zip(xs, ys, strict=True)))]
    found = []
    for known, part in groupby(zip(xs, ys, strict=True), lambda point: point[1] is not None):
        if known:
            points = list(part)
            found.append(_line_of(len(points)) % tuple(chain.from_iterable(points)))
    return found


@lru_cache(maxsize=256)
def _line_of(n: int) -> str:
    return "L".join(["%.6g %.7g"] * n)
