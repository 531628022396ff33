"""The record's schema: older versions are read, newer ones refused by name, and the JSON Schema is what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.core.record import SCHEMA_VERSION, Record, is_human, json_schema, upgrade
from tests.leaderboard.factories import Fake


@pytest.fixture
def version_1(tmp_path: Path) -> dict[str, Any]:
    """As version 1 wrote it: no adapter scales, no sampling cost, no studies."""
    folder = Fake(fractions=(0.0, 1.0)).write(tmp_path)
    data: dict[str, Any] = json.loads((folder / "record.json").read_text("utf-8"))
    data["schema_version"] = 1
    return data


def test_a_record_of_version_1_upgrades_and_loses_nothing(version_1: dict[str, Any]) -> None:
    record = upgrade(version_1)
    assert (record.external, record.studies, record.scales) == (None, [], [])
    again = record.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert again == version_1


def test_a_record_of_version_2_upgrades(version_1: dict[str, Any]) -> None:
    data = {**version_1, "schema_version": 2, "scales": []}
    data["snapshots"] = [{**s, "adapter_scale": 0.5, "u_per_image": 40.0} for s in data["snapshots"]]
    data["provenance"]["micro_batch"] = 4
    record = upgrade(data)
    assert record.snapshots[-1].adapter_scale == 0.5
    assert record.provenance.micro_batch == 4


def test_a_newer_record_is_refused_by_name(version_1: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"schema {SCHEMA_VERSION + 1} is newer than this program reads") as refused:
        upgrade({**version_1, "schema_version": SCHEMA_VERSION + 1, "field_of_tomorrow": 1})
    assert "upgrade tunebench" in refused.value.hint


@pytest.mark.parametrize("data", [None, [], {}, {"schema": "tunebench/record"}, {"schema": "x", "schema_version": 1},
                                  {"schema": "tunebench/record", "schema_version": "3"},
                                  {"schema": "tunebench/record", "schema_version": True},
                                  {"schema": "tunebench/record", "schema_version": 0}])  # fmt: skip
def test_what_is_no_record_is_refused(data: Any) -> None:
    with pytest.raises(UserError, match="no TuneBench record"):
        upgrade(data)


def test_the_schema_command_prints_what_records_are_made_by() -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "show", "schema", "record"], capture_output=True, text=True,
                          check=True)  # fmt: skip
    schema = json.loads(done.stdout)
    assert schema == json_schema()
    assert schema["$id"] == f"tunebench/record/{SCHEMA_VERSION}"
    assert set(schema["properties"]) == {f.alias or n for n, f in Record.model_fields.items()}
    assert schema["additionalProperties"] is False


def test_human_figures_are_told_from_computed_ones(version_1: dict[str, Any]) -> None:
    entry = upgrade(version_1).metrics[0]
    names = {"human/preference": True, "human-rank/fidelity": True, "human-scale/colour": True, "humane": False,
             "winrate/human": False}  # fmt: skip
    assert {n: is_human(entry.model_copy(update={"name": n})) for n in names} == names
