"""Per-image scores of a board's rows, brought to one layout: the same prompts and noise seeds for every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from bench.core.errors import UserError
from bench.core.ranking import wins
from leaderboard.run import Metric, Run
from leaderboard.table import Row

Key = tuple[str, int]
"""Prompt id and noise seed."""
Table = NDArray[np.float64]
_N_TOLD = 2
"""Rows without scores that are named; the others are counted."""


@dataclass(frozen=True)
class RowScores:
    """One row's scores under each judge, higher is better: (n_seeds, n_images), images in the layout's order."""

    seeds: tuple[int, ...]
    tuned: dict[str, Table]
    base: dict[str, Table]


@dataclass(frozen=True)
class Layout:
    """The images that every row has, sorted by prompt and noise seed."""

    keys: tuple[Key, ...]
    tie_eps: Mapping[str, float]
    """By judge: scores that differ by at most this are a tie; what the judge's identity declares, else nothing."""

    @property
    def n_noise(self) -> float:
        """Images a prompt, on average."""
        return len(self.keys) / self.n_prompts

    @property
    def n_prompts(self) -> int:
        return len(self._starts)

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        prompts = np.array([prompt for prompt, _ in self.keys])
        return np.flatnonzero(np.concatenate([[True], prompts[1:] != prompts[:-1]]))

    def by_prompt(self, images: Table) -> Table:
        """Means over the images of each prompt: (..., n_images) → (..., n_prompts)."""
        starts = self._starts
        counts = np.diff(np.append(starts, len(self.keys)))
        return np.asarray(np.add.reduceat(images, starts, axis=-1) / counts, dtype=np.float64)

    def wins(self, a: Mapping[str, Table], b: Mapping[str, Table]) -> Table:
        """How often a is above b, (n_seeds, n_prompts): the mean over judges and noise seeds, ties counting half."""
        found = [self.by_prompt(wins(a[judge], b[judge], tie_eps=self.tie_eps[judge])) for judge in a]
        return np.asarray(np.mean(found, axis=0), dtype=np.float64)


def score_files(rows: Sequence[Row], judges: Sequence[str]) -> list[Path]:
    """Every file that ``load`` would read and that is there by its record."""
    found = []
    for run in (run for row in rows for run in row.runs):
        for snapshot in (run.base, run.final):
            entries = run.entries(snapshot)
            for judge in judges:
                entry = entries.get(f"reward/{judge}")
                if entry is not None and entry.scores is not None:
                    found.append(run.folder / entry.scores)
    return found


def load(rows: Sequence[Row], judges: Sequence[str]) -> tuple[list[RowScores | None], Layout | None, list[str]]:
    """Reads the score files of ``rows`` under ``judges``.

    Returns:
        The rows' scores, None where a file is missing or damaged; the layout, None where no row has scores; and what is
        wrong, in sentences.
    """
    read: list[list[dict[str, tuple[dict[Key, float], dict[Key, float]]]] | None] = []
    problems: list[str] = []
    tie_eps = dict.fromkeys(judges, 0.0)
    for row in rows:
        try:
            read.append([{judge: _both(run, judge, tie_eps) for judge in judges} for run in row.runs])
        except UserError as err:
            problems.append(f"{row.runs[0].tuner}: {err.problem}")
            read.append(None)
    if len(problems) > _N_TOLD:
        problems[_N_TOLD:] = [f"and {len(problems) - _N_TOLD} more rows that cannot be compared"]
    tables = [
        t for found in read if found is not None for by_judge in found for both in by_judge.values() for t in both
    ]
    if not tables:
        return [None for _ in rows], None, problems
    common = set(tables[0]).intersection(*tables[1:])
    if not common:
        return [None for _ in rows], None, [*problems, "the rows share no image: nothing can be compared"]
    lost = max(len(t) for t in tables) - len(common)
    if lost:
        problems.append(f"{lost} images are left out of the comparisons because some row lacks them")
    keys = tuple(sorted(common))

    def table(found: list[dict[str, tuple[dict[Key, float], dict[Key, float]]]], judge: str, which: int) -> Table:
        return np.array([[by_judge[judge][which][key] for key in keys] for by_judge in found])

    scores = [
        None if found is None else RowScores(
            seeds=tuple(run.seed for run in row.runs),
            tuned={judge: table(found, judge, 1) for judge in judges},
            base={judge: table(found, judge, 0) for judge in judges},
        )
        for row, found in zip(rows, read, strict=True)
    ]  # fmt: skip
    return scores, Layout(keys, tie_eps), problems


def _both(run: Run, judge: str, tie_eps: dict[str, float]) -> tuple[dict[Key, float], dict[Key, float]]:
    """A judge's scores of the base's and the tuned images, turned so that higher is better."""
    entries = [run.entries(snapshot).get(f"reward/{judge}") for snapshot in (run.base, run.final)]
    for entry in entries:
        declared = entry.passport.get("reward", {}).get("tie_eps", 0.0) if entry is not None else 0.0
        tie_eps[judge] = max(tie_eps[judge], float(declared))
    base, tuned = (read_scores(run, entry, f"reward/{judge}") for entry in entries)
    return base, tuned


def read_scores(run: Run, entry: Metric | None, name: str) -> dict[Key, float]:
    """Per-image values by prompt and noise seed; a value that is missing there is left out.

    Raises:
        UserError: no such scores, or a damaged file.
    """
    if entry is None or entry.scores is None:
        raise UserError(f"run {run.run_id} has no per-image scores of {name}")
    try:
        lines = run.inside(entry.scores).read_bytes().split(b"\n")
        rows = pydantic_core.from_json(b"[" + b",".join(line for line in lines if line) + b"]", cache_strings="all")
        sign = 1.0 if entry.higher_is_better else -1.0
        return {(str(r["prompt_id"]), int(r["seed"])): sign * float(r["value"]) for r in rows if r["value"] is not None}
    except FileNotFoundError as err:
        raise UserError(f"run {run.run_id}: {entry.scores} is not there") from err
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f"run {run.run_id}: {entry.scores} is damaged ({err})") from err
