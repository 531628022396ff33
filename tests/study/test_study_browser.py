"""The study as a rater meets it: Debian's chromium, mouse and keyboard, a reload in the middle, a server that dies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.study.ballot import assigned, parse, sign
from bench.study.database import Votes
from bench.study.importing import import_votes
from tests.leaderboard.test_browser import CHROMIUM, FLAGS
from tests.study.test_study_server import Served
from tests.study.test_votes import RUN_WINS, record_of
from tests.study.world import new_study, read

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER TEST WAS RUN: apt-get install chromium"),
]
KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "tie": "ArrowDown"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST WAS RUN: pip install playwright")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Watched:
    """A browser window of its own, with all that its console said and all addresses it asked for."""

    def __init__(self, browser: Any, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme,
                                           accept_downloads=True)  # fmt: skip
        self.said: list[str] = []
        self.fetched: list[str] = []

    def open(self, url: str) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.fetched.append(request.url))
        page.goto(url)
        return page

    def elsewhere(self) -> list[str]:
        return [u for u in self.fetched if not u.startswith(("file://", "data:", "blob:", "http://127.0.0.1:"))]


@pytest.fixture
def watched(browser: Any) -> Iterator[Any]:
    windows = []

    def make(**options: Any) -> Watched:
        windows.append(Watched(browser, **options))
        return windows[-1]

    yield make
    for window in windows:
        window.context.close()
        assert window.elsewhere() == []


def count(page: Any) -> int:
    return int(page.locator("#count").inner_text().split()[0])


def saved(page: Any, button: str) -> Any:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return download.value


def test_vote_by_mouse_and_keyboard_reload_in_the_middle_export_and_import(watched: Any, tmp_path: Path) -> None:
    out = new_study(tmp_path, "pairwise")
    study, key = read(out, "study"), read(out, "key")
    window = watched()
    page = window.open((out / "page.html").as_uri() + "#rater=anna")
    assert page.locator("h1").evaluate("h => document.activeElement === h")
    trials = assigned(study, "anna")
    page.keyboard.press("Enter")
    wanted = {}
    for i, trial in enumerate(trials):
        assert page.locator("h1").inner_text() == study["prompts"][trial["prompt"]]
        shown = page.eval_on_selector_all("figure img", "a => a.map(x => x.src)")
        assert len(set(shown)) == 2
        wanted[trial["id"]] = "tie" if i == 9 else RUN_WINS(key["trials"][trial["id"]])
        if i % 2:
            page.keyboard.press(KEYS[wanted[trial["id"]]])
        else:
            page.locator(f"[data-vote={wanted[trial['id']]}]").click()
        if i == 5:
            early = saved(page, "Save so far")
            page.reload()
            assert count(page) == 6
    assert (count(page), page.locator("h1").inner_text()) == (13, "Thank you")
    page.keyboard.press("u")
    page.get_by_role("button", name="Back").click()
    last = page.evaluate("document.querySelector('[aria-pressed=true]').dataset.vote")
    assert last == wanted[trials[11]["id"]]
    again = "left" if last == "right" else "right"
    page.locator(f"[data-vote={again}]").click()
    wanted[trials[11]["id"]] = again
    page.reload()
    final = saved(page, "Save votes")
    assert window.said == []
    assert final.suggested_filename == f"votes-{study['id']}-anna.json"
    path = tmp_path / "votes.json"
    final.save_as(path)
    ballot = parse(study, json.loads(path.read_text("utf-8")), "x")
    assert {v.trial: v.answers["preference"] for v in ballot.votes} == wanted
    assert {v.revision for v in ballot.votes if v.trial == trials[11]["id"]} == {1}
    early.save_as(tmp_path / "early.json")
    found = import_votes(out, [tmp_path / "early.json", path])
    assert found.refused == ()
    roles = {t: key["trials"][t]["role"] for t in wanted}
    wins = sum(roles[t] == "vote" and v != "tie" and v == RUN_WINS(key["trials"][t]) for t, v in wanted.items())
    ties = sum(roles[t] == "vote" and v == "tie" for t, v in wanted.items())
    record = record_of(out)
    if found.tally.n_raters:  # the vote that was changed may have been a check
        assert record.metrics[-1].value == pytest.approx((wins + ties / 2) / 10)
    assert found.tally.n_raters == int(roles[trials[11]["id"]] != "check" and roles[trials[9]["id"]] != "check")


@pytest.mark.parametrize("kind", ["rank", "scale"])
def test_the_other_forms_by_keyboard_alone(watched: Any, tmp_path: Path, kind: str) -> None:
    out = new_study(tmp_path, kind, n_prompts=4)
    study, key = read(out, "study"), read(out, "key")
    window = watched()
    page = window.open((out / "page.html").as_uri() + "#rater=ben")
    page.keyboard.press("Enter")
    for trial in assigned(study, "ben"):
        shown = key["trials"][trial["id"]]["shown"]
        if kind == "rank":
            best_first = sorted(range(len(shown)), key=lambda i: (shown[i].startswith("scrambled:"), shown[i]))
            for _ in study["questions"]:
                for i in best_first[:-1]:  # the last one falls into place
                    page.keyboard.press(str(i + 1))
        else:
            good = shown[0].startswith("scrambled:") or (shown[0] == "base" and not shown[1].startswith("scrambled:"))
            for _ in study["questions"]:
                page.keyboard.press("Tab")
                page.keyboard.press("Space")
                for _ in range(9 if good else 1):  # from -5 to 4, or to -4
                    page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    assert page.locator("h1").inner_text() == "Thank you"
    final = saved(page, "Save votes")
    final.save_as(tmp_path / "v.json")
    assert window.said == []
    found = import_votes(out, [tmp_path / "v.json"])
    assert (found.refused, found.tally.n_raters) == ((), 1)
    entries = {m.name: m for m in record_of(out).metrics if m.name.startswith("human")}
    if kind == "rank":
        names = sorted(c["name"] for c in key["contestants"])
        ranks = {p.name: p.rank.value for p in found.tally.places if p.question == "alignment"}
        assert ranks == {name: i + 1 for i, name in enumerate(names)}
        assert entries["human-rank/alignment"].higher_is_better is False
    else:
        assert len([n for n in entries if n.startswith("human-scale/")]) == 6
        assert {m.value for n, m in entries.items() if n.startswith("human-scale/")} == {4.0}
        assert {m.value for n, m in entries.items() if n.startswith("human/")} == {1.0}


def test_the_page_and_the_program_draw_and_sign_alike(watched: Any, tmp_path: Path) -> None:
    """Order and signature for raters with odd names, from the page's own files."""
    out = new_study(tmp_path, "pairwise", n_prompts=4)
    study = read(out, "study")
    window = watched()
    for rater in ("a", "Z-9_", "x" * 64, "0123456789abcdef"):
        page = window.open((out / "page.html").as_uri() + f"#rater={rater}")
        page.keyboard.press("Enter")
        for _ in assigned(study, rater):
            page.keyboard.press("ArrowLeft")
        download = saved(page, "Save votes")
        download.save_as(tmp_path / "v.json")
        content = json.loads((tmp_path / "v.json").read_text("utf-8"))
        assert content["signature"] == sign(study, content)
        assert {v["trial"] for v in content["votes"]} == {t["id"] for t in assigned(study, rater)}
        page.close()
    assert window.said == []


def test_a_rater_without_a_code_gets_one_and_keeps_it(watched: Any, tmp_path: Path) -> None:
    out = new_study(tmp_path, "pairwise", n_prompts=4)
    window = watched()
    page = window.open((out / "page.html").as_uri())
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    page.reload()
    assert count(page) == 1
    other = window.open((out / "page.html").as_uri() + "#rater=somebody-else")
    assert count(other) == 0
    assert window.said == []


def test_served_vote_kill_9_restart_and_go_on(watched: Any, tmp_path: Path) -> None:
    out = new_study(tmp_path, "pairwise")
    study, key = read(out, "study"), read(out, "key")
    (token,) = Votes(out, study).add_links(1)
    trials = assigned(study, token)
    server = Served(out)
    window = watched()
    page = window.open(f"http://127.0.0.1:{server.port}/r/{token}")
    page.keyboard.press("Enter")

    def vote(trial: Any) -> None:
        page.keyboard.press(KEYS[RUN_WINS(key["trials"][trial["id"]])])

    for trial in trials[:4]:
        vote(trial)
    page.locator("#count", has_text=re.compile("^4")).wait_for()
    while len(Votes(out, study).of(token)) < 4:
        page.wait_for_timeout(50)
    assert window.said == []
    port = server.port
    server.kill()
    for trial in trials[4:7]:
        vote(trial)
    page.locator("#said.bad").wait_for()
    assert "kept in this browser" in page.locator("#said").inner_text()
    # a killed server resets what was open, and refuses what comes after
    assert all(re.search("ERR_(CONNECTION_(REFUSED|RESET|CLOSED)|EMPTY_RESPONSE)", line) for line in window.said)
    window.said.clear()
    server = Served(out, port)
    try:
        for trial in trials[7:]:
            vote(trial)
        page.locator("#arrived", has_text="All votes have arrived").wait_for(timeout=40_000)
        page.reload()
        assert count(page) == 13
        window.said = [line for line in window.said if "ERR_CONNECTION_REFUSED" not in line]
        assert window.said == []
    finally:
        server.kill()
    found = import_votes(out, [])
    assert (found.tally.n_raters, record_of(out).metrics[-1].value) == (1, 1.0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["pairwise", "rank", "scale"])
def test_a_phone_needs_no_sideways_scrolling_and_names_everything(
    watched: Any, tmp_path: Path, kind: str, scheme: str
) -> None:
    out = new_study(tmp_path, kind, n_prompts=4)
    window = watched(width=360, scheme=scheme)
    page = window.open((out / "page.html").as_uri() + "#rater=phone")
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(red) < 60) == (scheme == "dark")
        unnamed = (
            "[...document.querySelectorAll('button, input, figure img')]"
            ".filter(e => !(e.ariaLabel || e.alt || e.textContent))"
        )
        assert page.evaluate(f"{unnamed}.length") == 0
        small = "[...document.querySelectorAll('button, .steps label')].map(e => e.getBoundingClientRect())"
        assert page.evaluate(f"Math.min(...{small}.map(r => Math.min(r.width, r.height)))") >= 24  # WCAG 2.5.8
        page.keyboard.press("Enter")
    assert page.locator("figure img").count() == (4 if kind == "rank" else 2)
    assert window.said == []


def test_images_are_ranked_by_tapping_them(watched: Any, tmp_path: Path) -> None:
    """On a phone the buttons are a screen below the images: these themselves are placed, and say where."""
    out = new_study(tmp_path, "rank", n_prompts=4)
    window = watched(width=360)
    page = window.open((out / "page.html").as_uri() + "#rater=thumb")
    page.keyboard.press("Enter")
    n = page.locator("figure img").count()
    for label in ("Alignment", "Fidelity"):
        assert page.locator(".now").inner_text().startswith(f"{label}: tap the images")
        for i in (2, 0, *range(3, n)):
            page.locator("figure img").nth(i).click()
        places = page.locator("figcaption").all_inner_texts()
        assert f"{label} 1" in places[2]
        assert f"{label} 2" in places[0]
        assert f"{label} {n}" in places[1]  # the last one falls into place
    top = page.locator(".now").bounding_box()["y"]
    assert top >= 0
    assert page.locator(".now").inner_text() == "All are placed."
    thumbs = page.eval_on_selector_all(".thumb", "a => a.map(x => [x.naturalWidth > 0, x.src])")
    assert all(seen for seen, _ in thumbs)
    # each in the button of its image, once for each question
    assert [src for _, src in thumbs] == 2 * page.eval_on_selector_all("figure img", "a => a.map(x => x.src)")
    page.get_by_role("button", name="Done").click()
    assert count(page) == 1
    assert window.said == []


def test_a_hostile_prompt_runs_nothing(watched: Any, tmp_path: Path) -> None:
    from bench.study.making import Wanted, make
    from tests.study.world import write_run

    evil = "</script><img src=x onerror=alert(1)><script>document.title='owned'</script>"
    run = write_run(tmp_path / "runs", "refl", prompts=[(f"{evil} {i}", "x") for i in range(4)])
    make(Wanted(("base", run), tmp_path / "runs", tmp_path / "out", "pairwise", 4))
    window = watched()
    page = window.open((tmp_path / "out" / "page.html").as_uri())
    page.keyboard.press("Enter")
    assert evil in page.locator("h1").inner_text()
    assert page.title() == "Image study"
    assert window.said == []
