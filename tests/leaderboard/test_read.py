"""Records that cannot be taken are told, and stop nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leaderboard.read import read_runs
from tests.leaderboard.factories import Fake


def _break(folder: Path, **changes: Any) -> None:
    path = folder / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 99}, "99 is newer"),
        ({"schema": "something"}, "no TuneBench record"),
        ({"spec": {"suite": "x"}}, "lacks edition, model"),
        ({"run_id": "../../etc"}, "is no run id"),
        ({"metrics": [{"name": "fid"}]}, "does not fit its schema"),
        ({"settings": {"lr": float("nan")}}, "NaN is no number"),
    ],
)
def test_unreadable_records_are_listed_with_their_reason(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    good = Fake(tuner="refl", fractions=(0.0, 1.0))
    good.write(tmp_path)
    _break(Fake(fractions=(0.0, 1.0)).write(tmp_path), **changes)
    runs, unreadable = read_runs(tmp_path)
    assert [r.run_id for r in runs] == [good.run_id]
    assert [u.path.startswith("coco-sample@1/drtune/") for u in unreadable] == [True]
    assert said in unreadable[0].reason
    assert str(tmp_path) not in unreadable[0].reason


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "\x00", '{"schema": "tunebench/rec'])
def test_json_of_any_shape_is_survived(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "s" / "t" / "r"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(text, "utf-8")
    runs, unreadable = read_runs(tmp_path)
    assert runs == []
    assert len(unreadable) == 1


def test_one_id_with_two_contents_is_told_and_a_copy_is_not(tmp_path: Path) -> None:
    fake = Fake(fractions=(0.0, 1.0))
    fake.write(tmp_path)
    other = fake.write(tmp_path / "elsewhere")
    (tmp_path / "z" / "drtune").mkdir(parents=True)
    other.rename(tmp_path / "z" / "drtune" / fake.run_id)
    assert read_runs(tmp_path)[1] == []
    _break(tmp_path / "z" / "drtune" / fake.run_id, reason="something else")
    runs, unreadable = read_runs(tmp_path)
    assert len(runs) == 1
    assert "again with other content" in unreadable[0].reason
