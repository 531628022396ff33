"""Student's t: distribution function and quantile for any number of degrees of freedom, whole or not.

Few tuning seeds mean one to three degrees of freedom, where a normal quantile is wrong by a factor. No scipy here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_ROUNDS = 500
_TINY = 1e-300
_NORMAL = NormalDist()


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) by the regularised incomplete beta function (Abramowitz & Stegun 26.7.1)."""
    if df <= 0:
        raise ValueError(f"degrees of freedom must be positive, got {df}")
    tail = 0.5 * _beta(df / (df + t * t), df / 2, 0.5) if math.isfinite(t) else 0.0
    return 1 - tail if t > 0 else tail


def two_sided_p(t: float, df: float) -> float:
    """P(|T| >= |t|)"""
    return 2 * t_cdf(-abs(t), df)


@lru_cache(maxsize=4096)
def t_quantile(share: float, df: float) -> float:
    """The t below which ``share`` of the distribution lies: Newton's method inside a shrinking bracket.

    >>> round(t_quantile(0.975, 2), 3), round(t_quantile(0.975, 1e6), 3)
    (4.303, 1.96)
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    if share <= 0.5:
        return -t_quantile(1 - share, df) if share < 0.5 else 0.0
    z = _NORMAL.inv_cdf(share)
    # the expansion in 1/df (A&S 26.7.5) is close for all but the fewest degrees of freedom
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df * df)
    low, high = 0.0, max(1.0, 2 * t)
    while t_cdf(high, df) < share:
        low, high = high, 2 * high
    t = t if low < t < high else (low + high) / 2
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    for _ in range(_ROUNDS):
        # The upper tail, not 1 - tail: far out the distribution function is 1 to all digits.
        excess = (1 - share) - t_cdf(-t, df)
        low, high = (low, t) if excess > 0 else (t, high)
        step = excess / (scale * (1 + t * t / df) ** (-(df + 1) / 2))
        after = t - step if low < t - step < high else (low + high) / 2
        if abs(after - t) <= 1e-12 * t:
            return after
        t = after
    raise ArithmeticError(f"no quantile found for share {share}, df {df}")


def _beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta I_x(a, b) by its continued fraction (A&S 26.5.8), with Lentz's method."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, _ROUNDS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            total *= c * d
        if abs(c * d - 1) < 1e-15:
            return front * total
    raise ArithmeticError(f"the incomplete beta function of {x}, {a}, {b} did not converge")


def _away(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
