"""From ballots to figures: win rates, mean ranks, mean scores, agreement, and who is left out.

All intervals resample or compare prompts (``bench.core.paired``): several raters on one prompt are averaged first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.core.agreement import krippendorff_alpha, krippendorff_interval, mean_ranks
from bench.core.paired import Interval, WinRate, mean_t_interval, win_rate
from bench.study.ballot import Answers, Ballot
from bench.study.design import SCRAMBLED, pairs_of
from bench.study.form import FORMS, MIN_CHECKS, MIN_RIGHT_SHARE


@dataclass(frozen=True)
class Attention:
    """How one rater did on the checks."""

    rater: str
    n_checks: int
    n_right: int
    n_repeats: int
    n_consistent: int
    """Repeated pairs answered as the first time."""
    n_votes: int

    @property
    def counts(self) -> bool:
        """``form.ATTENTION_RULE``"""
        return self.n_checks >= MIN_CHECKS and self.n_right >= MIN_RIGHT_SHARE * self.n_checks


@dataclass(frozen=True)
class Meeting:
    """Two contestants under one question; everything is said of ``a``."""

    question: str
    a: str
    b: str
    rate: WinRate
    score: Interval | None
    """Mean score of a minus b, -5 to 5; scale studies only."""
    by_rater: Mapping[str, float]
    """Win rate of each rater alone."""


@dataclass(frozen=True)
class Place:
    """Mean rank of one contestant under one question, 1 the best."""

    question: str
    name: str
    rank: Interval


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha of one question; None where no two raters met on a prompt, or all said the same."""

    question: str
    alpha: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class Tally:
    """All that a study says."""

    attention: tuple[Attention, ...]
    """Every rater, by code."""
    meetings: tuple[Meeting, ...]
    places: tuple[Place, ...]
    agreement: tuple[Agreement, ...]
    n_votes: int
    """Answered trials that count, checks and repeats apart."""

    @property
    def n_raters(self) -> int:
        return sum(a.counts for a in self.attention)

    @property
    def n_excluded(self) -> int:
        return len(self.attention) - self.n_raters


@dataclass(frozen=True)
class _Said:
    """One answer about two contestants."""

    rater: str
    prompt: str
    question: str
    a: str
    b: str
    value: float
    """Above 0: a is better."""


def tally(study: Mapping[str, Any], key: Mapping[str, Any], ballots: Sequence[Ballot]) -> Tally:
    """The figures of all ballots that count; their order changes nothing."""
    ballots = sorted(ballots, key=lambda b: b.rater)
    attention = tuple(_attention(study, key, b) for b in ballots)
    good = [b for b, a in zip(ballots, attention, strict=True) if a.counts]
    questions = [q["id"] for q in study["questions"]]
    names = [c["name"] for c in key["contestants"]]
    said = [s for b in good for s in _said(study, key, b)]
    meetings = [m for q in questions for a, b in pairs_of(study["kind"], names)
                if (m := _meeting(study["kind"], q, a, b, said)) is not None]  # fmt: skip
    places = [p for q in questions for p in _places(key, names, q, good)] if study["kind"] == "rank" else []
    agreement = [_agreement(study["kind"], key, names, q, good, said) for q in questions]
    return Tally(
        attention, tuple(meetings), tuple(places), tuple(agreement), sum(a.n_votes for a in attention if a.counts)
    )


def _trials(key: Mapping[str, Any], ballot: Ballot, role: str) -> Iterator[tuple[dict[str, Any], Answers]]:
    for vote in ballot.votes:
        trial = key["trials"][vote.trial]
        if trial["role"] == role:
            yield trial, vote.answers


def _attention(study: Mapping[str, Any], key: Mapping[str, Any], ballot: Ballot) -> Attention:
    checks = [_is_right(study["kind"], trial["shown"], answers) for trial, answers in _trials(key, ballot, "check")]
    votes = {(t["prompt_id"], tuple(t["shown"])): answers for t, answers in _trials(key, ballot, "vote")}
    repeats = [(votes[k], answers) for t, answers in _trials(key, ballot, "repeat")
               if (k := (t["prompt_id"], tuple(reversed(t["shown"])))) in votes]  # fmt: skip
    same = sum(all(np.sign(_signed(a[q])) == -np.sign(_signed(b[q])) for q in a) for a, b in repeats)
    return Attention(ballot.rater, len(checks), sum(checks), len(repeats), same, len(votes))


def _is_right(kind: str, shown: Sequence[str], answers: Answers) -> bool:
    """Whether the scrambled copy was told from the intact image: ``form.ATTENTION_RULE``."""
    bad = next(i for i, name in enumerate(shown) if name.startswith(SCRAMBLED))
    if kind == "rank":
        good = shown.index(shown[bad].removeprefix(SCRAMBLED))
        return all(order.index(good) < order.index(bad) for order in answers.values())
    mean = sum(map(_signed, answers.values())) / len(answers)
    return mean < 0 if bad == 0 else mean > 0


def _signed(answer: str | int) -> float:
    """Above 0: the left one is better."""
    return {"left": 1.0, "tie": 0.0, "right": -1.0}[answer] if isinstance(answer, str) else -float(answer)


def _said(study: Mapping[str, Any], key: Mapping[str, Any], ballot: Ballot) -> Iterator[_Said]:
    names = [c["name"] for c in key["contestants"]]
    for trial, answers in _trials(key, ballot, "vote"):
        shown, prompt = trial["shown"], trial["prompt_id"]
        for question, answer in answers.items():
            for a, b in pairs_of(study["kind"], names):
                if a not in shown or b not in shown:
                    continue
                if study["kind"] == "rank":
                    value = float(answer.index(shown.index(b)) - answer.index(shown.index(a)))
                else:
                    value = _signed(answer) * (1 if shown.index(a) < shown.index(b) else -1)
                yield _Said(ballot.rater, prompt, question, a, b, value)


def _meeting(kind: str, question: str, a: str, b: str, said: Sequence[_Said]) -> Meeting | None:
    mine = [s for s in said if (s.question, s.a, s.b) == (question, a, b)]
    if not mine:
        return None

    def rate(rows: Sequence[_Said]) -> WinRate:
        return win_rate([s.value for s in rows], [0.0] * len(rows), [s.prompt for s in rows])

    raters = sorted({s.rater for s in mine})
    score = mean_t_interval([s.value for s in mine], [s.prompt for s in mine]) if kind == "scale" else None
    return Meeting(
        question, a, b, rate(mine), score, {r: rate([s for s in mine if s.rater == r]).value for r in raters}
    )


def turned(m: Meeting) -> Meeting:
    """The same said of ``b``."""
    r, s = m.rate, m.score
    rate = WinRate(**{**vars(r), "value": 1 - r.value, "ci_low": 1 - r.ci_high, "ci_high": 1 - r.ci_low,
                      "wins": r.losses, "losses": r.wins})  # fmt: skip
    score = (
        None if s is None else Interval(**{**vars(s), "value": -s.value, "ci_low": -s.ci_high, "ci_high": -s.ci_low})
    )
    return Meeting(m.question, m.b, m.a, rate, score, {k: 1 - v for k, v in m.by_rater.items()})


def _places(key: Mapping[str, Any], names: Sequence[str], question: str, ballots: Sequence[Ballot]) -> list[Place]:
    rows, prompts = [], []
    for ballot in ballots:
        for trial, answers in _trials(key, ballot, "vote"):
            order = [trial["shown"][i] for i in answers[question]]
            rows.append([order.index(name) + 1.0 for name in names])
            prompts.append(trial["prompt_id"])
    if not rows:
        return []
    found = zip(names, mean_ranks(rows, prompts), strict=True)
    return [Place(question, name, rank) for name, rank in found if rank is not None]


def _agreement(
    kind: str, key: Mapping[str, Any], names: Sequence[str], question: str, ballots: Sequence[Ballot],
    said: Sequence[_Said],
) -> Agreement:  # fmt: skip
    """Items are a pair on a prompt, or, where images are ranked, a contestant on a prompt."""
    cells: dict[tuple[str, tuple[str, ...]], float] = {}
    if kind == "rank":
        for ballot in ballots:
            for trial, answers in _trials(key, ballot, "vote"):
                for place, i in enumerate(answers[question]):
                    cells[ballot.rater, (trial["prompt_id"], trial["shown"][i])] = place + 1.0
    else:
        for s in said:
            if s.question == question:
                cells[s.rater, (s.prompt, s.a, s.b)] = float(np.sign(s.value)) if kind == "pairwise" else s.value
    raters, items = (sorted({k[i] for k in cells}) for i in (0, 1))
    table = np.full((len(raters), len(items)), np.nan)
    places = {item: i for i, item in enumerate(items)}
    rows = {rater: i for i, rater in enumerate(raters)}
    for (rater, item), value in cells.items():
        table[rows[rater], places[item]] = value
    if not ((~np.isnan(table)).sum(axis=0) > 1).any():
        return Agreement(question, None, None, None)
    level = FORMS[kind].level
    alpha = krippendorff_alpha(table, level)
    if math.isnan(alpha):
        return Agreement(question, None, None, None)
    low, high = krippendorff_interval(table, level)
    return Agreement(question, alpha, low, high)


def comparisons(tally: Tally, name: str) -> Iterator[Meeting]:
    """The meetings of one contestant, each said of it."""
    for meeting in tally.meetings:
        if name in (meeting.a, meeting.b):
            yield meeting if meeting.a == name else turned(meeting)
