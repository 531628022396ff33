"""The design: balanced, blinded, and the same in every program that computes it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.core.errors import UserError
from bench.study.ballot import assigned, draw
from bench.study.contestants import choose, gather, png, scrambled
from bench.study.design import SCRAMBLED, Item, Trial, pairs_of, variants
from bench.study.form import BASE, Kind
from bench.study.making import Wanted, make
from tests.study.world import new_study, read, write_run

NAMES = ("base", "aa", "bb", "cc")


def design(kind: Kind, n_names: int, n_items: int, secret: str = "s", checks: int = 3, repeats: int = 2) -> Any:
    items = [Item(f"p{i}", i % 2) for i in range(n_items)]
    n_repeats = 0 if kind == "rank" else repeats
    return variants(kind, NAMES[:n_names], items, secret, n_checks=checks, n_repeats=n_repeats)


def votes(trials: list[Trial]) -> list[Trial]:
    return [t for t in trials if t.role == "vote"]


@pytest.mark.parametrize("kind", ["pairwise", "scale"])
@pytest.mark.parametrize("n_names", [2, 3, 4])
@pytest.mark.parametrize("n_items", [2, 7, 20, 101])
def test_each_side_equally_often_to_within_one_for_every_rater(kind: Kind, n_names: int, n_items: int) -> None:
    lists = design(kind, n_names, n_items)
    pairs = [frozenset(p) for p in pairs_of(kind, NAMES[:n_names])]
    assert len(lists) == 2 * len(pairs)
    for trials in lists:
        sides = Counter(t.shown for t in votes(trials))
        assert sum(sides.values()) == n_items
        per_pair = Counter(frozenset(t.shown) for t in votes(trials))
        assert set(per_pair) <= set(pairs)
        assert max(per_pair.values()) - min(per_pair[p] for p in pairs) <= 1
        for pair in per_pair:
            a, b = sorted(pair)
            assert abs(sides[a, b] - sides[b, a]) <= 1
        checks = [t.shown[0].startswith(SCRAMBLED) for t in trials if t.role == "check"]
        assert abs(2 * sum(checks) - len(checks)) <= 1
    everywhere = Counter((t.prompt_id, t.shown) for trials in lists for t in votes(trials))
    assert set(everywhere.values()) == {1}, "over the variants every prompt shows every pair both ways, once"
    assert len(everywhere) == n_items * 2 * len(pairs)


@pytest.mark.parametrize(("n_names", "n_items"), [(2, 5), (3, 9), (3, 10), (4, 30)])
def test_everybody_stands_in_every_place_equally_often(n_names: int, n_items: int) -> None:
    for trials in design("rank", n_names, n_items):
        places = Counter((name, i) for t in votes(trials) for i, name in enumerate(t.shown))
        counts = [places[name, i] for name in NAMES[:n_names] for i in range(n_names)]
        assert max(counts) - min(counts) <= 1
        assert all(sorted(t.shown) == sorted(NAMES[:n_names]) for t in votes(trials))


def test_a_repeat_is_an_earlier_pair_with_sides_swapped() -> None:
    for trials in design("pairwise", 3, 20, repeats=5):
        shown = {(t.prompt_id, t.shown) for t in votes(trials)}
        repeats = [t for t in trials if t.role == "repeat"]
        assert len(repeats) == 5
        assert all((t.prompt_id, t.shown[::-1]) in shown for t in repeats)


def test_in_a_scale_study_everybody_meets_the_base_and_else_the_first() -> None:
    assert pairs_of("scale", ("aa", BASE, "bb")) == [(BASE, "aa"), (BASE, "bb")]
    assert pairs_of("scale", ("aa", "bb", "cc")) == [("aa", "bb"), ("aa", "cc")]


def test_the_design_is_a_function_of_its_secret() -> None:
    assert design("pairwise", 3, 20) == design("pairwise", 3, 20)
    assert design("pairwise", 3, 20, "other") != design("pairwise", 3, 20)


def test_neither_position_in_the_list_nor_the_id_tells_the_side() -> None:
    """Over many studies the side is no more frequent at even places or after small ids."""
    even, n = 0, 0
    for k in range(60):
        for i, trial in enumerate(votes(design("pairwise", 2, 40, f"secret {k}")[0])):
            even += (trial.shown[0] == BASE) == (i % 2 == 0)
            n += 1
    assert abs(even / n - 0.5) < 0.03  # 2400 draws: three standard errors


def _told(secret: str, text: str) -> bool:
    """Whether it stands there as a word: ids of trials and images are random digits, in which ``f000`` may occur."""
    before = "(?<![0-9A-Za-z])" if secret[0].isalnum() else ""
    after = "(?![0-9A-Za-z])" if secret[-1].isalnum() else ""
    return re.search(before + re.escape(secret) + after, text) is not None


@pytest.mark.parametrize("kind", ["pairwise", "rank", "scale"])
def test_the_page_and_what_lies_beside_it_tell_nothing_of_who_is_who(tmp_path: Path, kind: str) -> None:
    out = new_study(tmp_path, kind)
    key = read(out, "key")
    secrets = [key["secret"], *(c["name"] for c in key["contestants"] if c["name"] != BASE),
               *(c["label"] for c in key["contestants"]), *(c["content_hash"] for c in key["contestants"]),
               str(tmp_path), "f000", "f100", "scrambled:", '"check"', '"repeat"', '"role"']  # fmt: skip
    for name in ("page.html", "study.json"):
        text = (out / name).read_text("utf-8")
        assert [s for s in secrets if _told(s, text)] == []
    assert all(_told(s, f'x "{s}",') and _told(s, f"snapshots/{s}/images") for s in secrets)
    assert _told("scrambled:", "scrambled:base")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(|@import""", (out / "page.html").read_text("utf-8"))
    assert (out / "key.json").stat().st_mode & 0o077 == 0
    for path in (out / "images").iterdir():
        with Image.open(path) as image:
            assert image.info == {}
    study = read(out, "study")
    for trials in study["variants"]:
        assert [t["id"] for t in trials] == sorted(t["id"] for t in trials)
        assert {frozenset(t) for t in trials} == {frozenset({"id", "prompt", "images"})}


def test_what_an_image_file_says_of_its_origin_stays_behind(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "made by drtune")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png", pnginfo=info)
    with Image.open(tmp_path / "a.png") as image:
        assert b"drtune" not in png(np.asarray(image))


def test_a_scrambled_image_keeps_its_size_and_is_not_the_image() -> None:
    image = np.zeros((64, 48, 3), dtype=np.uint8)
    image[10:30, 5:20] = (255, 0, 0)
    bad = scrambled(image, 7)
    assert bad.shape == image.shape
    assert (bad == scrambled(image, 7)).all()
    assert np.abs(bad.astype(int) - image).mean() > 100


def test_raters_see_every_trial_of_one_variant_once_in_their_own_order(tmp_path: Path) -> None:
    study = read(new_study(tmp_path, "pairwise", n_prompts=16), "study")
    orders = {}
    for rater in ("anna", "ben", "carla", "dora", "emil"):
        trials = assigned(study, rater)
        assert any(sorted(trials, key=lambda t: t["id"]) == v for v in study["variants"])
        orders[rater] = tuple(t["id"] for t in trials)
        assert assigned(study, rater) == trials
    assert len(set(orders.values())) == 5


def test_orders_are_even_over_raters() -> None:
    """Each trial comes first about equally often: 600 raters, 8 trials."""
    study = {"id": "x", "variants": [[{"id": str(i)} for i in range(8)]]}
    first = Counter(assigned(study, f"r{k}")[0]["id"] for k in range(600))
    chi2 = sum((first[str(i)] - 75) ** 2 / 75 for i in range(8))
    assert chi2 < 24.3  # 99.9 % of chi-squared with 7 degrees of freedom
    assert draw("x", "r0", 0) == draw("x", "r0", 0) < 2**32


def test_prompts_are_chosen_by_a_rule_that_looks_at_no_image(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    a, b = write_run(runs, "refl"), write_run(runs, "draft-lv")
    first = choose(gather(["base", a], runs), 5, 3)
    assert choose(gather([a, b], runs), 5, 3) == first
    assert choose(gather([a, b], runs), 9, 3)[:5] == first
    assert choose(gather([a, b], runs), 5, 4) != first


def test_runs_that_cannot_meet_are_refused_by_naming_what_differs(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    a, b = write_run(runs, "refl"), write_run(runs, "draft-lv")
    other = write_run(runs, "raft", suite="cc500-sample@1")
    path = next(runs.glob(f"*/*/{b}/record.json"))
    record = json.loads(path.read_text("utf-8"))
    with pytest.raises(UserError, match="suite is coco-sample@1 and cc500-sample@1"):
        gather([a, other], runs)
    path.write_text(json.dumps({**record, "spec": {**record["spec"], "prompt_hash": "cafe"}}))
    with pytest.raises(UserError, match="prompt_hash is f00d and cafe"):
        gather([a, b], runs)
    path.write_text(json.dumps({**record, "spec": {**record["spec"], "model_revision": "cafe"}}))
    gather([a, b], runs)
    with pytest.raises(UserError, match="model_revision is c0ffee and cafe"):
        gather(["base", a, b], runs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"names": ("base",)}, "two or more"), ({"names": ("base", "base")}, "base model alone"),
     ({"names": ("RUN", "RUN")}, "named twice"), ({"names": ("base", "nobody")}, "no run named"),
     ({"kind": "stars"}, "kind of study"), ({"n_prompts": 1}, "--prompts 1"), ({"n_prompts": 999}, "2 to 16"),
     ({"question": "beauty"}, "question named")],
)  # fmt: skip
def test_what_makes_no_study_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    runs = tmp_path / "runs"
    run = write_run(runs, "refl")
    wanted = {
        "names": ("base", run),
        "runs": runs,
        "out": tmp_path / "out",
        "kind": "pairwise",
        "n_prompts": 4,
        **changes,
    }
    wanted["names"] = tuple(run if n == "RUN" else n for n in wanted["names"])
    with pytest.raises(UserError, match=said):
        make(Wanted(**wanted))
    assert not (tmp_path / "out").exists()


def test_a_study_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    out = new_study(tmp_path, "pairwise")
    with pytest.raises(UserError, match="is there already"):
        new_study(tmp_path, "pairwise", tuple(c["name"] for c in read(out, "key")["contestants"]))


def test_a_damaged_image_is_refused_by_its_prompt(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = write_run(runs, "refl")
    for path in next(runs.glob(f"*/*/{run}/snapshots/f100/images")).glob("*.png"):
        path.write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"prompt 0\d\d \(seed . of .*is damaged|is damaged"):
        make(Wanted(("base", run), runs, tmp_path / "out", "pairwise", 4))


def test_a_hostile_prompt_stays_text(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    evil = "</script><script>alert(1)</script><!-- <script>"
    run = write_run(runs, "refl", prompts=[(f"{evil} {i}", "x") for i in range(4)])
    make(Wanted(("base", run), runs, tmp_path / "out", "pairwise", 4))
    page = (tmp_path / "out" / "page.html").read_text("utf-8")
    assert "alert(1)" in page
    assert evil not in page
    assert page.count("<script") == 3
