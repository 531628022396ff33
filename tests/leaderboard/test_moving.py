"""What makes a site of thousands quick says the same as the plain way: texts of JSON, runs that are sent to other
processes, lines whose numbers are written once, paths that are checked part by part."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.core.identity import canonical_json, digest
from bench.store import atomic
from leaderboard import charts
from leaderboard.chart_data import Axis
from leaderboard.evidence import Evidence
from leaderboard.read import read_runs
from leaderboard.run import Run
from leaderboard.spelling import short_digest, spelled
from tests.leaderboard.factories import Fake


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_runs(Fake(settings={"K": 2, "lr": 3e-4}).write(tmp_path).parents[2])[0][0]


@pytest.mark.parametrize(
    "value",
    [{"b": [1, 1.0, 1e-9, None, True], "a": {"é": "„“", "<": "\u2028"}}, ("x", ("y", 2)), [], 0.1, Path("a/b"),
     [frozenset({"b", "a"})]],
)  # fmt: skip
def test_texts_and_digests_are_those_of_the_core(value: Any) -> None:
    assert spelled(value) == canonical_json(value)
    assert short_digest(value, 10) == digest(value, 10)


def test_every_field_of_a_record_is_spelled_alike(run: Run) -> None:
    record = atomic.read_json(run.folder / "record.json")
    assert spelled(record) == canonical_json(record)


def test_nan_has_no_text() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        spelled([float("nan")])


def test_a_run_arrives_whole_in_another_process(run: Run) -> None:
    there = pickle.loads(pickle.dumps(run))
    for name in Run.__slots__:
        mine, other = getattr(run, name), getattr(there, name)
        assert mine == other, name
        assert type(mine) is type(other), name
    assert [type(m) for m in there.metrics] == [type(m) for m in run.metrics]
    changes = [m.difference for m in there.metrics if m.difference is not None]
    assert changes
    assert changes == [m.difference for m in run.metrics if m.difference is not None]
    assert {type(c).__name__ for c in changes} == {"Change"}
    assert there.entries(there.final) == run.entries(run.final)
    assert there.record == run.record


def test_a_line_is_drawn_of_the_numbers_that_its_specification_holds() -> None:
    """Two stretches with a gap: the drawing in the data's units lies where pixels of the axes say."""
    xs, ys = [0.0, 10.0, 20.0, 30.0, 40.0], [1.0, 3.0, None, 2.0, 2.5]
    chart = charts.curve(xs, ys, Axis("spent", "~s"), Axis("loss", ".4~g"))
    drawn, _, spec = chart.partition('<script type="application/json">')
    rows = json.loads(spec.removesuffix("</script>"))["data"]["values"]
    assert [(r["x"], r["y"]) for r in rows if r["y"] is not None] == [(x, y) for x, y in zip(xs, ys, strict=True) if y]
    assert [r["y"] is None for r in rows] == [False, False, True, False, False]  # the line breaks there
    found = re.search(r'class="line data" transform="matrix\((.*?)\)" d="(.*?)"', drawn)
    assert found is not None
    assert found[2] == "M0 1L10 3M30 2L40 2.5"
    a, _, _, d, e, f = map(float, found[1].split())
    assert (a * 0 + e, a * 40 + e) == pytest.approx((44, 304), abs=0.01)  # the plot's left and right
    tick = re.search(r'y="([\d.]+)" dy=".32em" text-anchor="end">2</text>', drawn)
    assert tick is not None
    assert d * 2 + f == pytest.approx(float(tick[1]), abs=0.06)


def test_a_link_out_of_the_runs_folder_is_never_followed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("secret", "utf-8")
    (run.folder / "away").symlink_to(outside)
    (run.folder / "here").symlink_to(run.folder / "scores")
    for parts in (("away", "secret"), ("away/secret",), ("..", "..", "..", "..", "x"), ("scores/../../../../../x",)):
        with pytest.raises(UserError, match="leads out"):
            run.inside(*parts)
    assert run.inside("here") == run.folder.resolve() / "scores"
    assert run.inside("prompts.jsonl") == run.folder.resolve() / "prompts.jsonl"
    assert run.inside("not/there") == run.folder.resolve() / "not" / "there"
    assert Evidence(run).prompts
