"""The registry: lazy, helpful, and not taken down by a broken plug-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.core import registry
from bench.core.errors import UserError


def make_plugin(site: Path, name: str, entry_points: str, source: str | None) -> None:
    """A third party's installed package, as pip leaves it."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    if source is not None:
        (site / f"{name}.py").write_text(source)


def bench(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *args], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_a_third_partys_tuner_is_listed_beside_the_built_in_ones(tmp_path: Path) -> None:
    make_plugin(tmp_path, "mine", "[bench.tuners]\nmine/best = mine:Best\n", 'class Best:\n    """Mine is best."""\n')
    done = bench(tmp_path, "list", "tuners")
    assert done.returncode == 0
    assert "mine/best" in done.stdout
    assert "Mine is best." in done.stdout
    assert "drtune" in done.stdout


@pytest.mark.parametrize(
    ("source", "error"),
    [(None, "ModuleNotFoundError"), ("class Best(\n", "SyntaxError"), ("x = 1\n", "AttributeError")],
)
def test_a_broken_plugin_is_listed_with_its_error_and_breaks_nothing(
    tmp_path: Path, source: str | None, error: str
) -> None:
    make_plugin(tmp_path, "mine", "[bench.tuners]\nmine/best = mine:Best\n", source)
    done = bench(tmp_path, "list", "tuners")
    assert done.returncode == 0
    assert f"BROKEN (mine): {error}" in done.stdout
    assert "drtune" in done.stdout


def test_listing_runs_no_plugin_code(tmp_path: Path) -> None:
    make_plugin(tmp_path, "mine", "[bench.tuners]\nm = mine:Best\n", 'raise SystemExit("imported")\nclass Best: pass\n')
    assert bench(tmp_path, "list", "tuners").returncode == 0


def test_two_packages_with_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    make_plugin(tmp_path, "mine", "[bench.tuners]\ndrtune = mine:Best\n", "class Best: pass\n")
    done = bench(tmp_path, "list", "tuners")
    assert done.returncode == 2
    assert "mine" in done.stderr
    assert "tunebench" in done.stderr


def test_an_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(UserError) as caught:
        registry.find("tuners", "drtun")
    assert "'drtune'" in caught.value.hint


def test_all_built_ins_load_and_say_what_they_are() -> None:
    for group in registry.GROUPS:
        for entry in registry.entries(group).values():
            assert entry.error == "", f"{group} {entry.name}"
            assert len(entry.summary) > 20, f"{group} {entry.name} has no summary line"
            entry.load()
