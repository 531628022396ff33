"""Galleries that are evidence: two models at equal noise, chosen by a printed rule, missing images named in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leaderboard import wording
from leaderboard.evidence import Differences, Key, Picture, PromptLine, Shot, Side
from leaderboard.run import Metric

N_FIRST = 8
N_EXTREME = 4


@dataclass(frozen=True)
class Delta:
    """One image's change under one metric, ready to print."""

    metric: str
    text: str
    role: str
    chooses: bool
    """Whether the gallery's extremes were chosen by this metric."""


@dataclass(frozen=True)
class Item:
    """The same prompt and noise through two models; ``first`` minus ``second`` are the deltas."""

    prompt: PromptLine
    seed: int
    first: Shot
    second: Shot
    deltas: tuple[Delta, ...]


@dataclass(frozen=True)
class Gallery:
    rule: str
    judge: Metric | None
    groups: tuple[tuple[str, tuple[Item, ...]], ...]

    @property
    def pictures(self) -> dict[str, Picture]:
        """By file name."""
        shots = [shot for _, items in self.groups for item in items for shot in (item.first, item.second)]
        return {shot.picture.name: shot.picture for shot in shots if shot.picture is not None}


def judge_of(changes: Mapping[str, Differences], roles: Mapping[str, str], first: Side) -> Metric | None:
    """The held-out metric that chooses extremes: the score of a judge that boards rank by, then one of any judge, then
    a board's column, then by name."""
    found = [d.entry for name, d in changes.items() if roles.get(name, d.entry.role) == "held-out"]

    def order(m: Metric) -> tuple[bool, bool, bool, str]:
        ranks = bool(m.judge) and f"winrate/{m.judge}" in first.entries
        return not ranks, not m.judge, wording.kind_of(m.name) in wording.METRIC_KINDS, m.name

    return min(found, key=order, default=None)


def choose(
    first: Side, second: Side, changes: Mapping[str, Differences], roles: Mapping[str, str], up: str, down: str
) -> Gallery:
    """The first prompts of the suite, and the largest changes either way under a held-out judge.

    Args:
        first, second: two models with images of the same prompts and noise.
        changes: ``differences(first, second)``.
        roles: a metric's role where two runs are compared: held-out only when it is so for both.
        up, down: titles of the extremes where ``first`` is better and where it is worse.
    """
    prompts = first.evidence.prompts or second.evidence.prompts
    order = {prompt_id: i for i, prompt_id in enumerate(prompts)}
    known = dict.fromkeys([*first.index, *second.index])
    # stable: seeds stay in index order, and prompts that no list names come last
    keys = sorted(known, key=lambda key: order.get(key[0], len(order)))
    chosen: list[tuple[str, Sequence[Key]]] = [(f"First {N_FIRST} prompts", _one_a_prompt(keys, set())[:N_FIRST])]
    rule = f"The first {N_FIRST} prompts of the suite in its own order, at the first noise seed"
    judge = judge_of(changes, roles, first)
    if judge is None:
        rule += ". No held-out metric has scores for every image, so no extremes are shown."
    else:
        values = {key: value for key, value in changes[judge.name].by_key.items() if key in known}
        sign = 1.0 if judge.higher_is_better else -1.0
        ranked = sorted(values, key=lambda key: (-sign * values[key], key))
        best = _one_a_prompt(ranked, set())[:N_EXTREME]
        worst = _one_a_prompt(ranked[::-1], {key[0] for key in best})[:N_EXTREME]
        rule += (f"; then the {N_EXTREME} {up} and the {N_EXTREME} {down} under {judge.name}, a held-out metric, at "
                 "most one image a prompt. Nothing is chosen by hand.")  # fmt: skip
        chosen += [(f"{N_EXTREME} {up} under {judge.name}", best), (f"{N_EXTREME} {down} under {judge.name}", worst)]
    decimals = {name: min(4, wording.places(name, list(d.by_key.values()), [])) for name, d in changes.items()}

    def item(key: Key) -> Item:
        prompt = prompts.get(key[0], PromptLine(key[0], f"(prompt {key[0]})", {}))
        deltas = tuple(
            Delta(name, wording.figure(name, d.by_key[key], decimals[name], signed=True),
                  roles.get(name, d.entry.role), judge is not None and name == judge.name)
            for name, d in changes.items() if key in d.by_key
        )  # fmt: skip
        return Item(prompt, key[1], first.shot(key), second.shot(key), deltas)

    groups = [(title, tuple(item(key) for key in keys)) for title, keys in chosen if keys]
    return Gallery(rule=rule, judge=judge, groups=tuple(groups))


def _one_a_prompt(keys: Sequence[Key], taken: set[str]) -> list[Key]:
    """The first key of every prompt that is not ``taken``, in order."""
    first: dict[str, Key] = {}
    for key in keys:
        if key[0] not in taken:
            first.setdefault(key[0], key)
    return list(first.values())
