"""Prompts, scores and images beside a record: chosen by rule, checked before use."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from leaderboard import gallery
from leaderboard.categories import by_category
from leaderboard.evidence import Evidence, Side, differences
from leaderboard.gallery import Gallery
from leaderboard.read import read_runs
from tests.leaderboard.factories import Fake


def _evidence(runs: Path) -> Evidence:
    (run,), unreadable = read_runs(runs)
    assert unreadable == []
    return Evidence(run)


def _gallery(evidence: Evidence) -> Gallery:
    tuned, base = Side.tuned(evidence), Side.base(evidence)
    return gallery.choose(tuned, base, differences(tuned, base), {}, "best changes", "worst changes")


def _rewrite(path: Path, change: Any) -> None:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps(change(line)) + "\n" for line in lines), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Fake(fractions=(0.0, 1.0)).write(tmp_path)


def test_the_gallery_is_chosen_by_its_rule(folder: Path, tmp_path: Path) -> None:
    judge = folder / "scores" / "reward_tiny-judge__f100.jsonl"
    rise = {"005": 9.0, "002": 8.0, "011": 7.0, "007": 6.0, "001": -6.0, "014": -7.0, "003": -8.0, "009": -9.0}
    before = folder / "scores" / "reward_tiny-judge__f000.jsonl"
    _rewrite(before, lambda line: {**line, "value": 20.0})
    _rewrite(judge, lambda line: {**line, "value": 20.0 + rise.get(line["prompt_id"], 0.0) + 0.1 * line["seed"]})
    evidence = _evidence(tmp_path)
    first, best, worst = _gallery(evidence).groups
    assert [p.prompt.id for p in first[1]] == [f"{i:03d}" for i in range(8)]
    assert {p.seed for p in first[1]} == {0}
    assert [(p.prompt.id, p.seed) for p in best[1]] == [("005", 1), ("002", 1), ("011", 1), ("007", 1)]
    assert [(p.prompt.id, p.seed) for p in worst[1]] == [("009", 0), ("003", 0), ("014", 0), ("001", 0)]
    assert "reward/tiny-judge" in best[0]
    assert evidence.problems == []


def test_line_order_of_score_files_changes_nothing(folder: Path, tmp_path: Path) -> None:
    def names() -> list[list[tuple[str, int]]]:
        return [[(p.prompt.id, p.seed) for p in pairs] for _, pairs in _gallery(_evidence(tmp_path)).groups]

    straight = names()
    for path in sorted((folder / "scores").glob("*.jsonl")):
        lines = path.read_text("utf-8").splitlines()
        random.Random(1).shuffle(lines)
        path.write_text("\n".join(lines) + "\n", "utf-8")
    assert names() == straight


def test_an_image_that_is_not_the_one_scored_is_named_in_its_place(folder: Path, tmp_path: Path) -> None:
    image = folder / "snapshots" / "f100" / "images" / "00000-0.png"
    image.write_bytes(image.read_bytes() + b"x")
    (folder / "snapshots" / "f000" / "images" / "00001-0.png").unlink()
    index = folder / "snapshots" / "f100" / "images" / "index.jsonl"
    lines = [line for line in index.read_text("utf-8").splitlines() if json.loads(line)["prompt_id"] != "002"]
    index.write_text("\n".join(lines) + "\n", "utf-8")
    evidence = _evidence(tmp_path)
    shown = {item.prompt.id: item for item in _gallery(evidence).groups[0][1]}
    assert list(shown) == [f"{i:03d}" for i in range(8)]
    assert "digest differs" in shown["000"].first.problem
    assert shown["000"].second.picture is not None
    assert shown["001"].second.problem == "the file is not there"
    assert shown["002"].first.problem == "no image in the index"
    assert shown["003"].first.picture is not None
    assert shown["003"].first.problem == ""
    assert any("digest differs" in p for p in evidence.problems)
    assert "prompt 002, noise seed 0: no image in the index" in evidence.problems
    assert not any(str(tmp_path) in p for p in evidence.problems)


def test_large_images_are_shown_reduced_and_say_so(folder: Path, tmp_path: Path) -> None:
    index = folder / "snapshots" / "f100" / "images" / "index.jsonl"
    lines = [json.loads(line) for line in index.read_text("utf-8").splitlines()]
    packed = io.BytesIO()
    Image.new("RGB", (640, 320), (200, 30, 30)).save(packed, "PNG")
    (index.parent / lines[0]["path"]).write_bytes(packed.getvalue())
    lines[0]["sha256"] = hashlib.sha256(packed.getvalue()).hexdigest()
    index.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    shot = _gallery(_evidence(tmp_path)).groups[0][1][0].first
    assert shot.picture is not None
    assert (shot.picture.width, shot.picture.height, shot.picture.full) == (320, 160, (640, 320))
    assert shot.picture.name == f"{lines[0]['sha256'][:20]}-320.jpg"
    with Image.open(io.BytesIO(shot.picture.data)) as image:
        assert image.size == (320, 160)
        red, green, blue = image.convert("RGB").getpixel((100, 100))
    assert (abs(red - 200), abs(green - 30), abs(blue - 30)) <= (4, 4, 4)


def test_no_path_leads_out_of_the_runs_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folder = Fake(fractions=(0.0, 1.0)).write(runs)
    (tmp_path / "secret.png").write_bytes((folder / "snapshots/f100/images/00000-0.png").read_bytes())
    _rewrite(
        folder / "snapshots/f100/images/index.jsonl", lambda line: {**line, "path": "../../../../../../../secret.png"}
    )
    evidence = _evidence(runs)
    assert all(item.first.picture is None for _, items in _gallery(evidence).groups for item in items)
    assert any("leads out" in p for p in evidence.problems)


@pytest.mark.parametrize("line", ["[]", '{"prompt_id": "000"}', '{"prompt_id": "0", "seed": "x", "value": 1}', "{"])
def test_a_damaged_score_file_is_told(folder: Path, tmp_path: Path, line: str) -> None:
    with (folder / "scores" / "reward_tiny-judge__f100.jsonl").open("a", encoding="utf-8") as f:
        f.write(line + "\n")
    evidence = _evidence(tmp_path)
    shown = _gallery(evidence)
    assert shown.judge is None or shown.judge.name != "reward/tiny-judge"
    assert "reward/tiny-judge" not in shown.rule
    assert any("reward_tiny-judge__f100.jsonl" in p for p in evidence.problems)


def test_categories_have_known_answers_and_pair_numbers_are_none(folder: Path, tmp_path: Path) -> None:
    _rewrite(folder / "scores" / "reward_tiny-judge__f000.jsonl", lambda line: {**line, "value": 1.0})
    # category is the place in a cycle of four; prompts of "count" are 001, 005, 009, 013
    _rewrite(
        folder / "scores" / "reward_tiny-judge__f100.jsonl",
        lambda line: {**line, "value": 3.0 if line["prompt_id"] in ("001", "005", "009", "013") else 1.0},
    )
    evidence = _evidence(tmp_path)
    (table,) = by_category(evidence.prompts, differences(Side.tuned(evidence), Side.base(evidence)))
    assert table.tag == "category"
    cells = {name: row["reward/tiny-judge"] for name, _, row in table.rows}
    assert {name: cell.value for name, cell in cells.items()} == {
        "colour": 0.0,
        "count": 2.0,
        "place": 0.0,
        "texture": 0.0,
    }
    assert (cells["count"].low, cells["count"].high, cells["count"].n_prompts) == (2.0, 2.0, 4)


def test_a_record_alone_still_makes_a_page(folder: Path, tmp_path: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name != "record.json":
            path.rmdir() if path.is_dir() else path.unlink()
    evidence = _evidence(tmp_path)
    assert _gallery(evidence).groups == ()
    assert by_category(evidence.prompts, differences(Side.tuned(evidence), Side.base(evidence))) == []
    assert any("prompts.jsonl: the file is not there" in p for p in evidence.problems)
