"""Whether a budget holds a run's first update: what must come before it, what it costs, what to make smaller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.budget import KINDS, Budget, Charge

UNPRICED = ("device_s", "flops")
"""Kinds that every unit spends and whose amount is not known before the run."""


@dataclass(frozen=True)
class Need:
    """One thing that a run does up to the end of its first update."""

    what: str
    """Such as ``the pool of D x N = 100 x 20 images``."""
    cost: Charge
    """Exactly what the meters will count, of the kinds that are known before the run."""
    smaller: str = ""
    """What makes it cost less, such as ``fewer pairs``; of things that are counted, with the largest number that fits
    in braces: ``D x N is at most {room}``."""
    n: int = 0
    """How many such things it is now; 0 where they are not counted."""
    least: int = 1
    """The fewest that make sense."""


def total(needs: Sequence[Need]) -> Charge:
    """What all of it costs."""
    return sum((need.cost for need in needs), Charge())


def shortfalls(needs: Sequence[Need], budget: Budget) -> list[str]:
    """One sentence for each limit that ``needs``, the update being the last, do not fit into, with what to change.

    A run ends when a kind is used up, so of kinds that the update does not spend something must be left for it to
    start at all; and where it spends no limited kind, nothing would end the run.

    >>> pool = Need("a pool", Charge({"denoiser_u": 60}), "N is at most {room}", n=6)
    >>> shortfalls([pool, Need("an update", Charge({"denoiser_u": 8}))], Budget(denoiser_u=50))[0]
    'a pool (60 U) and an update (8) are 68 of a budget of 50 U, so no update is left: N is at most 4, or the budget \
is at least 68'
    """
    if not needs:
        return []
    update = needs[-1].cost
    kinds = [kind for kind, _ in budget.limits()]
    if not any(kind in UNPRICED or update.get(kind) for kind in kinds):
        spent = ", ".join(kind for kind in KINDS if update.get(kind))
        return [f"an update spends no {' and no '.join(kinds)}, so nothing would end the run: a limit on {spent} too"]
    found = []
    for kind, limit in budget.limits():
        paying = [need for need in needs if need.cost.get(kind)]
        least, rest = total(paying).get(kind), not update.get(kind)
        if least > limit or (paying and rest and least == limit):
            rooms = [limit - (least - need.cost.get(kind)) for need in paying]
            ways = [way for need, room in zip(paying, rooms, strict=True) if (way := _smaller(need, kind, room, rest))]
            enough = f"{'or ' if ways else ''}the budget is {'more than' if rest else 'at least'} {least:,.0f}"
            found.append(f"{_listed(paying, kind, limit)}, so no update is left: {', '.join([*ways, enough])}")
    return found


def _smaller(need: Need, kind: str, room: float, rest: bool) -> str:
    """What to write of one need where ``room`` is left for it, less a rest; "" where less of it is of no help."""
    if not need.n:
        return need.smaller
    fits = room / (need.cost.get(kind) / need.n)
    n = math.ceil(fits) - 1 if rest else math.floor(fits)
    return need.smaller.format(room=n) if n >= need.least else ""


def _listed(paying: Sequence[Need], kind: str, limit: float) -> str:
    unit = "U" if kind == "denoiser_u" else kind
    first, *others = paying
    if not others:
        return f"{first.what} costs {first.cost.get(kind):,.0f} of a budget of {limit:,.0f} {unit}"
    costs = [f"{first.what} ({first.cost.get(kind):,.0f} {unit})"]
    costs += [f"{need.what} ({need.cost.get(kind):,.0f})" for need in others]
    return (
        f"{', '.join(costs[:-1])} and {costs[-1]} are {total(paying).get(kind):,.0f} of a budget of {limit:,.0f} {unit}"
    )
