"""The page of a study says what the tally says, and nothing that a page may not."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from bench.study.importing import Imported, import_votes
from leaderboard.page import Site
from leaderboard.read import read_runs
from leaderboard.study_page import INDEX, pages
from tests.study.world import attentive, new_study, read, vote_all, write_ballot


def made(runs: Path) -> dict[str, str]:
    found, unreadable = read_runs(runs)
    site = Site((runs,), tuple(found), (), tuple(unreadable))
    return {page.path: page.render()[0] for page in pages(site)}


def text_of(page: str) -> str:
    body = page.partition('<main id="main"')[2].partition("</main>")[0]
    return " ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", body, flags=re.DOTALL).split())


def voted(root: Path, kind: str, **wanted: Any) -> tuple[Path, Imported]:
    out = new_study(root, kind, n_prompts=8, **wanted)
    study, key = read(out, "study"), read(out, "key")
    strength = {c["name"]: 1.0 + i for i, c in enumerate(key["contestants"])}
    files = [
        write_ballot(out, f"r{k}", vote_all(study, key, f"r{k}", attentive(kind, random.Random(k), strength)))
        for k in range(3)
    ]
    return out, import_votes(out, files)


@pytest.mark.parametrize("kind", ["pairwise", "rank", "scale"])
def test_the_page_says_what_the_tally_says(tmp_path: Path, kind: str) -> None:
    out, found = voted(tmp_path, kind)
    study = read(out, "study")
    site = made(tmp_path / "runs")
    assert set(site) == {INDEX, f"studies/{study['id']}.html"}
    assert study["id"] in site[INDEX]
    text = text_of(site[f"studies/{study['id']}.html"])
    assert "3 raters count" in text
    for question in study["questions"]:
        assert question["text"] in text
    for m in found.tally.meetings:
        if m.a == "base":  # the page says it of the run
            assert f"{m.rate.losses} / {m.rate.ties} / {m.rate.wins}" in text
    for p in found.tally.places:
        if p.name != "base":
            assert f"{p.rank.value:.2f}" in text
    assert study["attention_rule"] in text.replace("&#39;", "'")


def test_the_same_records_give_the_same_bytes_and_no_address(tmp_path: Path) -> None:
    voted(tmp_path, "pairwise")
    first, second = made(tmp_path / "runs"), made(tmp_path / "runs")
    assert first == second
    for page in first.values():
        outside = re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/[^"]*"', "", page)
        assert not re.search(r"https?://", outside)


def test_records_without_votes_have_an_empty_list(tmp_path: Path) -> None:
    new_study(tmp_path, "pairwise")
    assert "No votes of people" in made(tmp_path / "runs")[INDEX]


def test_a_study_whose_files_are_gone_is_still_shown_with_a_word(tmp_path: Path) -> None:
    out, _ = voted(tmp_path, "pairwise")
    study = read(out, "study")
    for path in (tmp_path / "runs").glob(f"*/*/*/studies/{study['id']}/*.json"):
        path.unlink()
    text = text_of(made(tmp_path / "runs")[f"studies/{study['id']}.html"])
    assert "Could not be shown" in text
    assert "Human win rate" in text
