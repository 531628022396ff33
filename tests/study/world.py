"""Studies over synthetic runs, and raters whose preferences are known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.store import atomic
from bench.study.ballot import Vote, assigned, export
from bench.study.design import SCRAMBLED
from bench.study.making import Wanted, make
from tests.leaderboard.factories import Fake

TUNERS = ("drtune", "refl", "draft-lv")


def write_run(runs: Path, tuner: str, **changes: Any) -> str:
    """A synthetic run that commands can find; returns its id."""
    fake = Fake(tuner=tuner, fractions=(0.0, 1.0), **changes)
    atomic.write_json(fake.write(runs) / "spec.json", {"tuner": tuner})
    return fake.run_id


def new_study(root: Path, kind: str, names: Sequence[str] = (), *, n_prompts: int = 10, **wanted: Any) -> Path:
    """A study of the base and the first run (all three and the base where images are ranked)."""
    runs = root / "runs"
    out = root / kind
    chosen = names or ("base", *(write_run(runs, tuner) for tuner in (TUNERS if kind == "rank" else TUNERS[:1])))
    make(Wanted(tuple(chosen), runs, out, kind, n_prompts, **wanted))
    return out


def read(out: Path, name: str) -> Any:
    return json.loads((out / f"{name}.json").read_text("utf-8"))


Chance = Mapping[tuple[str, str], float]
"""How often the first of a pair is preferred."""


def vote_all(
    study: Mapping[str, Any],
    key: Mapping[str, Any],
    rater: str,
    answer: Callable[[dict[str, Any]], Any],
    n: int = 10**6,
) -> list[Vote]:
    """The first ``n`` trials in the rater's order, each question answered by ``answer`` of the key's trial."""
    votes = []
    for trial in assigned(study, rater)[:n]:
        facts = key["trials"][trial["id"]]
        votes.append(Vote(trial["id"], 0, {q["id"]: answer(facts) for q in study["questions"]}, 1500))
    return votes


def attentive(kind: str, rng: random.Random, strength: Mapping[str, float]) -> Callable[[dict[str, Any]], Any]:
    """A rater who never prefers a scrambled image and else prefers ``a`` to ``b`` with the chance
    strength[a] / (strength[a] + strength[b]), trial by trial."""

    def weight(name: str) -> float:
        return 1e-12 if name.startswith(SCRAMBLED) else strength[name]

    def answer(trial: dict[str, Any]) -> Any:
        shown = trial["shown"]
        if kind == "rank":
            # Plackett and Luce: the one with the smallest exponential waiting time first
            return sorted(range(len(shown)), key=lambda i: rng.expovariate(1) / weight(shown[i]))
        left, right = map(weight, shown)
        first = rng.random() < left / (left + right)
        return ("left" if first else "right") if kind == "pairwise" else (-3 if first else 3)

    return answer


def write_ballot(out: Path, rater: str, votes: Sequence[Vote], folder: Path | None = None) -> Path:
    """The signed file that the page would have saved."""
    path = (folder or out.parent) / f"votes-{rater}.json"
    atomic.write_json(path, export(read(out, "study"), rater, votes))
    return path
