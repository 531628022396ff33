"""What tuners say of themselves reaches their pages and their runs' settings; nobody loads a tuner twice."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from bench.cli import _methods
from bench.core import registry
from leaderboard.site import build
from tests.leaderboard.factories import Fake

ENDS = (0.0, 1.0)


def _text(path: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", path.read_text("utf-8").partition("<body>")[2]))


def _facts(default: Any = 1e-4, version: int = 1) -> dict[str, Any]:
    lr = {"value": 7.0, "default": default, "changed": False, "type": "float", "unit": "1/step", "help": "how fast",
          "source": "section 9", "low": 0.0, "high": None, "choices": [], "group": "Own settings"}  # fmt: skip
    return {"name": "drtune", "version": version, "summary": "Stops the gradient.", "paper": "Somebody 2024",
            "equations": "eq. 3", "deviations": ["the range differs"], "needs": ["differentiable-reward"],
            "settings": {"lr": lr}, "presets": {"drtune-fast": {"lr": 0.01}}}  # fmt: skip


def test_a_method_page_says_what_the_tuner_says(tmp_path: Path) -> None:
    asked: list[set[str]] = []

    def describe(names: Collection[str], cache: Path) -> dict[str, dict[str, Any]]:
        asked.append(set(names))
        return {"drtune": _facts()}

    changed = Fake(settings={"lr": 3e-4}, fractions=ENDS)
    changed.write(tmp_path)
    Fake(tuner="third-party", fractions=ENDS).write(tmp_path)
    site = build(tmp_path, describe=describe).parent
    assert asked == [{"drtune", "third-party"}]
    text = _text(site / "methods" / "drtune.html")
    for words in ("Stops the gradient.", "Somebody 2024", "eq. 3", "the range differs", "a reward with a gradient",
                  "drtune-fast lr = 0.01", "how fast", "valid: at least 0.0", "section 9", "lr = 0.0003"):  # fmt: skip
        assert words in text, words
    assert "the plug-in of third-party was not at hand" in _text(site / "methods" / "third-party.html")
    assert "0.0003 changed default 0.0001" in _text(site / "runs" / f"{changed.run_id}.html")


def test_a_default_of_another_version_is_not_told(tmp_path: Path) -> None:
    fake = Fake(settings={"lr": 3e-4}, fractions=ENDS)
    fake.write(tmp_path)
    site = build(tmp_path, describe=lambda names, cache: {"drtune": _facts(version=2)}).parent
    assert "0.0003 changed default not known" in _text(site / "runs" / f"{fake.run_id}.html")
    assert "the runs below are of version 1" in _text(site / "methods" / "drtune.html")


def test_new_metadata_makes_the_pages_that_print_it_again_and_no_other(tmp_path: Path) -> None:
    fakes = [Fake(fractions=ENDS), Fake(tuner="refl", fractions=ENDS)]
    for fake in fakes:
        fake.write(tmp_path)
    site = build(tmp_path, describe=lambda names, cache: {"drtune": _facts(), "refl": _facts()}).parent
    times = {p: p.stat().st_mtime_ns for p in site.rglob("*.html")}
    build(tmp_path, describe=lambda names, cache: {"drtune": _facts(default=5.0), "refl": _facts()})
    again = {p.relative_to(site).as_posix() for p in site.rglob("*.html") if p.stat().st_mtime_ns != times[p]}
    assert again == {"methods/drtune.html", f"runs/{fakes[0].run_id}.html"}


@pytest.mark.slow
def test_known_tuners_are_described_without_loading_them(tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from bench.cli._methods import describe; "
            "found = describe(['drtune', 'nonesuch'], Path(sys.argv[1])); "
            "print(sorted(found), found['drtune']['settings']['K']['unit'], 'torch' in sys.modules)")  # fmt: skip
    said = [subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
            .stdout.strip() for _ in range(2)]  # fmt: skip
    assert said == ["['drtune'] steps False"] * 2  # torch's memory goes with the process that asked
    (tmp_path / "methods.json").write_text("{", "utf-8")
    assert _methods.describe(["drtune"], tmp_path)["drtune"]["name"] == "drtune"


def test_a_plug_in_that_does_not_load_has_its_error_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = registry.Entry("tuners", "broken", "nonesuch_module:Tuner", "somebody")
    monkeypatch.setattr(registry, "entries", lambda group: {"broken": broken})
    monkeypatch.setattr(_methods, "_asked_elsewhere", _methods._ask)  # another process knows no patched registry
    found = _methods.describe(["broken"], tmp_path / "cache")
    assert "does not load" in found["broken"]["error"]
    Fake(tuner="broken", fractions=ENDS).write(tmp_path)
    site = build(tmp_path, describe=_methods.describe).parent
    assert "does not load" in _text(site / "methods" / "broken.html")


def test_describing_tuners_loads_no_more_than_they_need() -> None:
    """A first build waits for it: diffusers and what it loads take twice as long as torch and as much memory."""
    code = ("import sys; from bench.cli._methods import _ask; _ask(['treereward', 'hgdpo', 'realigndiff']); "
            "print('diffusers' in sys.modules)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
