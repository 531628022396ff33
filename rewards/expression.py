"""Weighted sums of rewards as the command line writes them: ``symmetry + 0.5*tiny-clip``.

Grammar: terms joined by ``+`` or ``-``; a term is ``name``, ``weight*name`` or ``name*weight``. Names may hold hyphens,
so a minus sign needs a space before it (at the start it does not). Importing this module, ``terms``, ``parse`` and
``canonical`` need no torch: a plan uses them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core import registry
from bench.core.contract import Reward
from bench.core.errors import ContractError, UserError

if TYPE_CHECKING:
    import torch

Term = tuple[float, str]
"""Weight and name of a reward."""

_FORM = "names joined by + or - (a space before the minus), each with a weight if wanted: 'symmetry + 0.5*tiny-clip'"
_NAME = re.compile(r"[A-Za-z][\w.]*(?:[-/][\w.]+)*")
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Expression:
    """A weighted sum in canonical form: one term a name, in order of names."""

    terms: tuple[Term, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.terms)

    @property
    def canonical(self) -> str:
        """One spelling for one sum; ``terms`` reads it back to the same numbers."""
        parts = []
        for i, (weight, name) in enumerate(self.terms):
            size = abs(weight)
            sign = ("-" if i == 0 else " - ") if weight < 0 else ("" if i == 0 else " + ")
            parts.append(sign + ("" if size == 1 else f"{_number(size)}*") + name)
        return "".join(parts)


def terms(text: str) -> Expression:
    """Reads the syntax only; whether the names exist is ``parse``'s question.

    >>> terms("0.5*tiny-clip+symmetry").canonical
    'symmetry + 0.5*tiny-clip'

    Raises:
        UserError: not a weighted sum, a weight that is not finite or adds up to 0.
    """
    weights: defaultdict[str, float] = defaultdict(float)
    at = 0
    first = True
    while first or text[at:].strip():
        sign, at = _sign(text, at, first)
        weight, name, at = _term(text, at)
        weights[name] += sign * weight
        first = False
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight == 0:
            raise UserError(f"reward {text!r}: the weight of {name} is {_number(weight)}",
                            valid="finite weights other than 0")  # fmt: skip
    return Expression(tuple((weight, name) for name, weight in sorted(weights.items())))


def parse(text: str) -> tuple[Term, ...]:
    """(weight, name) of each term in canonical order; every name is registered.

    Raises:
        UserError: bad syntax, bad weight, or a name nobody has (closest names).
    """
    expression = terms(text)
    for name in expression.names:
        registry.find("rewards", name)
    return expression.terms


def canonical(text: str) -> str:
    """The one spelling of ``text`` that run ids are made of; names are checked."""
    return Expression(parse(text)).canonical


def load_reward(text: str, device: str = "cpu", *, prepare: bool = True) -> Reward:
    """The reward that ``text`` stands for: the reward itself for a lone name, else a ``WeightedSum``.

    Args:
        prepare: False leaves weights on the disk until a first score, for who asks what a reward *is*.
    """
    parts = [(weight, _load(name, device)) for weight, name in parse(text)]
    for _, part in parts if prepare else ():
        part.prepare()
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    return WeightedSum(canonical(text), parts)


def families(reward: Reward) -> frozenset[str]:
    """Families of a reward and, of a sum, of every term."""
    if isinstance(reward, WeightedSum):
        return frozenset[str]().union(*(families(part) for _, part in reward.parts))
    return frozenset({reward.family})


class WeightedSum(Reward):
    """The sum of weight times score (higher is better), gradients through every term."""

    unit = "weighted sum of scores"

    def __init__(self, name: str, parts: Sequence[tuple[float, Reward]]) -> None:
        self.name = name
        self.parts = tuple(parts)
        self.differentiable = all(part.differentiable for _, part in self.parts)
        self.family = " + ".join(sorted(families(self)))
        self.licence = ", ".join(sorted({part.licence for _, part in self.parts} - {""}))

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        total = images.new_zeros(images.shape[0])
        for weight, part in self.parts:
            total = total + weight * part.score(images, prompts)
        return total

    def identity(self) -> dict[str, object]:
        return {"name": self.name, "parts": [part.identity() for _, part in self.parts]}


def _load(name: str, device: str) -> Reward:
    reward = registry.load("rewards", name)(device=device)
    if not isinstance(reward, Reward):
        raise ContractError(f"reward {name!r}", "factory", expected="a bench.core.contract.Reward",
                            got=type(reward).__name__)  # fmt: skip
    return reward


def _sign(text: str, at: int, first: bool) -> tuple[int, int]:
    at = _skip(text, at)
    if text[at : at + 1] in ("+", "-"):
        return (-1 if text[at] == "-" else 1), at + 1
    if not first:
        raise _error(text, at, "+ or -")
    return 1, at


def _term(text: str, at: int) -> tuple[float, str, int]:
    """weight*name, name*weight or name → (weight, name, where it ends)."""
    at = _skip(text, at)
    if number := _NUMBER.match(text, at):
        at = _skip(text, number.end())
        if text[at : at + 1] != "*":
            raise _error(text, at, "* and a name after the weight")
        at = _skip(text, at + 1)
        name = _NAME.match(text, at)
        if not name:
            raise _error(text, at, "a name")
        return float(number[0]), name[0], name.end()
    name = _NAME.match(text, at)
    if not name:
        raise _error(text, at, "a name or a weight")
    end = name.end()
    at = _skip(text, end)
    if text[at : at + 1] != "*":
        return 1.0, name[0], end
    at = _skip(text, at + 1)
    number = _NUMBER.match(text, at)
    if not number:
        raise _error(text, at, f"a weight after {name[0]!r} and *")
    return float(number[0]), name[0], number.end()


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _error(text: str, at: int, expected: str) -> UserError:
    found = f"{text[at:]!r}" if text[at:].strip() else "the end"
    return UserError(f"reward {text!r}: expected {expected}, found {found}", valid=_FORM, hint="bench list rewards")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
