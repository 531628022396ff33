"""The statistics as a part of a page: what it says, what it escapes, what it leaves out."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from leaderboard.board_view import board_chart
from leaderboard.budget_curves import CurvePoint, Hacking, Span, profiles
from leaderboard.compare_page import pairs_of
from leaderboard.read import read_runs
from leaderboard.statistics import board_facts
from leaderboard.statistics_html import board_statistics_html, hacking_text, places_text, profiles_html
from leaderboard.table import boards
from tests.leaderboard.factories import Fake
from tests.leaderboard.test_statistics import shift


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("br", "meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html_of(runs: Path) -> str:
    (board,) = boards(read_runs(runs)[0])
    return str(board_statistics_html(board, board_facts(board, None), "../"))


@pytest.mark.parametrize(("place", "text"), [(None, "–"), ((2, 2), "2"), ((1, 3), "1–3")])
def test_places(place: tuple[int, int] | None, text: str) -> None:
    assert places_text(place) == text


def test_everything_is_said(tmp_path: Path) -> None:
    for seed in range(2):
        shift(Fake(seed=seed).write(tmp_path), 4.0)
        Fake(tuner="refl", seed=seed, trained=0.93, held_out=0.4).write(tmp_path)
        Fake(tuner="draft", seed=seed, held_out=0.5).write(tmp_path)
    text = html_of(tmp_path)
    tags = _Tags(text)
    assert tags.open == []
    assert tags.seen.count("table") == 2
    assert tags.seen.count("svg") >= 2
    assert "100 ▲" in text  # drtune beats every other on every prompt
    assert "yes: held-out down" in text
    assert "refl · draft" in text or "draft · refl" in text
    assert "Holm" in text
    assert "itself with another tuning seed" in text
    assert 'href="../runs/' in text
    assert not re.search(r"https?://", text)
    assert "None" not in text
    assert "nan" not in text.replace("dominant", "")


def test_a_pair_that_is_grey_has_no_mark_and_no_place_of_its_own(tmp_path: Path) -> None:
    for folder, won in ((Fake(held_out=0.7).write(tmp_path), 6), (Fake(tuner="refl", held_out=0.6).write(tmp_path), 0)):
        path = folder / "scores" / "reward_tiny-judge__f100.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**r, "value": 90.0 + (int(r["prompt_id"]) < won)}) + "\n" for r in rows))
    text = html_of(tmp_path)
    ((kind, figure),) = re.findall(r'class="num pair ([^"]*)" title="drtune over refl: [^"]*below the noise floor">'
                                   r'<span class="figure">([^<]*)<', text)  # fmt: skip
    assert (kind, figure) == ("noise", "69")
    assert "drtune · refl" in text
    assert re.findall(r'<td class="num" data-v="\d">([^<]*)</td>\s*<th', text) == ["1–2", "1–2"]


def test_rows_that_nothing_tells_apart_have_no_numbers_that_look_like_places(tmp_path: Path) -> None:
    for name, rate in (("drtune", 0.6), ("refl", 0.59)):
        Fake(tuner=name, held_out=rate, fractions=(0.0, 1.0)).write(tmp_path)
    (board,) = boards(read_runs(tmp_path)[0])
    facts = board_facts(board, None)
    assert list(facts.places.values()) == [(1, 2), (1, 2)]
    text = html_of(tmp_path)
    assert re.findall(r'<abbr title="(.*?)">(.*?)</abbr>', text) == [
        ("drtune", "A"), ("refl", "B"), ("base model (tiny-sd)", "base"),
    ]  # fmt: skip
    assert re.findall(r'<span class="place">(.*?)</span> (.*?)</th>', text) == [("A", "drtune"), ("B", "refl")]
    assert re.findall(r">(\d\.? (?:drtune|refl))<", text + str(board_chart(board, facts))) == []
    (pair,) = pairs_of(board)
    assert not re.search(r"\d", pair.why)


def test_a_name_is_hostile_text(tmp_path: Path) -> None:
    Fake(tuner="<b onclick=alert(1)>evil").write(tmp_path)
    Fake(tuner="refl").write(tmp_path)
    text = html_of(tmp_path)
    assert "<b onclick" not in text
    assert "&lt;b onclick=alert(1)&gt;evil" in text


def test_one_row_alone_is_compared_with_the_base_only(tmp_path: Path) -> None:
    Fake().write(tmp_path)
    text = html_of(tmp_path)
    assert "Row beats column" in text
    assert "Bradley-Terry strength</figcaption>" not in text
    assert _Tags(text).open == []


def test_no_scores_no_matrix(tmp_path: Path) -> None:
    for path in (Fake().write(tmp_path) / "scores").iterdir():
        path.unlink()
    text = html_of(tmp_path)
    assert "Row beats column" not in text
    assert "is not there" in text
    assert _Tags(text).open == []


def test_profiles_over_suites(tmp_path: Path) -> None:
    """fast reaches 60 % on both suites, slow on one at more of its budget, absent has no run on the second."""
    for suite in ("coco-sample@1", "parti-sample@1"):
        Fake(tuner="fast", suite=suite, held_out=0.9).write(tmp_path)
        Fake(tuner="slow", suite=suite, held_out=0.7 if suite.startswith("coco") else 0.55).write(tmp_path)
    Fake(tuner="absent", held_out=0.9).write(tmp_path)
    made = boards(read_runs(tmp_path)[0])
    facts = {board.key: board_facts(board, None) for board in made}
    (found,) = profiles(made, {key: f.anytime for key, f in facts.items()})
    by_name = {row.name.split()[0]: row for row in found.rows}
    assert [row.name.split()[0] for row in found.rows] == ["fast", "absent", "slow"]
    assert by_name["fast"].score == 1.0
    assert by_name["absent"].score == 0.5
    assert by_name["absent"].runs == (True, False)
    assert by_name["slow"].times[1] is None
    text = str(profiles_html(made, facts))
    assert "not reached" in text
    assert "no run" in text
    assert _Tags(text).open == []
    assert str(profiles_html(made[:1], facts)).strip() == ""


def test_profiles_in_device_seconds_are_of_one_kind_of_hardware(tmp_path: Path) -> None:
    """Two suites on two kinds of GPU are two tables of two suites, not one of four."""
    kinds = ("NVIDIA A100", "NVIDIA H200")
    for i, suite in enumerate(("hpsv2-full@1", "parti-full@1")):
        for k, hardware in enumerate(kinds):
            Fake(suite=suite, seed=2 * i + k, primary="device_s", limit_u=28_800.0, hardware=hardware).write(tmp_path)
    made = boards(read_runs(tmp_path)[0])
    facts = {board.key: board_facts(board, None) for board in made}
    found = profiles(made, {key: f.anytime for key, f in facts.items()})
    assert [(p.device_class, len(p.suites)) for p in found] == [(kind, 2) for kind in kinds]
    text = str(profiles_html(made, facts))
    assert all(f"Over the suites of tiny-sd on {kind}, full edition" in text for kind in kinds)


@pytest.mark.parametrize(
    ("flag", "trained", "held_out", "said"),
    [
        ("down", (0.6, 0.55, 0.65), (0.4, 0.35, 0.45), "tree 60 %, held-out 40 %"),
        ("", (0.58, 0.47, 0.68), (0.37, 0.27, 0.47), "worse than the base; no flag, since the trained-on interval"),
        ("", (0.52, 0.51, 0.53), (0.47, 0.3, 0.49), "worse than the base; no flag, since the gap's interval"),
        ("", (0.7, 0.6, 0.8), (0.6, 0.55, 0.65), "no sign: tree 70 %, held-out 60 %"),
    ],
)
def test_a_reading_never_says_more_or_less_than_the_intervals(
    flag: str, trained: tuple[float, ...], held_out: tuple[float, ...], said: str
) -> None:
    ends = [Span(value=value, low=low, high=high) for value, low, high in (trained, held_out)]
    point = CurvePoint(fraction=1.0, trained=ends[0], held_out=ends[1])
    found = Hacking(flag=flag, trained_on=("tree",), gap=None, paired=False, peak=None, curve=(point,))
    word, why = hacking_text(found)
    assert bool(word) == bool(flag)
    assert why.startswith(said)
