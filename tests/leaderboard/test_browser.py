"""The site as a reader meets it: Debian's chromium, from a file address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records import write_records
from leaderboard.site import build
from tests.leaderboard.factories import Fake

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE_MS = 120_000
"""Of a machine that tests much else at the same time."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER TEST WAS RUN: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST WAS RUN: pip install playwright")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a page and, at the end, holds that nothing was said on the console and nothing was fetched elsewhere."""
    pages, said, fetched = [], [], []

    def visit(path: Path, width: int = 1280, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert said == []
    assert [url for url in fetched if not url.startswith(("file://", "data:"))] == []


def _first_column(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "section.board:first-of-type tbody.rows th a", "a => a.map(x => x.textContent)"
    )
    return found


def test_tables_sort_by_keyboard(site: Path, opened: Any) -> None:
    page = opened(site / "index.html")
    assert _first_column(page) == ["drtune", "refl", "draft-lv"]
    heading = page.locator("section.board").first.locator("th", has_text="tiny-pick").locator("button")
    heading.focus()
    page.keyboard.press("Enter")
    assert _first_column(page) == ["draft-lv", "drtune", "refl"]
    assert page.locator("section.board").first.locator("th[aria-sort=descending]").inner_text().startswith("Win rate")
    page.keyboard.press("Space")
    assert _first_column(page) == ["refl", "drtune", "draft-lv"]
    page.locator("section.board").first.locator("th button", has_text="Tuner").press("Enter")
    assert _first_column(page) == ["draft-lv", "drtune", "refl"]
    ended = page.eval_on_selector_all("section.board:first-of-type tbody.ended th a", "a => a.map(x => x.textContent)")
    assert ended == ["alignprop", "hgdpo"]


@pytest.mark.parametrize("width", [1280, 360])
def test_a_board_of_many_judges_scrolls_in_its_own_region(tmp_path: Path, opened: Any, width: int) -> None:
    """Five judges and their mean, CLIP score, TIFA, FID: the page stays, the table moves below its first column."""
    write_records(tmp_path, 30, n_boards=1)
    page = opened(build(tmp_path), width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    region = page.locator(".scroll").first
    assert page.locator("section.board thead th", has_text="Win rate").count() == 6
    inner, seen = region.evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert inner > seen
    name = page.locator("section.board tbody.rows th.sticky").first
    before = name.bounding_box()["x"]
    region.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
    assert name.bounding_box()["x"] == pytest.approx(before, abs=1)
    status = page.locator("section.board tbody.rows td", has_text="done").first.bounding_box()
    assert before < status["x"] < width
    if width == 1280:  # what was spent is seen without moving it
        region.evaluate("e => { e.scrollLeft = 0; }")
        spent = page.locator("section.board thead th", has_text="Spent").first.bounding_box()
        assert spent["x"] + spent["width"] < width


def _shown(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "section.board:first-of-type tbody.rows tr, section.board:first-of-type tbody.ended tr",
        "rows => rows.filter(r => r.checkVisibility()).map(r => r.querySelector('th a').textContent)",
    )
    return found


def test_rows_are_filtered_by_words_and_by_choices(site: Path, opened: Any) -> None:
    """The first board has three tuners with a result and two that ended early, all for one reward."""
    page = opened(site / "index.html")
    bar = page.locator("section.board").first.locator(".filters")
    words, said = bar.get_by_label("Filter"), bar.locator("output")
    assert said.get_attribute("aria-live") == "polite"
    everything = ["drtune", "refl", "draft-lv", "alignprop", "hgdpo"]
    assert (_shown(page), said.inner_text()) == (everything, "")
    words.press_sequentially("LR = 0.0003")  # a setting below the name; every word counts, whatever its case
    assert (_shown(page), said.inner_text()) == (["refl"], "1 of 5 rows")
    assert page.locator("section.board").first.locator("tbody.reference tr").first.is_visible()
    words.fill("no such text")
    assert (_shown(page), said.inner_text()) == ([], "0 of 5 rows")
    words.press("Escape")
    assert (words.input_value(), _shown(page), said.inner_text()) == ("", everything, "")
    bar.get_by_label("Tuner").select_option("draft-lv")
    assert (_shown(page), said.inner_text()) == (["draft-lv"], "1 of 5 rows")
    bar.get_by_label("Tuner").select_option("all")
    bar.get_by_label("Status").select_option("diverged")
    assert _shown(page) == ["hgdpo"]
    words.fill("refl")  # both at once
    assert _shown(page) == []


def test_rows_are_filtered_by_their_trained_reward(opened: Any, tmp_path: Path) -> None:
    Fake(fractions=(0.0, 1.0)).write(tmp_path)
    for tuner in ("refl", "draft"):
        Fake(tuner=tuner, reward="tiny-clip", judge_roles={"tiny-clip": "trained-on", "tiny-judge": "held-out"},
             fractions=(0.0, 1.0)).write(tmp_path)  # fmt: skip
    page = opened(build(tmp_path))
    bar = page.locator("section.board .filters")
    reward = bar.get_by_label("Reward")
    assert reward.locator("option").all_inner_texts() == ["all", "tiny-clip", "tiny-pick"]
    reward.select_option("tiny-clip")
    assert (sorted(_shown(page)), bar.locator("output").inner_text()) == (["draft", "refl"], "2 of 3 rows")
    bar.get_by_label("Tuner").select_option("refl")
    assert (_shown(page), bar.locator("output").inner_text()) == (["refl"], "1 of 3 rows")
    reward.select_option("tiny-pick")
    assert (_shown(page), bar.locator("output").inner_text()) == ([], "0 of 3 rows")


@pytest.mark.parametrize("scripts", [True, False])
def test_what_was_spent_and_the_status_need_no_scrolling(site: Path, browser: Any, scripts: bool) -> None:
    """Secondary columns come on demand, by the keyboard and without any script."""
    context = browser.new_context(java_script_enabled=scripts, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    board = page.locator("section.board").first
    frame = board.locator(".scroll").first.bounding_box()
    for heading in ("Spent / limit", "Seeds", "Status"):
        box = board.locator("thead th", has_text=heading).first.bounding_box()
        assert box["x"] + box["width"] <= frame["x"] + frame["width"], heading
    kid = board.locator("thead th", has_text="KID")
    assert not kid.is_visible()
    toggle = board.get_by_label("more columns")
    toggle.focus()
    page.keyboard.press("Space")
    assert toggle.is_checked()
    assert kid.is_visible()
    assert (
        board.locator("thead th.extra").count() == board.locator("tbody.reference tr").first.locator(".extra").count()
    )
    context.close()


def test_a_warning_below_a_name_stays_within_its_cell_on_a_phone(site: Path, opened: Any) -> None:
    (path,) = (p for p in (site / "boards").glob("coco-*.html") if "trained-on up, held-out" in p.read_text("utf-8"))
    page = opened(path, width=360)
    flag = page.locator("th.sticky .flag").first
    assert flag.inner_text().startswith("trained-on up")
    assert flag.evaluate(
        "f => f.scrollWidth <= f.clientWidth && f.closest('th').scrollWidth <= f.closest('th').clientWidth"
    )


def test_the_gallery_flips_by_keyboard_and_by_click(site: Path, opened: Any) -> None:
    page = opened(site / "runs" / f"{Fake().run_id}.html")
    base, tuned = page.locator(".shot.left").first, page.locator(".shot.right").first
    assert base.is_visible()
    assert tuned.is_visible()
    page.locator("#view-both").focus()
    page.keyboard.press("ArrowRight")
    assert base.is_visible()
    assert not tuned.is_visible()
    place = base.bounding_box()
    page.keyboard.press("ArrowRight")
    assert tuned.is_visible()
    assert not base.is_visible()
    assert tuned.bounding_box() == place
    tuned.click()
    assert base.is_visible()
    assert page.locator(".shot.left img").first.evaluate("i => i.complete && i.naturalWidth") == 64


def test_the_space_bar_flips_a_gallery_and_scrolls_elsewhere(site: Path, opened: Any) -> None:
    page = opened(site / "runs" / f"{Fake().run_id}.html")
    page.keyboard.press("Space")  # the gallery is far below: the page scrolls as it always does
    assert page.locator("#view-both").is_checked()
    page.evaluate(SCROLLED)
    assert page.evaluate("window.scrollY") > 100
    page.locator(".gallery").scroll_into_view_if_needed()
    for shown in ("right", "left", "right"):
        page.keyboard.press("Space")
        assert page.locator(f"#view-{shown}").is_checked()
        assert page.locator(f".shot.{shown}").first.is_visible()
    summary = page.locator(".gallery details.deltas summary").first
    summary.focus()
    page.keyboard.press("Space")  # a control keeps its own space bar
    assert page.locator("#view-right").is_checked()
    assert page.locator(".gallery details.deltas").first.get_attribute("open") is not None


def test_two_runs_are_compared_by_keyboard_alone(site: Path, opened: Any) -> None:
    page = opened(site / "index.html")
    _tab_to(page, "Comparisons")
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare/index.html")
    _tab_to(page, "drtune against refl")
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare/*--*.html")
    assert page.locator("h1").inner_text() == "A drtune against B refl"
    _tab_to(page, None, "view-both")
    page.keyboard.press("ArrowRight")
    first, second = page.locator(".shot.left").first, page.locator(".shot.right").first
    assert first.is_visible()
    assert not second.is_visible()
    place = first.bounding_box()
    page.keyboard.press("Space")
    assert second.is_visible()
    assert second.bounding_box() == place
    assert second.locator("img").evaluate("i => i.complete && i.naturalWidth") == 64


def _tab_to(page: Any, text: str | None, element_id: str = "") -> None:
    """Presses Tab until the element of that text or id has the focus."""
    for _ in range(150):
        page.keyboard.press("Tab")
        found = page.evaluate("[document.activeElement.textContent.trim(), document.activeElement.id]")
        if (text is not None and found[0] == text) or (element_id and found[1] == element_id):
            return
    raise AssertionError(f"the keyboard never reaches {text or element_id}")


def test_a_prompt_flips_along_the_budget_and_turns_its_pages(site: Path, opened: Any) -> None:
    first, second = sorted(site.glob("prompts/*/p-*.html"))[:2]
    page = opened(first)
    stops = page.locator(".strip").first.locator(".stop")
    assert stops.count() == 5
    assert all(stops.nth(i).is_visible() for i in range(5))
    page.locator("#share-all").focus()
    page.keyboard.press("ArrowRight")
    assert [stops.nth(i).is_visible() for i in range(5)] == [True, False, False, False, False]
    place = stops.nth(0).bounding_box()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # round to the last
    assert [stops.nth(i).is_visible() for i in range(5)] == [False, False, False, False, True]
    assert stops.nth(4).bounding_box()["x"] == place["x"]
    assert page.url == first.as_uri()  # the buttons had the keys
    page.locator("h1").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(second.as_uri())


def _kinds(site: Path) -> list[Path]:
    """A page of every kind that a run's reader meets."""
    prompts, pairs = sorted(site.glob("prompts/*/p-*.html")), sorted(site.glob("compare/*--*.html"))
    return [
        site / "index.html",
        site / "runs" / f"{Fake().run_id}.html",
        pairs[0],
        prompts[0],
        prompts[0].parent / "index.html",
        site / "methods" / "drtune.html",
        site / "methods" / "index.html",
        site / "compare" / "index.html",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_text_is_readable(site: Path, opened: Any, scheme: str) -> None:
    for path in _kinds(site):
        page = opened(path, width=360, scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
        red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(red) < 60) == (scheme == "dark")
        heights = page.evaluate("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
        assert min(heights, default=9) >= 9, path  # chart text stays readable
        faint = page.evaluate(CONTRAST)
        assert faint == [], path


LOADED = """
Promise.all([...document.images].map((i) => i.complete || new Promise((done) => { i.onload = i.onerror = done; })))
"""
SCROLLED = """
new Promise((done) => {
  const until = performance.now() + 30000;
  const look = () => (window.scrollY > 100 || performance.now() > until ? done() : requestAnimationFrame(look));
  look();
})
"""
"""A key's scrolling is smooth: it takes some frames."""

CONTRAST = """
() => {
  const rgba = (text) => { const v = text.match(/[\\d.]+/g).map(Number); return v.length < 4 ? [...v, 1] : v; };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c[3] > 0.5) return c;
    }
    return [255, 255, 255, 1];
  };
  const bad = new Set();
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("svg, script, style, .skip, .hidden")) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) bad.add(`${e.tagName}.${e.className}: ${((a + .05) / (b + .05)).toFixed(2)}`);
  }
  return [...bad];
}
"""
"""Text whose contrast with what lies behind it is below WCAG 2's 4.5."""


def test_every_image_has_words_and_every_picture_loads(site: Path, opened: Any) -> None:
    n_images = 0
    for path in _kinds(site):
        page = opened(path)
        images = page.eval_on_selector_all(
            "img", "all => all.map(i => { i.loading = 'eager'; return [i.alt, i.getAttribute('width')]; })"
        )
        assert all(alt and width for alt, width in images), path
        page.evaluate(LOADED)  # wait_for_function polls by eval, which the pages' policy forbids
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)"), path
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.closest('[aria-label], .legend'))"), (
            path
        )
        n_images += len(images)
    assert n_images > 60


def test_charts_become_interactive_when_they_come_into_view(site: Path, opened: Any) -> None:
    page = opened(site / "runs" / f"{Fake().run_id}.html")
    boxes = page.locator(".chart [role=img]")
    before = boxes.first.locator("svg").first.bounding_box()
    for i in range(boxes.count()):
        boxes.nth(i).scroll_into_view_if_needed()
        boxes.nth(i).locator(".drawn svg").wait_for()
    assert page.locator(".drawn svg").count() == boxes.count() >= 6
    assert page.locator("svg.plot:not(.legend svg)").count() == 0
    boxes.first.scroll_into_view_if_needed()
    after = boxes.first.locator(".drawn svg").bounding_box()
    assert (after["width"], after["height"]) == pytest.approx((before["width"], before["height"]), abs=0.5)
    boxes.first.locator(".drawn .mark-symbol path").last.hover()
    said = page.locator("#vg-tooltip-element.visible")
    said.wait_for()
    assert "win rate" in said.inner_text()
    assert "95 % from" in said.inner_text()


def test_a_site_without_its_library_keeps_the_drawings(site: Path, browser: Any, tmp_path: Path) -> None:
    """As when one page is sent by mail."""
    copy = tmp_path / "runs" / "run.html"
    copy.parent.mkdir()
    copy.write_bytes((site / "runs" / f"{Fake().run_id}.html").read_bytes())
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(copy.as_uri())
    chart = page.locator("figure.chart").first
    chart.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert chart.locator("svg.plot").first.is_visible()
    assert page.locator(".drawn").count() == 0
    page.close()


def test_pages_say_the_same_without_scripts(site: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    assert page.locator("section.board").first.locator("tbody.rows tr").count() == 3
    page.goto((site / "runs" / f"{Fake().run_id}.html").as_uri())
    assert page.locator("figure.chart svg").count() >= 6
    assert not page.get_by_text("so do the space bar").is_visible()  # no promise that only a script keeps
    page.locator("#view-right").check()
    assert not page.locator(".shot.left").first.is_visible()
    page.goto(sorted(site.glob("compare/*--*.html"))[0].as_uri())
    page.locator("#view-left").check()
    assert not page.locator(".shot.right").first.is_visible()
    page.goto(sorted(site.glob("prompts/*/p-*.html"))[0].as_uri())
    page.locator("#share-0").check()
    assert not page.locator(".stop.at-4").first.is_visible()
    context.close()


def test_a_policy_keeps_text_that_slips_through_from_running(site: Path, browser: Any, tmp_path: Path) -> None:
    """The pages' policy allows their own scripts alone: one that somebody smuggles in does not run."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    smuggled = "<script>document.title = 'mine'</script><img src=x onerror=\"document.title = 'mine'\">"
    text = (site / "runs" / f"{Fake().run_id}.html").read_text("utf-8").replace("<h1>", f"{smuggled}<h1>", 1)
    copy = tmp_path / "run.html"
    copy.write_text(text, "utf-8")
    page.goto(copy.as_uri())
    assert page.title() != "mine"
    assert any("Content Security Policy" in line for line in said)
    page.close()


def test_a_run_page_is_light(site: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted((site / "runs").glob("*.html"))}
    assert max(sizes.values()) <= 400_000, sizes
