"""The built site: the same bytes for the same records, whole or not at all, and nothing that reaches out."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.core.errors import UserError
from leaderboard import writing
from leaderboard.site import build
from tests.leaderboard.factories import PROMPTS, Fake

HOSTILE = "</figcaption><script>alert(1)</script><img src=x onerror=alert(2)> \" onload='x' {{ 7 * 7 }} \u202e"


class Page(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _rows(index: Path, body: str) -> list[str]:
    """The text of every row of the first table's ``body``."""
    found = re.search(rf'<tbody class="{body}">(.*?)</tbody>', index.read_text("utf-8"), re.DOTALL)
    assert found
    return [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)) for row in found[1].split("</tr>")[:-1]]


def test_same_records_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        Fake(fractions=(0.0, 0.5, 1.0)).write(tmp_path / name)
        Fake(tuner="refl", fractions=(0.0, 1.0)).write(tmp_path / name)
    first = build(tmp_path / "one")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    second = build(tmp_path / "two", tmp_path / "elsewhere" / "site")
    assert _bytes(first.parent) == _bytes(second.parent)


def test_nothing_reaches_out_and_every_link_leads_somewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert [sum(p.parent.name == kind for p in pages) for kind in ("runs", "compare")] == [9, 4]
    for page in pages:
        text = page.read_text("utf-8")
        assert not re.search(r"https?:|//[a-z]|@import|url\(", text.split("<body>")[0].split("</style>")[0])
        assert "http://" not in text
        assert "https://" not in text
        for tag, attrs in Page(page).tags:
            target = attrs.get("href") or attrs.get("src")
            if target and not target.startswith("data:"):
                path, _, anchor = target.partition("#")
                assert not path or (page.parent / path).resolve().is_relative_to(site.resolve()), (page, tag, target)
                assert not path or (page.parent / path).is_file(), (page, tag, target)
                assert not anchor or f'id="{anchor}"' in text, (page, target)
            assert not any(name.startswith("on") for name in attrs), (page, tag, attrs)


def test_pictures_are_copied_png_with_words_for_them(site: Path) -> None:
    images = sorted((site / "images").iterdir())
    assert images
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in images)
    pictured = [img for page in sorted((site / "runs").glob("*.html")) for img in Page(page).all("img")]
    assert pictured
    assert all(img["alt"] and img["width"] == "64" for img in pictured)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    prompts = [(HOSTILE, "<b>category</b>"), *PROMPTS, *PROMPTS, *((HOSTILE, "<b>category</b>") for _ in range(3))]
    fake = Fake(tuner="<i>tuner", reward='<a href="x">', settings={"<u>": HOSTILE}, prompts=prompts,
                judge_roles={'<s onload="x">': "held-out", "tiny-pick": "trained-on"}, fractions=(0.0, 0.5, 1.0),
                unranked_reason=HOSTILE, error={"type": "E", "message": HOSTILE, "tail": HOSTILE})  # fmt: skip
    fake.write(tmp_path)
    Fake(tuner="<i>second", fractions=(0.0, 1.0), judge_roles=fake.judge_roles).write(tmp_path)
    index = build(tmp_path)
    for path in (index, index.parent / "runs" / f"{fake.run_id}.html"):
        page = Page(path)
        run = [a for a in page.all("script") if a.get("type") != "application/json"]
        assert len(run) == 3  # the site's, the charts', and the filter's or the gallery's
        assert page.all("b") == page.all("u") == page.all("s") == page.all("i") == []
        assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
        assert not [a for a in page.all("img") if a["src"] == "x"]
        assert not [a for a in page.all("a") if a.get("href") == "x"]
        assert "alert(1)" in page.text or path == index


def test_the_board_says_what_it_must(site: Path) -> None:
    index = site / "index.html"
    page = Page(index)
    text = re.sub(r"\s+", " ", page.text)
    assert "Embedded tiny world: not comparable with published figures" in text
    rows = _rows(index, "rows")
    assert ["drtune" in rows[0], "refl" in rows[1], "draft-lv" in rows[2]] == [True] * 3
    assert "67.0 60.9–73.1" in rows[0]
    assert "≈ not separable from the first" in rows[1]
    assert "K = 2, lr = 0.0003" in rows[1]
    assert "does not clear 50 %" in rows[2]
    assert "2.5 % over the limit" in rows[2]
    ended = _rows(index, "ended")
    assert "could not allocate 2.1 GiB" in ended[0]
    assert "loss is not finite at step 31" in ended[1]
    assert index.read_text("utf-8").index('class="ended"') > index.read_text("utf-8").index('class="reference"')
    assert "limited to the first 64 of 1,632 prompts" in text
    assert "coco-sample@1/refl/0badc0de/record.json" in text
    trained = [a for a in page.all("th") if "is-trained-on" in (a.get("class") or "")]
    assert trained
    assert not any("aria-sort" in a for a in trained)
    assert len(list((site / "data").glob("coco-sample*.figures.csv"))) == 1


def test_the_run_page_says_what_it_must(site: Path) -> None:
    page = Page(site / "runs" / f"{Fake().run_id}.html")
    text = re.sub(r"\s+", " ", page.text)
    for words in (
        "drtune on coco-sample@1", "better", "trained on", "+0.0040 +0.0019 to +0.0061", "no interval",
        "Over the budget", "Nothing is chosen by hand", "TIFA tiny-vqa accuracy by kind", "by category", "297",
        "interrupted: SIGTERM",
        "python -m bench run --suite coco --tuner drtune --seed 0", "torch 2.13.0", "4a46afb0c1 (clean)", "resize",
    ):  # fmt: skip
        assert words in text, words
    assert "by pair" not in text
    assert sum(svg["viewbox"] == "0 0 320 190" for svg in page.all("svg")) == 8
    # the gap in two, quality along the budget in four, what the tuner logged in two
    for title in ("Trained-on and held-out", "The gap", "Win rate against the base", "reward/tiny-pick", "grad_norm"):
        assert title in text, title
    changed = Page(site / "runs" / f"{Fake(tuner='refl', settings={'K': 2, 'lr': 3e-4}).run_id}.html")
    assert sum("changed" in (a.get("class") or "") for a in changed.all("div")) == 2


def test_an_interrupted_build_leaves_the_old_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(fractions=(0.0,)).write(tmp_path)
    index = build(tmp_path)
    before = _bytes(index.parent)

    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    Fake(tuner="refl", fractions=(0.0,)).write(tmp_path)
    monkeypatch.setattr(writing, "put_all", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    assert _bytes(index.parent) == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tmp-")] == []


def test_leftovers_of_a_killed_build_go(tmp_path: Path) -> None:
    left = tmp_path / ".tmp-abc"
    left.mkdir()
    (left / "made-by-tunebench.txt").touch()
    other = tmp_path / ".tmp-other"
    other.mkdir()
    build(tmp_path)
    assert not left.exists()
    assert other.exists()


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("x", "utf-8")
    with pytest.raises(UserError, match="is no leaderboard"):
        build(tmp_path / "runs", tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").is_file()


def test_no_runs_make_a_page_that_says_how_to_start(tmp_path: Path) -> None:
    assert "python -m bench run" in build(tmp_path / "runs").read_text("utf-8")


def test_a_second_build_makes_only_what_changed_and_the_same_bytes(tmp_path: Path) -> None:
    kept, scored = Fake(suite="parti-sample@1", fractions=(0.0, 1.0)), Fake(tuner="refl", fractions=(0.0, 1.0))
    folders = [fake.write(tmp_path) for fake in (kept, scored)]
    index = build(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in index.parent.rglob("*.*")}
    (folders[1] / "prompts.jsonl").unlink()  # beside the record, and on its page
    Fake(tuner="draft", fractions=(0.0, 1.0)).write(tmp_path)
    build(tmp_path)
    again = {p: p.stat().st_mtime_ns for p in index.parent.rglob("*.*")}
    runs = index.parent / "runs"
    assert again[runs / f"{kept.run_id}.html"] == times[runs / f"{kept.run_id}.html"]
    assert again[runs / f"{scored.run_id}.html"] > times[runs / f"{scored.run_id}.html"]
    assert again[index] > times[index]
    assert _bytes(index.parent) == _bytes(build(tmp_path, tmp_path / "full").parent)


def test_a_page_that_somebody_edited_is_made_again(tmp_path: Path) -> None:
    Fake(fractions=(0.0, 1.0)).write(tmp_path)
    index = build(tmp_path)
    before = _bytes(index.parent)
    index.write_text("mine", "utf-8")
    next((index.parent / "images").iterdir()).unlink()
    build(tmp_path)
    assert _bytes(index.parent) == before


@pytest.mark.parametrize("damage", ["", "{", '{"pages": {}}'])
def test_a_damaged_memory_of_the_previous_build_costs_a_full_one(tmp_path: Path, damage: str) -> None:
    Fake(fractions=(0.0, 1.0)).write(tmp_path)
    before = _bytes(build(tmp_path).parent)
    for memory in (tmp_path / ".cache" / "leaderboard").glob("site-*.json"):
        memory.write_text(damage, "utf-8")
    assert _bytes(build(tmp_path).parent) == before
