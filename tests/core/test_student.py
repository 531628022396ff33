from __future__ import annotations

import pytest
from scipy import stats

from bench.core.student import t_cdf, t_quantile, two_sided_p

DFS = [0.7, 1, 1.4, 2, 3.3, 7, 30, 511.5, 1e5]


@pytest.mark.parametrize("df", DFS)
def test_distribution_and_quantile_are_scipys(df: float) -> None:
    for t in (-50.0, -2.0, -0.1, 0.0, 0.3, 4.0, 1e4):
        assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), rel=1e-9, abs=1e-15)
        assert two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-9, abs=1e-15)
    for share in (0.0005, 0.025, 0.5, 0.9, 0.975, 0.9999):
        assert t_quantile(share, df) == pytest.approx(stats.t.ppf(share, df), rel=1e-8, abs=1e-9)


def test_limits() -> None:
    assert (t_cdf(float("inf"), 2), t_cdf(float("-inf"), 2)) == (1.0, 0.0)
    with pytest.raises(ValueError, match="degrees of freedom"):
        t_cdf(1.0, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        t_quantile(1.0, 3)
