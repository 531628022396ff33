"""Which images a rater sees in which trial and place: counter-balanced, with checks, and told apart by no one.

A study has a few *variants*, complete lists of trials; a rater's token chooses one and shuffles it
(``bench.study.ballot``). Within a variant each pair shows each side equally often, to within one; over the variants
every prompt shows every pair both ways round.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.study.form import BASE, Kind

Role = Literal["vote", "check", "repeat"]

SCRAMBLED = "scrambled:"
"""Before a contestant's name: the scrambled copy of its image."""


@dataclass(frozen=True)
class Trial:
    """One screen."""

    id: str
    """Says nothing: a keyed digest."""
    prompt_id: str
    seed: int
    """Noise seed of the images."""
    role: Role
    shown: tuple[str, ...]
    """Contestants by place: left and right, or first to last."""


@dataclass(frozen=True)
class Item:
    """One prompt and the noise seed that its images are taken of."""

    prompt_id: str
    seed: int


def blind(secret: str, *parts: object) -> str:
    """16 hex digits that nobody can compute without the secret."""
    text = "|".join(map(str, parts))
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]


def pairs_of(kind: Kind, contestants: Sequence[str]) -> list[tuple[str, str]]:
    """Who meets whom: everybody everybody, or, in a scale study, each the reference: the base where it takes part, else
    the first."""
    if kind != "scale":
        return list(itertools.combinations(contestants, 2))
    reference = BASE if BASE in contestants else contestants[0]
    return [(reference, name) for name in contestants if name != reference]


def variants(
    kind: Kind, contestants: Sequence[str], items: Sequence[Item], secret: str, *, n_checks: int, n_repeats: int
) -> list[list[Trial]]:
    """The lists of trials, each with ``len(items)`` votes, ``n_checks`` checks and ``n_repeats`` repeated pairs.

    Args:
        contestants: run ids, and ``base``.
        secret: of the study; the design is a function of it and of nothing else that a rater knows.
    """
    rng = random.Random(f"design {secret}")
    order = list(items)
    rng.shuffle(order)
    if kind == "rank":
        plans = _ranked(contestants, order, rng, n_checks)
    else:
        plans = _paired(pairs_of(kind, contestants), contestants, order, rng, n_checks, n_repeats)
    made = []
    for v, plan in enumerate(plans):
        trials = [
            Trial(blind(secret, "trial", v, n, item.prompt_id, role, *shown), item.prompt_id, item.seed, role, shown)
            for n, (role, item, shown) in enumerate(plan)
        ]
        made.append(sorted(trials, key=lambda t: t.id))  # the list's order must not tell the sides
    return made


_Planned = tuple[Role, Item, tuple[str, ...]]


def _paired(
    pairs: Sequence[tuple[str, str]], contestants: Sequence[str], order: Sequence[Item], rng: random.Random,
    n_checks: int, n_repeats: int,
) -> list[list[_Planned]]:  # fmt: skip
    """Two variants for each rotation of the pairs over the prompts: one the mirror image of the other."""
    checks = [(item, rng.choice(contestants)) for item in _some(order, n_checks, rng)]
    check_sides = _balanced(len(checks), rng)
    plans = []
    for rotation in range(len(pairs)):
        chosen = [pairs[(i + rotation) % len(pairs)] for i in range(len(order))]
        sides = _sides(chosen, rng)
        votes = [(item, pair[::-1] if side else pair) for item, pair, side in zip(order, chosen, sides, strict=True)]
        repeated = rng.sample(votes, min(n_repeats, len(votes)))
        plan: list[_Planned] = [("vote", item, shown) for item, shown in votes]
        plan += [("repeat", item, shown[::-1]) for item, shown in repeated]
        for (item, name), side in zip(checks, check_sides, strict=True):
            both = (name, SCRAMBLED + name)
            plan.append(("check", item, both[::-1] if side else both))
        plans += [plan, [(role, item, shown[::-1]) for role, item, shown in plan]]
    return plans


def _ranked(
    contestants: Sequence[str], order: Sequence[Item], rng: random.Random, n_checks: int
) -> list[list[_Planned]]:  # fmt: skip
    """One variant for each rotation of the places: in a block of k trials everybody stands in every place once."""
    k = len(contestants)
    bases = []
    for _ in range(0, len(order), k):
        base = list(contestants)
        rng.shuffle(base)
        bases.append(base)
    checks = []
    for item in _some(order, n_checks, rng):
        shown = list(contestants)
        rng.shuffle(shown)
        place = rng.randrange(k)
        shown[place] = SCRAMBLED + shown[(place + 1) % k]  # beside the intact one of the same contestant
        checks.append((item, shown))
    plans = []
    for rotation in range(k):
        plan: list[_Planned] = [
            ("vote", item, _rotated(bases[i // k], i + rotation)) for i, item in enumerate(order)
        ]  # fmt: skip
        plan += [("check", item, _rotated(shown, rotation)) for item, shown in checks]
        plans.append(plan)
    return plans


def _rotated(names: Sequence[str], by: int) -> tuple[str, ...]:
    by %= len(names)
    return (*names[by:], *names[:by])


def _some(order: Sequence[Item], n: int, rng: random.Random) -> list[Item]:
    """``n`` items, as different as can be."""
    found: list[Item] = []
    while len(found) < n:
        found += rng.sample(order, min(n - len(found), len(order)))
    return found


def _balanced(n: int, rng: random.Random) -> list[int]:
    """0 and 1 equally often, to within one, in random order."""
    start = rng.randrange(2)
    sides = [(start + i) % 2 for i in range(n)]
    rng.shuffle(sides)
    return sides


def _sides(chosen: Sequence[tuple[str, str]], rng: random.Random) -> list[int]:
    """A side for each trial, balanced within each pair."""
    waiting = {pair: _balanced(chosen.count(pair), rng) for pair in dict.fromkeys(chosen)}
    return [waiting[pair].pop() for pair in chosen]
