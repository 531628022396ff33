"""A run that is worked on by another commit than planned says so: its attempts may not be one experiment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.core.checkout import commit
from bench.engine import attempt
from bench.engine.attempt import Attempt
from bench.store.runs import RunFolder

PLANNED, LATER = "a" * 40, "b" * 40


def begin(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, head: str | None, dirty: bool | None) -> Attempt:
    monkeypatch.setattr(attempt, "commit", lambda: (head, dirty))
    return Attempt(folder, "cpu", 1, 1, "all")


def test_every_attempt_keeps_its_commit_and_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    request = {"commit": PLANNED}
    first = begin(folder, monkeypatch, PLANNED, False)
    assert first.other_code(folder, request) == []
    first.end("interrupted")
    second = begin(folder, monkeypatch, LATER, True)
    env = json.loads((second.root / "env.json").read_text())
    assert (env["commit"], env["dirty"]) == (LATER, True)
    assert second.other_code(folder, request) == [
        f"this attempt runs commit {LATER[:12]} with changes, and it was planned and submitted with {PLANNED[:12]}",
        f"this attempt runs commit {LATER[:12]} with changes, and the attempt before it ran {PLANNED[:12]}",
    ]
    second.end("interrupted")
    # the planned one again: what was done in between is another's
    third = begin(folder, monkeypatch, PLANNED, False)
    assert len(third.other_code(folder, request)) == 1
    third.end("interrupted")
    fourth = begin(folder, monkeypatch, None, None)
    assert all("unknown (an installed copy)" in text for text in fourth.other_code(folder, request))
    assert fourth.other_code(RunFolder(tmp_path / "none"), {}) == []
    fourth.end("interrupted")


def test_the_commit_is_that_of_this_checkout() -> None:
    head, dirty = commit()
    assert (head is None) == (dirty is None)
    assert head is None or len(head) == 40
