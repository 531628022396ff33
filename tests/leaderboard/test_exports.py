"""Exports: what a spreadsheet, a Markdown reader and LaTeX are given, whoever wrote the names."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from leaderboard.escaping import csv_text, latex, markdown
from leaderboard.exports import ExportedBoard
from leaderboard.site import build
from tests.leaderboard.factories import Fake

EVIL = '=HYPERLINK("x")|a\n\\input{/etc/passwd}<script>_*[x](y)'
ENDS = (0.0, 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("exports")
    for fake in (Fake(fractions=ENDS), Fake(tuner="weak", held_out=0.0, fractions=ENDS),
                 Fake(tuner=EVIL.replace("/", ":"), settings={"a": EVIL}, held_out=0.5, fractions=ENDS),
                 Fake(tuner="burnt", status="failed", reason="=1+1", fractions=ENDS)):  # fmt: skip
        fake.write(runs)
    return build(runs).parent / "data"


def _one(data: Path, ending: str) -> str:
    (path,) = [p for p in data.iterdir() if re.fullmatch(rf"coco-[^.]*-[0-9a-f]{{8}}\.{re.escape(ending)}", p.name)]
    return path.read_text("utf-8")


@pytest.mark.parametrize("ending", ["csv", "figures.csv"])
def test_no_cell_of_a_table_is_a_formula(data: Path, ending: str) -> None:
    rows = list(csv.reader(_one(data, ending).splitlines(keepends=True)))
    assert len({len(row) for row in rows}) == 1
    assert any(cell.startswith("'=HYPERLINK") for row in rows for cell in row)
    for cell in (cell for row in rows for cell in row):
        assert not cell.startswith(("=", "@", "+", "\t")), cell
        assert not cell.startswith("-") or float(cell) < 0


def test_the_json_fits_its_schema_and_holds_every_row(data: Path) -> None:
    board = ExportedBoard.model_validate(json.loads(_one(data, "json")))
    assert [row.kind for row in board.rows] == ["ranked", "ranked", "ranked", "ended"]
    assert board.rows[0].tuner == "drtune"
    assert board.rows[0].held_out is not None
    assert board.rows[0].held_out.value == pytest.approx(0.62)
    schema = json.loads((data / "board.schema.json").read_text("utf-8"))
    assert set(schema["required"]) <= set(json.loads(_one(data, "json")))


def test_a_hostile_name_stays_in_its_cell(data: Path) -> None:
    table = [line for line in _one(data, "md").splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<script" not in "".join(table).replace("\\<", "")
    tex = _one(data, "tex")
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") == 1
    assert r"\input{" not in tex
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1


def test_only_what_the_statistics_support_is_bold(data: Path) -> None:
    board = json.loads(_one(data, "json"))
    bold = [line for line in _one(data, "md").splitlines() if "**" in line]
    assert len(bold) == sum(row["best"] for row in board["rows"])
    assert not any(line.startswith("| weak") for line in bold)


def test_escapes() -> None:
    assert csv_text("-1") == "'-1"
    assert csv_text("a=1") == "a=1"
    assert markdown("a|b\nc") == r"a\|b c"
    assert latex("50 % & \\x") == r"50 \% \& \textbackslash{}x"
