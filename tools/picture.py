"""A picture of a page, as in README: `.venv/bin/python tools/picture.py runs/leaderboard/index.html board.png`

Needs Debian's chromium and the `dev` packages.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--at", default="", help="id of the element that the picture begins with")
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": args.width, "height": args.height},
                                color_scheme="dark" if args.dark else "light")  # fmt: skip
        page.goto(f"{args.page.resolve().as_uri()}#{args.at}")
        page.wait_for_timeout(3000)  # charts are drawn when they come into view
        page.screenshot(path=str(args.picture))
        browser.close()


if __name__ == "__main__":
    main()
