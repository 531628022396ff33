"""The user's shares of the budget."""

import pytest

from bench.core.errors import UserError
from bench.engine.choosing import parse_fractions


def test_shares_rise_from_the_base_to_the_whole_budget():
    assert parse_fractions(None, (0, 1)) == (0, 1)
    assert parse_fractions("0,0.5,1", (0, 1)) == (0, 0.5, 1)


@pytest.mark.parametrize("text", ["", "0.5,1", "0,0.5", "0,1,0.5", "0,1,1", "0,a,1", "0,nan,1"])
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match="--fractions"):
        parse_fractions(text, (0, 1))
