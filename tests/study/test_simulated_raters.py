"""Raters with known preferences: the figures give them back, within their own intervals, as often as they say."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest

from bench.core.paired import win_rate
from bench.study.ballot import Ballot
from bench.study.tally import Tally, tally
from tests.study.world import attentive, new_study, read, vote_all

N_RATERS = 8


def ballots(study: Any, key: Any, strength: dict[str, float], seed: int) -> list[Ballot]:
    made = []
    for k in range(N_RATERS):
        rng = random.Random(1000 * seed + k)
        votes = vote_all(study, key, f"r{seed}-{k}", attentive(study["kind"], rng, strength))
        made.append(Ballot(f"r{seed}-{k}", tuple(votes), "simulated"))
    return made


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    root = tmp_path_factory.mktemp("sim")
    found = {}
    for kind in ("pairwise", "rank", "scale"):
        out = new_study(root / kind, kind, n_prompts=16, secret="simulation")
        found[kind] = read(out, "study"), read(out, "key")
    return found


def run_once(studies: Any, kind: str, seed: int, strengths: tuple[float, ...]) -> tuple[Tally, dict[str, float]]:
    study, key = studies[kind]
    strength = dict(zip([c["name"] for c in key["contestants"]], strengths, strict=False))
    return tally(study, key, ballots(study, key, strength, seed)), strength


def test_a_known_win_rate_comes_back_within_its_interval_as_often_as_it_says(studies: Any) -> None:
    """Base against run 1 : 2.33, so the base wins 30 %: 60 studies of 8 raters and 16 prompts. A 95 % interval misses 3
    of 60 on average; more than 9 is less likely than 1 in 1000 (binomial), and the percentile bootstrap over 16 prompts
    is known to be a little narrow."""
    missed = 0
    values = []
    for seed in range(60):
        found, _ = run_once(studies, "pairwise", seed, (0.3, 0.7))
        (meeting,) = found.meetings
        assert (found.n_raters, found.n_excluded, meeting.rate.n) == (N_RATERS, 0, 16 * N_RATERS)
        values.append(meeting.rate.value)
        missed += not meeting.rate.ci_low <= 0.3 <= meeting.rate.ci_high
    assert np.mean(values) == pytest.approx(0.3, abs=3 * math.sqrt(0.21 / (60 * 16 * N_RATERS)))
    assert missed <= 9


def test_the_tally_is_the_paired_code_on_the_votes(studies: Any) -> None:
    study, key = studies["pairwise"]
    found, _ = run_once(studies, "pairwise", 1, (0.4, 0.6))
    rows = []
    for b in ballots(study, key, {"base": 0.4, key["contestants"][1]["name"]: 0.6}, 1):
        for vote in b.votes:
            trial = key["trials"][vote.trial]
            if trial["role"] == "vote":
                winner = trial["shown"][0 if vote.answers["preference"] == "left" else 1]
                rows.append((1.0 if winner == "base" else -1.0, trial["prompt_id"]))
    values, prompts = zip(*rows, strict=True)
    assert found.meetings[0].rate == win_rate(values, [0.0] * len(values), prompts)


def test_rankings_give_back_places_and_every_pairs_win_rate(studies: Any) -> None:
    """Under Plackett and Luce a is placed above b with the chance a / (a + b)."""
    strengths = (1.0, 2.0, 4.0, 8.0)
    sums: dict[tuple[str, str], list[float]] = {}
    ranks: dict[str, list[float]] = {}
    for seed in range(8):
        found, strength = run_once(studies, "rank", seed, strengths)
        for m in found.meetings:
            if m.question == "fidelity":
                sums.setdefault((m.a, m.b), []).append(m.rate.value)
        for p in found.places:
            if p.question == "fidelity":
                ranks.setdefault(p.name, []).append(p.rank.value)
    for (a, b), values in sums.items():
        expected = strength[a] / (strength[a] + strength[b])
        assert np.mean(values) == pytest.approx(expected, abs=3.5 * math.sqrt(0.25 / (8 * 16 * N_RATERS)))
    for name, values in ranks.items():
        expected = 1 + sum(s / (s + strength[name]) for other, s in strength.items() if other != name)
        assert np.mean(values) == pytest.approx(expected, abs=0.15)
    assert sum(np.mean(v) for v in ranks.values()) == pytest.approx(10)  # 1 + 2 + 3 + 4
    assert len(sums) == len(list(itertools.combinations(strengths, 2)))


def test_scores_give_back_their_mean_and_its_sign(studies: Any) -> None:
    """3 points for the winner: the mean of base minus run is 3 (p - q)."""
    values = []
    for seed in range(6):
        found, _ = run_once(studies, "scale", seed, (0.25, 0.75))
        scores = [m.score for m in found.meetings if m.question == "colour"]
        assert scores[0] is not None
        values.append(scores[0].value)
        assert scores[0].ci_low <= scores[0].value <= scores[0].ci_high
    assert np.mean(values) == pytest.approx(3 * (0.25 - 0.75), abs=3.5 * 3 / math.sqrt(6 * 16 * N_RATERS))


def test_the_order_of_ballots_and_of_votes_changes_no_digit(studies: Any) -> None:
    study, key = studies["rank"]
    strength = {c["name"]: 1.0 + i for i, c in enumerate(key["contestants"])}
    made = ballots(study, key, strength, 5)
    turned = [Ballot(b.rater, tuple(reversed(b.votes)), b.source) for b in reversed(made)]
    assert tally(study, key, made) == tally(study, key, turned)


def test_agreement_is_1_for_echoes_and_near_0_for_coins(studies: Any) -> None:
    study, key = studies["pairwise"]

    def alike(trial: dict[str, Any]) -> str:
        """The same contestant for everyone, prompt by prompt; never a scrambled image."""
        shown = trial["shown"]
        bad = [name.startswith("scrambled:") for name in shown]
        wanted = bad.index(False) if any(bad) else shown.index("base") ^ (hash(trial["prompt_id"][-1]) % 2)
        return ("left", "right")[wanted]

    echo = [Ballot(f"r{k}", tuple(vote_all(study, key, f"r{k}", alike)), "x") for k in range(4)]
    assert tally(study, key, echo).agreement[0].alpha == pytest.approx(1)
    coins = [run_once(studies, "pairwise", seed, (1.0, 1.0))[0].agreement[0].alpha for seed in range(10)]
    assert abs(np.mean([c for c in coins if c is not None])) < 0.04
    alone = tally(study, key, echo[:1]).agreement[0]
    assert (alone.alpha, alone.ci_low) == (None, None)


def test_a_rater_who_answers_by_chance_is_seldom_taken_for_attentive(studies: Any) -> None:
    """Two checks, both must be right: left or right by a coin passes 1 in 4."""
    study, key = studies["pairwise"]
    passed = 0
    for k in range(200):
        rng = random.Random(k)
        votes = vote_all(study, key, f"c{k}", lambda _: rng.choice(["left", "right"]))  # noqa: B023
        passed += tally(study, key, [Ballot(f"c{k}", tuple(votes), "x")]).n_raters
    assert passed / 200 == pytest.approx(0.25, abs=0.1)
