"""What a board's rows say of each other: all pairs, strengths, tie groups, noise floor, hacking, anytime figures.

From the records and the per-image score files that they name. Plain data, kept under a digest of all of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bench.core.crossed import Crossed, crossed_mean, n_needed, pooled_seed_variance
from bench.core.errors import UserError
from bench.core.paired import CONFIDENCE
from bench.core.ranking import ELO, Comparison, Pair, better, compare, holm, places, strengths, tie_groups
from bench.core.student import t_quantile
from bench.store import atomic
from leaderboard.budget_curves import Anytime, Frozen, Hacking, Span, anytime, curve, hacking, trained_judges
from leaderboard.paired_scores import Layout, RowScores, load, read_scores, score_files
from leaderboard.program import program
from leaderboard.spelling import short_digest
from leaderboard.table import Board, Row
from leaderboard.wording import plain_value, subject_of

MAX_ROWS = 20
"""Rows of a board that are compared with each other: the best by held-out win rate. 20 make 210 pairs with the base."""
ALPHA = 1 - CONFIDENCE
POWER = 0.8
BASE = "base"
"""The base model's name among the run ids."""


class PairFact(Frozen):
    """The win rate of ``a`` over ``b``, each the id of its row's first run or ``BASE``."""

    a: str
    b: str
    rate: Span
    p: float
    p_holm: float
    n_seeds: int
    """Tuning seeds that both have."""
    floor: float
    """Distances from 50 % below this are no larger than what other noise or another tuning seed does."""
    told_apart: bool
    """Significant after Holm's correction and no closer to 50 % than the floor: what places and groups go by."""


class Need(Frozen):
    """What it would take to tell two neighbours apart, if the difference seen were the true one."""

    a: str
    b: str
    more_prompts: int | None
    """None: no number is enough at this number of tuning seeds."""
    more_seeds: int | None
    """None: no number is enough, or one seed tells nothing of others."""


class BoardFacts(Frozen):
    """By the id of each row's first run."""

    digest: str
    """Of all that this is made from."""
    judges: tuple[str, ...]
    """Held out for every row; a prompt's win is the mean over them."""
    n_prompts: int
    n_noise: float
    """Noise seeds a prompt."""
    names: dict[str, str]
    rows: tuple[str, ...]
    """The rows compared, in the board's order; ``BASE`` comes last."""
    pairs: tuple[PairFact, ...]
    strengths: dict[str, Span]
    """Bradley-Terry strengths in Elo points against the base model."""
    places: dict[str, tuple[int, int]]
    groups: tuple[tuple[str, ...], ...]
    needs: tuple[Need, ...]
    floor_noise: float | None
    """How far from 50 % the base model may lie against itself with other noise (95 %)."""
    floor_seed: float | None
    """How far from 50 % a tuner may lie against itself with another tuning seed (95 %), one seed against one."""
    hacking: dict[str, Hacking]
    anytime: dict[str, Anytime]
    notes: tuple[str, ...]
    """What limits the comparisons, in sentences."""


def board_facts(board: Board, cache: Path | None) -> BoardFacts:
    """The facts of one board, from ``cache`` where nothing that they are made from has changed.

    Args:
        cache: ``<runs>/.cache/leaderboard``; safe to delete. None makes everything anew.
    """
    compared = [row for row in board.rows if row.rank is not None][:MAX_ROWS] if board.rank_columns else []
    judges = tuple(subject_of(c.metric) for c in board.columns if c.key in board.rank_columns)
    inputs = _inputs(board, compared, judges)
    path = cache / "statistics" / f"{board.key}.json" if cache is not None else None
    if path is not None:
        try:
            known = BoardFacts.model_validate_json(path.read_bytes())
            if known.digest == inputs:
                return known
        except (OSError, ValidationError):
            pass  # not there yet, or of an older program
    facts = _facts(board, compared, judges, inputs)
    if path is not None:
        atomic.write_text(path, facts.model_dump_json())
    return facts


def row_id(row: Row) -> str:
    """How facts name a row."""
    return row.runs[0].run_id


def _inputs(board: Board, compared: Sequence[Row], judges: Sequence[str]) -> str:
    stamps = []
    for file in score_files(compared, judges):
        try:
            found = file.stat()
            stamps.append([found.st_size, found.st_mtime_ns])
        except OSError:
            stamps.append([])
    records = [[run.digest for run in row.runs] for row in board.rows]
    return short_digest([program(), board.key, board.rank_columns, records, stamps], 24)


def _facts(board: Board, compared: Sequence[Row], judges: tuple[str, ...], inputs: str) -> BoardFacts:
    found, layout, notes = load(compared, judges)
    scored = [(row, scores) for row, scores in zip(compared, found, strict=True) if scores is not None]
    ids = [row_id(row) for row, _ in scored]
    pairs: dict[Pair, _Compared] = {}
    floor_noise = floor_seed = None
    if layout is not None:
        scores = [s for _, s in scored]
        pairs = _all_pairs(scores, layout)
        floor_noise, floor_seed = _noise_floor(scores[0], layout), _seed_floor(scores, layout)
    adjusted = dict(zip(pairs, holm([c.seen.p for c in pairs.values()]), strict=True))
    floors = {pair: _floor(c, floor_noise, floor_seed) for pair, c in pairs.items()}
    # A difference no larger than what noise or another seed does is not told, however small its p value.
    clear = {pair: c for pair, c in pairs.items() if abs(c.seen.value - 0.5) >= floors[pair]}
    is_better = better(len(scored) + 1, {pair: (c.seen.value, adjusted[pair]) for pair, c in clear.items()}, ALPHA)
    named = [*ids, BASE] if pairs else []
    gaps = {row_id(row): _gap(row, scores, layout) for row, scores in scored if layout is not None}
    curves = {row_id(row): (row, curve(row, board)) for row in board.rows}
    return BoardFacts(
        digest=inputs, judges=judges, n_prompts=layout.n_prompts if layout is not None else 0,
        n_noise=layout.n_noise if layout is not None else 0.0, names=_names(board),
        rows=tuple(named),
        pairs=tuple(
            PairFact(
                a=named[a], b=named[b], rate=_span(c.seen), p=c.seen.p, p_holm=adjusted[a, b], n_seeds=len(c.seeds),
                floor=floors[a, b], told_apart=bool(is_better[a, b] or is_better[b, a]),
            )
            for (a, b), c in pairs.items()
        ),
        strengths=_strengths(named, pairs), places=_places(ids, is_better), groups=_groups(named, is_better),
        needs=_needs(named, pairs, is_better, floor_noise, floor_seed), floor_noise=floor_noise, floor_seed=floor_seed,
        hacking={i: h for i, (r, along) in curves.items() if (h := hacking(r, along, gaps.get(i))) is not None},
        anytime={i: a for i, (_, along) in curves.items() if (a := anytime(along)) is not None},
        notes=(*_notes(board, compared, scored), *notes),
    )  # fmt: skip


class _Compared(NamedTuple):
    """One pair: the tuning seeds that both have, the wins of the first (n_seeds, n_prompts), and what they say."""

    seeds: Sequence[int]
    table: NDArray[np.float64]
    seen: Comparison


def _floor(pair: _Compared, noise: float | None, seed: float | None) -> float:
    """``PairFact.floor``: the mean of n tuning seeds varies by the root of n less than one."""
    return max(noise or 0.0, (seed or 0.0) / math.sqrt(len(pair.seeds)))


def _all_pairs(scores: Sequence[RowScores], layout: Layout) -> dict[Pair, _Compared]:
    """Every pair of rows, and every row against the base model, which is last."""
    tables: dict[Pair, tuple[Sequence[int], NDArray[np.float64]]] = {}
    for (i, a), (j, b) in itertools.combinations(enumerate(scores), 2):
        both = sorted(set(a.seeds) & set(b.seeds))
        # Runs of one tuning seed share its training prompts and noise; without a shared one, any two may be paired.
        at_a = [a.seeds.index(s) for s in both] or list(range(min(len(a.seeds), len(b.seeds))))
        at_b = [b.seeds.index(s) for s in both] or at_a
        table = layout.wins({k: t[at_a] for k, t in a.tuned.items()}, {k: t[at_b] for k, t in b.tuned.items()})
        tables[i, j] = [a.seeds[k] for k in at_a], table
    for i, a in enumerate(scores):
        tables[i, len(scores)] = a.seeds, layout.wins(a.tuned, a.base)
    pooled = pooled_seed_variance([t for _, t in tables.values()], sum(len(s.seeds) - 1 for s in scores))
    return {pair: _Compared(seeds, table, compare(table, pooled)) for pair, (seeds, table) in tables.items()}


def _noise_floor(scores: RowScores, layout: Layout) -> float | None:
    """The base model against itself with other noise: it wins half, so what is left is the spread over prompts.

    The half-width of the 95 % interval of such a win rate with as many images as the board's; None with one noise
    seed.
    """
    by_prompt: dict[str, list[int]] = {}
    for at, (prompt, _) in enumerate(layout.keys):
        by_prompt.setdefault(prompt, []).append(at)
    squares: list[float] = []
    for images in by_prompt.values():
        for i, j in itertools.combinations(images, 2):
            rates = [0.5 + 0.5 * _sign(float(t[0, i] - t[0, j]), layout.tie_eps[k]) for k, t in scores.base.items()]
            squares.append((math.fsum(rates) / len(rates) - 0.5) ** 2)
    if not squares or len(by_prompt) < 2:
        return None
    variance = math.fsum(squares) / len(squares)
    return t_quantile(1 - ALPHA / 2, len(by_prompt) - 1) * math.sqrt(variance / len(layout.keys))


def _sign(difference: float, tie_eps: float) -> float:
    return 0.0 if abs(difference) <= tie_eps else math.copysign(1.0, difference)


def _seed_floor(scores: Sequence[RowScores], layout: Layout) -> float | None:
    """Tuners against themselves with another tuning seed, pooled over the rows that have several; None without any."""
    squares, df = [], 0
    for s in scores:
        df += len(s.seeds) - 1
        for i, j in itertools.combinations(range(len(s.seeds)), 2):
            table = layout.wins({k: t[[i]] for k, t in s.tuned.items()}, {k: t[[j]] for k, t in s.tuned.items()})
            squares.append((float(table.mean()) - 0.5) ** 2)
    return t_quantile(1 - ALPHA / 2, df) * math.sqrt(math.fsum(squares) / len(squares)) if squares else None


def _gap(row: Row, scores: RowScores, layout: Layout) -> Span | None:
    """Trained-on minus held-out win rate by prompt, where the trained judges' per-image wins are there."""
    judges, trained = trained_judges(row), []
    if not judges:
        return None
    for run in row.runs:
        entries, found = run.entries(run.final), []
        for judge in judges:
            entry = entries.get(f"winrate/{judge}")
            if entry is None or entry.scores is None:
                return None
            try:
                values = read_scores(run, entry, entry.name)
                found.append([values[key] for key in layout.keys])
            except (UserError, KeyError):
                return None  # the gap then comes from the records' intervals, which the page says
        trained.append(np.mean(found, axis=0))
    held_out = layout.wins(scores.tuned, scores.base)
    seen: Crossed = crossed_mean(layout.by_prompt(np.array(trained)) - held_out)
    return Span(value=seen.value, low=max(-1.0, seen.ci_low), high=min(1.0, seen.ci_high))


def _strengths(named: Sequence[str], pairs: Mapping[Pair, _Compared]) -> dict[str, Span]:
    if not pairs:
        return {}
    found = strengths(len(named), {p: (c.seeds, c.table) for p, c in pairs.items()}, anchor=len(named) - 1)
    return {
        name: Span(value=ELO * s.value, low=ELO * s.ci_low, high=ELO * s.ci_high)
        for name, s in zip(named, found, strict=True)
    }


def _places(ids: Sequence[str], is_better: NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
    """Of the tuners among themselves: the base has no place."""
    return dict(zip(ids, places(is_better[: len(ids), : len(ids)]), strict=True))


def _groups(named: Sequence[str], is_better: NDArray[np.bool_]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(named[i] for i in group) for group in tie_groups(is_better)) if named else ()


def _needs(
    named: Sequence[str], pairs: Mapping[Pair, _Compared], is_better: NDArray[np.bool_], floor_noise: float | None,
    floor_seed: float | None,
) -> tuple[Need, ...]:  # fmt: skip
    """For each row and the next one, and each row and the base, that are not told apart.

    At the level that the strictest of Holm's steps asks for, so that the number is enough whatever the other pairs do,
    and with as many prompts or seeds that the noise floor comes down to the difference seen.
    """
    needs = []
    last = len(named) - 1
    for a, b in dict.fromkeys([*((i, i + 1) for i in range(last)), *((i, last) for i in range(last))]):
        if not (is_better[a, b] or is_better[b, a]):
            crossed, effect, alpha = pairs[a, b].seen.crossed, pairs[a, b].seen.value - 0.5, ALPHA / len(pairs)
            needs.append(Need(
                a=named[a], b=named[b],
                more_prompts=_more(n_needed(effect, crossed, more="prompts", alpha=alpha, power=POWER),
                                   crossed.n_prompts, effect, floor_noise or 0.0,
                                   (floor_seed or 0.0) / math.sqrt(crossed.n_seeds)),
                more_seeds=_more(n_needed(effect, crossed, more="seeds", alpha=alpha, power=POWER), crossed.n_seeds,
                                 effect, (floor_seed or 0.0) / math.sqrt(crossed.n_seeds), floor_noise or 0.0),
            ))  # fmt: skip
    return tuple(needs)


def _more(needed: int | None, there: int, effect: float, falls: float, stays: float) -> int | None:
    """Beyond those that are there, so many that a test finds ``effect`` and that the floor which falls with the root
    of their number is no higher than it; None where no number does, or the other floor stays above."""
    if needed is None or effect == 0 or stays > abs(effect):
        return None
    return max(1, max(needed, math.ceil(there * (falls / effect) ** 2)) - there)


def _span(seen: Comparison) -> Span:
    return Span(value=seen.value, low=seen.ci_low, high=seen.ci_high)


def _names(board: Board) -> dict[str, str]:
    """Each row's tuner, with reward and settings where two rows share a name."""
    heads = [row.runs[0] for row in board.rows]
    names = {BASE: f"base model ({board.model})"}
    for head in heads:
        same = [h for h in heads if h.tuner == head.tuner]
        more = [head.trained_reward] if len({h.trained_reward for h in same}) > 1 else []
        if len(same) > 1:
            more += [f"{k} = {plain_value(v)}" for k, v in sorted(head.changed.items())]
        names[head.run_id] = f"{head.tuner} ({', '.join(more)})" if more else head.tuner
    return names


def _notes(board: Board, compared: Sequence[Row], scored: Sequence[tuple[Row, RowScores]]) -> list[str]:
    notes = []
    if not board.rank_columns and board.rows:
        notes.append("No judge is held out for every row, so the rows are not compared with each other.")
    ranked = [row for row in board.rows if row.rank is not None]
    if len(ranked) > len(compared) > 0:
        notes.append(f"The best {len(compared)} of {len(ranked)} rows by held-out win rate are compared; places and "
                     "groups are among them.")  # fmt: skip
    single = [row.runs[0].tuner for row, scores in scored if len(scores.seeds) == 1]
    if single and len(single) < len(scored):
        notes.append(f"One tuning seed only: {', '.join(single)}. Their seeds are taken to vary as the other rows' do.")
    elif single:
        notes.append("Every row has one tuning seed: what is said is about these runs and prompts, and another run of "
                     "the same tuner may lie elsewhere.")  # fmt: skip
    return notes
