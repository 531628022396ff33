"""Weighted sums: syntax, canonical form, errors, values."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.core.contract import Reward
from bench.core.errors import ContractError, UserError
from rewards import expression
from rewards.compressibility import Compressibility
from rewards.expression import Expression, WeightedSum, canonical, families, load_reward, parse, terms
from rewards.symmetry import Symmetry


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("symmetry", "symmetry"),
        ("symmetry+0.5*tiny-clip", "symmetry + 0.5*tiny-clip"),
        (" 0.5 * tiny-clip + symmetry ", "symmetry + 0.5*tiny-clip"),
        ("tiny-clip*0.5 + symmetry", "symmetry + 0.5*tiny-clip"),
        ("symmetry - tiny-clip", "symmetry - tiny-clip"),
        ("-symmetry +2*tiny-clip", "-symmetry + 2*tiny-clip"),
        ("symmetry -2e-3*tiny-pick", "symmetry - 0.002*tiny-pick"),
        ("symmetry + symmetry", "2*symmetry"),
        ("+1.0*symmetry", "symmetry"),
        ("compressibility(quality=5)", "compressibility(quality=5)"),
        ("2*compressibility ( quality = 5 ) - symmetry", "2*compressibility(quality=5) - symmetry"),
        ("compressibility(quality=5)*2 + compressibility", "compressibility + 2*compressibility(quality=5)"),
        ("symmetry(b=2 x, a=1)", "symmetry(a=1,b=2 x)"),
    ],
)
def test_one_spelling_for_one_sum(text: str, expected: str) -> None:
    assert canonical(text) == expected
    assert canonical(expected) == expected


@given(st.dictionaries(st.sampled_from(["a", "b-c", "hps-v2.1", "d_e"]),
                       st.floats(-1e9, 1e9).filter(lambda w: abs(w) > 1e-9), min_size=1))  # fmt: skip
def test_canonical_form_reads_back_exactly(weights: dict[str, float]) -> None:
    expression = Expression(tuple((w, name) for name, w in sorted(weights.items())))
    assert terms(expression.canonical) == expression


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a name or a weight, found the end"),
        ("symmetry +", "found the end"),
        ("symmetry tiny-clip", "expected [+] or -"),
        ("symmetry-0.5*tiny-clip", "expected a weight"),
        ("0.5 symmetry", "[*] and a name"),
        ("0.5", "[*] and a name"),
        ("2*3", "a name"),
        ("0*symmetry", "weight of symmetry is 0"),
        ("symmetry - symmetry", "weight of symmetry is 0"),
        ("1e999*symmetry", "weight of symmetry is inf"),
        ("(symmetry)", "a name or a weight"),
        ("symmetry()", "is no argument of symmetry"),
        ("symmetry(5)", "'5' is no argument"),
        ("symmetry(a=1,a=2)", "'a=2' is no argument"),
        ("symmetry(a=)", "'a=' is no argument"),
        ("symmetry(a=1", "expected [+] or -"),
        ("symmetri(a=1)", "did you mean 'symmetry'"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(text)


def test_an_unknown_name_gets_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean 'symmetry'"):
        parse("simmetry + tiny-clip")


def test_parsing_needs_no_torch() -> None:
    code = "import sys, rewards.expression as e; e.canonical('symmetry+tiny-clip'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_arguments_reach_the_reward_in_their_type_and_are_checked() -> None:
    reward = load_reward("compressibility(quality=5)")
    assert isinstance(reward, Compressibility)
    assert reward.quality == 5
    wrong = {"compressibility(quality=five)": "quality = 'five'", "symmetry(axis=1)": "no argument 'axis'",
             "compressibility(quality=0)": "quality = 0", "tiny-clip(folder=x)": "no argument"}  # fmt: skip
    for text, says in wrong.items():
        with pytest.raises(UserError, match=says):
            load_reward(text)


def test_a_plan_reads_the_class_of_a_reward_with_arguments() -> None:
    from rewards.expression import class_of

    assert class_of("compressibility(quality=5)") is Compressibility
    assert class_of("objectness(class=cat)").__name__ == "Objectness"


def test_a_lone_name_is_the_reward_itself() -> None:
    assert isinstance(load_reward("1*symmetry"), Symmetry)


def test_a_sum_adds_scores_with_their_direction() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    prompts = ["a", "b", "c"]
    reward = load_reward("symmetry - 2*compressibility")
    expected = -2 * -Compressibility().measure(images, prompts) - Symmetry().measure(images, prompts)
    torch.testing.assert_close(reward.score(images, prompts), expected)
    assert reward.differentiable
    (gradient,) = torch.autograd.grad(reward.score(images, prompts).sum(), images)
    assert gradient.abs().sum() > 0
    assert reward.name == "-2*compressibility + symmetry"
    assert families(reward) == {"symmetry", "compressibility"}
    assert reward.family == "compressibility + symmetry"
    assert reward.identity() != load_reward("symmetry - 3*compressibility").identity()


def test_a_black_box_makes_the_sum_one() -> None:
    class BlackBox(Reward):
        name, family, differentiable = "box", "box", False

        def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
            return torch.zeros(len(prompts))

    assert not WeightedSum("x", [(1.0, BlackBox()), (1.0, Symmetry())]).differentiable


def test_a_factory_that_returns_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expression.registry, "load", lambda group, name: lambda device: 3)
    with pytest.raises(ContractError, match="symmetry"):
        load_reward("symmetry")
