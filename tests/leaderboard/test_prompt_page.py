"""One prompt, all tuners: chosen by rule, the right image and score in the right place, what is missing named."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bench.store import atomic
from leaderboard import prompt_page
from leaderboard.read import read_runs
from leaderboard.site import build
from leaderboard.table import boards
from tests.leaderboard.factories import Fake

ENDS = (0.0, 1.0)


def _chosen(runs: Path) -> prompt_page.Chosen:
    (board,) = boards(read_runs(runs)[0])
    found = prompt_page.choose(board)
    assert found is not None
    return found


def _lift(folder: Path, lifts: dict[str, float]) -> None:
    path = folder / "scores" / "reward_tiny-judge__f100.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    atomic.write_jsonl(path, [{**line, "value": 20.0 + lifts.get(line["prompt_id"], 0.0)} for line in lines])


def _text(path: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", path.read_text("utf-8").partition("<body>")[2]))


def test_prompts_are_the_first_and_the_most_disputed(tmp_path: Path) -> None:
    prompts = [(f"prompt {i}", "c") for i in range(30)]
    folders = [Fake(tuner=name, prompts=prompts, fractions=ENDS).write(tmp_path) for name in ("a", "b", "c")]
    apart = {f"{i:03d}": float(i) for i in (11, 13, 17, 19, 23, 25, 27, 29)}
    for folder, sign in zip(folders, (1.0, 0.0, -1.0), strict=True):
        _lift(folder, {p: sign * v for p, v in apart.items()})
    chosen = _chosen(tmp_path)
    assert [p.id for p, _ in chosen.prompts] == [f"{i:03d}" for i in range(8)] + sorted(apart, reverse=True)
    assert "under reward/tiny-judge" in chosen.rule
    assert "30 prompts" in chosen.rule


def test_rows_left_out_are_told(tmp_path: Path) -> None:
    for i in range(14):
        Fake(tuner=f"t{i:02d}", held_out=0.9 - 0.02 * i, fractions=ENDS, n_seeds=1).write(tmp_path)
    chosen = _chosen(tmp_path)
    assert [r.tuner for r in chosen.runs] == [f"t{i:02d}" for i in range(12)]
    assert "the first 12 of the board's 14 rows" in chosen.rule


def test_every_image_stands_with_its_own_scores(tmp_path: Path) -> None:
    fakes = [Fake(tuner=name, fractions=ENDS) for name in ("drtune", "refl")]
    folders = [fake.write(tmp_path) for fake in fakes]
    questions = [{"prompt_id": p, "kind": "count", "question": f"how many in {p}?", "answer": "two", "choices": []}
                 for p in ("000", "001")]  # fmt: skip
    for folder in folders:
        atomic.write_jsonl(folder / "questions.jsonl", questions)
    _lift(folders[0], {"001": 5.25})
    _lift(folders[1], {"001": -3.5})
    site = build(tmp_path).parent
    (page,) = site.glob("prompts/*/p-001.html")
    html, text = page.read_text("utf-8"), _text(page)
    assert "how many in 001?" in text
    assert "how many in 000?" not in text
    drtune, refl = text.index("25.25"), text.index("16.5")
    assert text.index("Scores of drtune at 100 %") < drtune < text.index("Scores of refl at 100 %") < refl
    index = [json.loads(line) for line in (folders[1] / "snapshots/f100/images/index.jsonl").read_text().splitlines()]
    sha = next(line["sha256"] for line in index if line["prompt_id"] == "001" and line["seed"] == 0)
    assert f"images/{sha[:20]}.png" in html
    assert (site / "images" / f"{sha[:20]}.png").is_file()


def test_missing_images_and_snapshots_are_named(tmp_path: Path) -> None:
    folder = Fake(tuner="drtune", fractions=ENDS).write(tmp_path)
    Fake(tuner="refl", fractions=(0.0, 0.5, 1.0)).write(tmp_path)
    (folder / "snapshots" / "f100" / "images" / "00000-0.png").unlink()
    site = build(tmp_path).parent
    (page,) = site.glob("prompts/*/p-000.html")
    text = _text(page)
    assert "no image the file is not there" in text
    assert "no snapshot at 50 %" in text
    assert "no image in the index" in text  # refl's half-way snapshot has no images


def test_hostile_prompts_and_ids_stay_text(tmp_path: Path) -> None:
    hostile = '"><img src=x onerror=alert(1)></style><script>alert(1)</script>'
    folder = Fake(fractions=ENDS, prompts=[(hostile, "c")] * 4).write(tmp_path)
    for path in [*folder.rglob("*.jsonl")]:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for line in lines:
            key = "id" if "id" in line else "prompt_id"
            line[key] = f"../../{hostile}" if line[key] == "000" else line[key]
        atomic.write_jsonl(path, lines)
    site = build(tmp_path).parent
    pages = sorted(site.glob("prompts/*/p-*.html"))
    assert len(pages) == 4
    for page in pages:
        html = page.read_text("utf-8")
        assert "onerror=alert(1)>" not in html
        assert html.count("<script>") == 2
        assert re.fullmatch(r"p-[A-Za-z0-9_.-]+\.html", page.name)
    assert sum("no image" in _text(page) for page in pages) == 0
