"""The site as a reader meets it: Debian's chromium, from a file address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.leaderboard.factories import Fake

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_dark_is_dark(site: Path, opened: Any, scheme: str) -> None:
    for path in (site / "index.html", site / "runs" / f"{Fake().run_id}.html"):
        page = opened(path, width=360, scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(red) < 60) == (scheme == "dark")
        heights = "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
        assert page.evaluate(f"Math.min(...{heights})") >= 9  # chart text stays readable


def test_pages_say_the_same_without_scripts(site: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    assert page.locator("section.board").first.locator("tbody.rows tr").count() == 3
    page.goto((site / "runs" / f"{Fake().run_id}.html").as_uri())
    page.locator("#view-right").check()
    assert not page.locator(".shot.left").first.is_visible()
    context.close()
