"""Votes of one study that were imported in two places become one set: ``bench merge``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.core.record import Record
from bench.store import atomic
from bench.store.merge import merge
from bench.store.runs import find_run
from bench.study.importing import import_votes
from bench.study.merging import merge_votes
from tests.study.test_votes import BASE_WINS, RUN_WINS
from tests.study.world import new_study, read, vote_all, write_ballot


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """One study; A's votes imported where it was made, B's into a copy of the runs, both into a third one."""
    out = new_study(tmp_path, "pairwise", n_prompts=10)
    study, key = read(out, "study"), read(out, "key")
    here, there, both = (Path(key["runs"]), tmp_path / "there", tmp_path / "both")
    (path,) = here.glob("*/*/*/record.json")
    atomic.write_json(path, {**atomic.read_json(path), "artifacts": []})  # a synthetic run has no adapter
    for copy in (there, both):
        shutil.copytree(here, copy)
    files = [write_ballot(out, rater, vote_all(study, key, rater, answer))
             for rater, answer in (("anna", BASE_WINS), ("ben", RUN_WINS))]  # fmt: skip
    import_votes(out, files[:1], here)
    for copy, chosen in ((there, files[1:]), (both, files)):
        other = tmp_path / f"study of {copy.name}"
        shutil.copytree(out, other)
        shutil.rmtree(other / "votes", ignore_errors=True)
        import_votes(other, chosen, copy)
    return here, there, both


def _record(runs: Path) -> Record:
    (path,) = runs.glob("*/*/*/record.json")
    return find_run(runs, path.parent.name).read_record()


def _votes(runs: Path) -> str:
    (path,) = runs.glob("*/*/*/studies/*/votes.jsonl")
    return path.read_text("utf-8")


def test_votes_are_joined_and_the_figures_are_those_of_one_import(places: tuple[Path, Path, Path]) -> None:
    here, there, both = places
    (done,) = merge([there], here, merge_votes)
    assert (done.outcome, done.reason) == ("votes", "votes of 1 more raters")
    assert _record(here) == _record(both)
    assert _votes(here) == _votes(both)
    (again,) = merge([there], here, merge_votes)
    assert again.outcome == "same"


def test_either_way_round_gives_the_same(places: tuple[Path, Path, Path]) -> None:
    here, there, both = places
    merge([here], there, merge_votes)
    assert _record(there) == _record(both)


def test_votes_that_somebody_changed_are_refused(places: tuple[Path, Path, Path]) -> None:
    here, there, both = places
    (path,) = there.glob("*/*/*/studies/*/votes.jsonl")
    path.write_text(_votes(both).replace('"left"', '"tie"'), "utf-8")
    before = _record(here)
    (done,) = merge([there], here, merge_votes)
    assert done.outcome == "refused"  # the record vouches for the votes' digest
    assert _record(here) == before


def test_what_differs_beside_votes_stays_a_conflict(places: tuple[Path, Path, Path]) -> None:
    here, there, _ = places
    (path,) = there.glob("*/*/*/record.json")
    path.write_text(path.read_text("utf-8").replace('"budget:denoiser_u"', '"phases done"'), "utf-8")
    (done,) = merge([there], here, merge_votes)
    assert (done.outcome, "reason" in done.reason) == ("conflict", True)


def test_an_import_after_a_merge_keeps_what_the_merge_brought(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    here, there, both = places
    merge([there], here, merge_votes)
    found: Any = import_votes(tmp_path / "pairwise", [tmp_path / "votes-anna.json"], here)
    assert found.taken == ()
    assert _votes(here) == _votes(both)
