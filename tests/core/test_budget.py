"""Budget and ledger: units, limits, and what an interruption costs."""

from __future__ import annotations

import math

import pytest

from bench.core.budget import KINDS, Budget, Charge, Ledger
from bench.core.errors import UserError


def test_a_forward_costs_one_u_and_a_backward_two() -> None:
    ledger = Ledger(Budget(denoiser_u=100))
    ledger.charge("denoiser_fwd", 10)
    ledger.charge("denoiser_bwd", 3)
    assert ledger.spent["denoiser_u"] == 16


def test_every_kind_is_reported_and_any_may_be_the_limit() -> None:
    for kind in KINDS:
        ledger = Ledger(Budget.from_json({kind: 5, "primary": kind}))
        assert set(ledger.to_json()["spent"]) == set(KINDS)
        ledger.charge(kind, 5)
        assert ledger.exhausted() == kind


def test_a_step_that_would_not_fit_is_named_by_its_kind() -> None:
    ledger = Ledger(Budget(denoiser_u=100, steps=50))
    ledger.charge("denoiser_fwd", 90)
    assert ledger.would_exceed(Charge({"denoiser_u": 10, "steps": 1})) is None
    assert ledger.would_exceed(Charge({"denoiser_u": 11})) == "denoiser_u"
    assert ledger.would_exceed(Charge({"steps": 51})) == "steps"


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf])
def test_no_negative_or_non_finite_charge(amount: float) -> None:
    ledger = Ledger(Budget(denoiser_u=1))
    with pytest.raises(ValueError, match="finite and not negative"):
        ledger.charge("steps", amount)
    assert ledger.spent["steps"] == 0


def test_lost_work_is_what_an_attempt_did_beyond_its_checkpoint() -> None:
    killed = Ledger(Budget(denoiser_u=100))
    killed.charge("denoiser_fwd", 40)
    checkpoint = killed.to_json()
    killed.charge("denoiser_fwd", 7)
    reached = killed.to_json()

    resumed = Ledger(Budget(denoiser_u=100))
    resumed.restore(checkpoint)
    resumed.note_lost(reached)
    assert (resumed.spent["denoiser_u"], resumed.lost["denoiser_u"]) == (40, 7)
    # killed again before the next checkpoint: the first loss is not counted twice
    resumed.charge("denoiser_fwd", 5)
    again = Ledger(Budget(denoiser_u=100))
    again.restore(checkpoint)
    again.note_lost(resumed.to_json())
    assert (again.spent["denoiser_u"], again.lost["denoiser_u"]) == (40, 12)
    assert again.remaining() == {"denoiser_u": 60}


@pytest.mark.parametrize(
    "data", [{"denoiser_u": 0}, {"denoiser_u": -5}, {"denoiser_u": math.nan}, {"steps": 5}, {"primary": "coffee"},
             {"denoiser_u": 5, "coffee": 3}],
)  # fmt: skip
def test_impossible_budgets_are_refused_with_what_is_valid(data: dict[str, float]) -> None:
    with pytest.raises(UserError) as caught:
        Budget.from_json(data)
    assert caught.value.valid


def test_json_of_a_budget_holds_only_its_limits_so_that_new_kinds_rename_no_run() -> None:
    assert Budget(denoiser_u=5, hard_wall_s=9).to_json() == {"denoiser_u": 5, "primary": "denoiser_u"}
