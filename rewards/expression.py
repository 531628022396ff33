"""Weighted sums of rewards as the command line writes them: ``symmetry + 0.5*tiny-clip``.

Grammar: terms joined by ``+`` or ``-``; a term is ``name``, ``weight*name`` or ``name*weight``. Names may hold hyphens,
so a minus sign needs a space before it (at the start it does not). A name may have arguments, as in
``objectness(class=cat)``: then both together name the reward. Importing this module, ``terms``, ``parse`` and
``canonical`` need no torch: a plan uses them.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.core import registry
from bench.core.contract import Reward
from bench.core.errors import ContractError, UserError

if TYPE_CHECKING:
    import torch

Term = tuple[float, str]
"""Weight and name of a reward, its arguments included."""

_FORM = "names joined by + or - (a space before the minus), each with a weight if wanted: 'symmetry + 0.5*tiny-clip'"
_NAME = re.compile(r"[A-Za-z][\w.]*(?:[-/][\w.]+)*")
_ARGUMENTS = re.compile(r"\s*\(([^()]*)\)")
_ARGUMENT = re.compile(r"\s*([a-z_]\w*)\s*=\s*([^=,()]*[^=,()\s])\s*")
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
        registry.find("rewards", registered(name))
    return expression.terms


def registered(name: str) -> str:
    """The name that is registered: a reward's without its arguments.

    >>> registered("objectness(class=cat)")
    'objectness'
    """
    return name.partition("(")[0]


def class_of(name: str) -> type[Reward]:
    """The class of a registered reward, or what its function says it returns: no weights are loaded."""
    made = registry.load("rewards", registered(name))
    made = made if isinstance(made, type) else typing.get_type_hints(made).get("return")
    return made if isinstance(made, type) and issubclass(made, Reward) else Reward


def check_arguments(name: str) -> None:
    """Raises UserError for an argument that the reward does not have, or that is no number where it takes one."""
    _arguments(name, registry.load("rewards", registered(name)))


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

    def n_truncated(self, prompts: Iterable[str]) -> int:
        """Of the part that reads least."""
        asked = set(prompts)
        return max(part.n_truncated(asked) for _, part in self.parts)

    def identity(self) -> dict[str, object]:
        return {"name": self.name, "parts": [part.identity() for _, part in self.parts]}


def _load(name: str, device: str) -> Reward:
    factory = registry.load("rewards", registered(name))
    reward = factory(device=device, **_arguments(name, factory))
    if not isinstance(reward, Reward):
        raise ContractError(f"reward {name!r}", "factory", expected="a bench.core.contract.Reward",
                            got=type(reward).__name__)  # fmt: skip
    return reward


def _arguments(name: str, factory: Any) -> dict[str, Any]:
    """The arguments of a name for its factory, in the types of its parameters; ``class`` is ``class_`` there."""
    given = [pair.partition("=")[::2] for pair in name.partition("(")[2].removesuffix(")").split(",") if pair]
    known = {k.removesuffix("_"): p for k, p in inspect.signature(factory).parameters.items() if k != "device"}
    found: dict[str, Any] = {}
    for key, value in given:
        if key not in known:
            raise UserError(f"reward {name!r}: {registered(name)} has no argument {key!r}",
                            valid=", ".join(known) or "no arguments")  # fmt: skip
        parameter = known[key]
        kind = {"int": int, "float": float}.get(str(parameter.annotation), str)
        try:
            found[parameter.name] = kind(value)
        except ValueError:
            raise UserError(f"reward {name!r}: {key} = {value!r}",
                            valid=f"{'a whole number' if kind is int else 'a number'}, by default "
                                  f"{parameter.default}") from None  # fmt: skip
    return found


def _name(text: str, at: int, expected: str) -> tuple[str, int]:
    """A name with its arguments in one spelling, and where it ends."""
    name = _NAME.match(text, at)
    if not name:
        raise _error(text, at, expected)
    arguments = _ARGUMENTS.match(text, name.end())
    if not arguments:
        return name[0], name.end()
    pairs: dict[str, str] = {}
    for part in arguments[1].split(","):
        pair = _ARGUMENT.fullmatch(part)
        if not pair or pair[1] in pairs:
            raise UserError(f"reward {text!r}: {part.strip()!r} is no argument of {name[0]}",
                            valid="name(key=value), several with commas, each key once")  # fmt: skip
        pairs[pair[1]] = pair[2]
    return f"{name[0]}({','.join(f'{key}={pairs[key]}' for key in sorted(pairs))})", arguments.end()


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
        name, end = _name(text, _skip(text, at + 1), "a name")
        return float(number[0]), name, end
    name, end = _name(text, at, "a name or a weight")
    at = _skip(text, end)
    if text[at : at + 1] != "*":
        return 1.0, name, end
    at = _skip(text, at + 1)
    number = _NUMBER.match(text, at)
    if not number:
        raise _error(text, at, f"a weight after {name!r} and *")
    return float(number[0]), name, number.end()


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _error(text: str, at: int, expected: str) -> UserError:
    found = f"{text[at:]!r}" if text[at:].strip() else "the end"
    return UserError(f"reward {text!r}: expected {expected}, found {found}", valid=_FORM, hint="bench list rewards")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
