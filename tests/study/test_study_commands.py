"""``bench study`` as typed: several runs after one ``--runs``, exit codes, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.cli._app import run
from tests.study.test_votes import RUN_WINS
from tests.study.world import read, vote_all, write_ballot, write_run


def said(capsys: Any, *args: str) -> tuple[int, Any]:
    code = run([*args, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_from_runs_to_a_page_and_links(tmp_path: Path, capsys: Any) -> None:
    runs, out = tmp_path / "runs", tmp_path / "s"
    ids = [write_run(runs, tuner) for tuner in ("refl", "draft-lv")]
    code, made = said(capsys, "study", "new", "--runs", "base", ids[0][:6], ids[1], "--prompts", "6", "--runs-dir",
                      str(runs), "--out", str(out))  # fmt: skip
    assert (code, made["page"]) == (0, str(out / "page.html"))
    assert [c["name"] for c in read(out, "key")["contestants"]] == ["base", *ids]
    assert made["trials"] == 6 + 2 + 1
    code, links = said(capsys, "study", "links", str(out), "--n", "3", "--url", "http://10.0.0.5:8900/")
    assert code == 0
    assert len(set(links["links"])) == 3
    assert all(link.startswith("http://10.0.0.5:8900/r/") for link in links["links"])


@pytest.mark.parametrize(
    "order", [("--runs", "base", "RUN", "--kind", "scale"), ("--kind", "scale", "--runs=base", "--runs", "RUN")]
)
def test_runs_may_stand_anywhere(tmp_path: Path, capsys: Any, order: tuple[str, ...]) -> None:
    run_id = write_run(tmp_path / "runs", "refl")
    args = [run_id if a == "RUN" else a for a in order]
    code, _ = said(capsys, "study", "new", *args, "--prompts", "4", "--runs-dir", str(tmp_path / "runs"), "--out",
                   str(tmp_path / "s"))  # fmt: skip
    assert code == 0
    assert [c["name"] for c in read(tmp_path / "s", "key")["contestants"]] == ["base", run_id]


def test_mistakes_are_sentences_with_exit_code_2(tmp_path: Path, capsys: Any) -> None:
    code, told = said(capsys, "study", "new", "--runs", "base", "nobody", "--runs-dir", str(tmp_path))
    assert (code, "no run named" in told["error"]["problem"]) == (2, True)
    code, told = said(capsys, "study", "import", str(tmp_path))
    assert (code, told["error"]["problem"].endswith("it has no study.json")) == (2, True)
    assert run(["study", "serve", str(tmp_path / "none")]) == 2
    assert "is no study" in capsys.readouterr().err


def test_import_says_what_counts_and_refuses_by_exit_code_1(tmp_path: Path, capsys: Any) -> None:
    runs, out = tmp_path / "runs", tmp_path / "s"
    run_id = write_run(runs, "refl")
    said(capsys, "study", "new", "--runs", "base", run_id, "--prompts", "6", "--runs-dir", str(runs), "--out", str(out))
    good = write_ballot(out, "anna", vote_all(read(out, "study"), read(out, "key"), "anna", RUN_WINS))
    (tmp_path / "bad.json").write_text("{}")
    code, told = said(capsys, "study", "import", str(out), str(good), str(tmp_path / "bad.json"))
    assert (code, told["n_raters"], told["taken"]) == (1, 1, ["anna"])
    assert "bad.json" in told["refused"][0]
    page = runs / "leaderboard" / "studies" / f"{read(out, 'study')['id']}.html"
    assert "1 rater counts" in page.read_text("utf-8")
    assert told["pages"] == [str(runs.resolve() / "leaderboard" / "index.html")]
    assert run(["study", "import", str(out)]) == 0
    text = capsys.readouterr().out
    assert "preference" in text
    assert "Krippendorff" in text
