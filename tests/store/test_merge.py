"""Merging runs folders: a set union in which nothing is overwritten, half copied or silently dropped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.core.identity import file_sha256
from bench.store import atomic
from bench.store.merge import merge
from leaderboard.read import read_runs
from tests.leaderboard.factories import Fake


def _write(fake: Fake, runs: Path) -> Path:
    """A whole run: with the artifact that its record vouches for."""
    folder = fake.write(runs)
    artifact = folder / "snapshots/f100/adapter/adapter.safetensors"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"weights of " + fake.tuner.encode())
    _change(folder, artifacts=[{"path": "snapshots/f100/adapter/adapter.safetensors", "sha256": file_sha256(artifact)}])
    atomic.write_json(folder / "spec.json", {"seed": fake.seed})
    return folder


def _change(folder: Path, **changes: Any) -> None:
    path = folder / "record.json"
    atomic.write_json(path, {**json.loads(path.read_text("utf-8")), **changes})


def _tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _fake(tuner: str = "refl", seed: int = 0) -> Fake:
    return Fake(tuner=tuner, seed=seed, fractions=(0.0, 1.0))


def test_the_union_holds_each_run_once_with_images_and_scores(tmp_path: Path) -> None:
    a, b, into = tmp_path / "a", tmp_path / "b", tmp_path / "into"
    for seed in (0, 1):
        _write(_fake(seed=seed), a)
    for seed in (1, 2):
        _write(_fake(seed=seed), b)
    found = merge([a, b], into)
    assert [m.outcome for m in found].count("added") == 3
    assert [m.outcome for m in found].count("same") == 1
    for seed, source in ((0, a), (1, a), (2, b)):
        where = Path("coco-sample@1") / "refl" / _fake(seed=seed).run_id
        assert _tree(into / where) == _tree(source / where)
    before = _tree(into)
    assert {m.outcome for m in merge([a, b], into)} == {"same"}
    assert _tree(into) == before
    runs, unreadable = read_runs(into)
    assert (len(runs), unreadable) == (3, [])


def test_the_order_of_sources_changes_nothing_but_the_words(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    _write(_fake(seed=0), a)
    _write(_fake(seed=0), b)
    _write(_fake(seed=1), b)
    merge([a, b], tmp_path / "ab")
    merge([b, a], tmp_path / "ba")
    assert _tree(tmp_path / "ab") == _tree(tmp_path / "ba")


def test_other_content_under_one_id_is_named_and_neither_is_lost(tmp_path: Path) -> None:
    a, b, into = tmp_path / "a", tmp_path / "b", tmp_path / "into"
    first = _write(_fake(), a)
    second = _write(_fake(), b)
    _change(second, reason="phases done", notes=["another machine"])
    trees = _tree(first), _tree(second)
    merge([a], into)
    (conflict,) = merge([b], into)
    assert conflict.outcome == "conflict"
    assert "notes, reason" in conflict.reason
    assert (_tree(first), _tree(second)) == trees
    assert _tree(Path(conflict.target)) == trees[0]


def test_a_copy_written_by_an_older_program_is_the_same_run(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    _write(_fake(), a)
    _change(_write(_fake(), b), schema_version=2, scales=[], studies=[], external=None)
    merge([a], tmp_path / "into")
    assert [m.outcome for m in merge([b], tmp_path / "into")] == ["same"]


def _newer(folder: Path) -> None:
    _change(folder, schema_version=99)


def _no_json(folder: Path) -> None:
    (folder / "record.json").write_text('{"schema": "tune')


def _no_image(folder: Path) -> None:
    (folder / "snapshots/f100/images/00003-1.png").unlink()


def _other_weights(folder: Path) -> None:
    (folder / "snapshots/f100/adapter/adapter.safetensors").write_bytes(b"others")


def _no_scores(folder: Path) -> None:
    next((folder / "scores").glob("*f100.jsonl")).unlink()


def _points_outside(folder: Path) -> None:
    _change(folder, artifacts=[{"path": "../../../../etc/passwd", "sha256": "00"}])


def _links_outside(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("damage", "said"),
    [(_newer, "schema 99 is newer"), (_no_json, "is damaged"), (_no_image, r"prompt 003 \(seed 1\)"),
     (_other_weights, "adapter.safetensors is not what its record says"), (_no_scores, "is missing"),
     (_points_outside, "leads out of"), (_links_outside, "leads out of")],
)  # fmt: skip
def test_what_cannot_be_trusted_is_refused_by_name_and_the_others_come(tmp_path: Path, damage: Any, said: str) -> None:
    a, into = tmp_path / "a", tmp_path / "into"
    damage(_write(_fake(seed=0), a))
    _write(_fake(seed=1), a)
    by_id = {m.run_id: m for m in merge([a], into)}
    bad = by_id[_fake(seed=0).run_id]
    assert bad.outcome == "refused"
    assert re.search(said, bad.reason)
    assert not Path(bad.target).exists()
    assert by_id[_fake(seed=1).run_id].outcome == "added"


def test_a_run_without_a_record_is_left_to_its_worker(tmp_path: Path) -> None:
    folder = _write(_fake(), tmp_path / "a")
    (folder / "record.json").unlink()
    (only,) = merge([tmp_path / "a"], tmp_path / "into")
    assert only.outcome == "unfinished"


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="there is no folder"):
        merge([tmp_path / "b"], tmp_path / "into")
    with pytest.raises(UserError, match="is the target itself"):
        merge([tmp_path / "a"], tmp_path / "x" / ".." / "a")


def test_kill_9_in_the_middle_leaves_whole_runs_only_and_the_command_goes_on(tmp_path: Path) -> None:
    a, into = tmp_path / "a", tmp_path / "into"
    for seed in range(12):
        folder = _write(_fake(seed=seed), a)
        for i in range(6):
            (folder / "scores" / f"more{i}.bin").write_bytes(os.urandom(1 << 20))
    code = (
        "import sys; from pathlib import Path; from bench.store.merge import merge\n"
        "merge([Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    for wanted in (1, 4):
        process = subprocess.Popen([sys.executable, "-c", code, str(a), str(into)])
        while len(list(into.glob("*/*/*/record.json"))) < wanted and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = list(into.glob("*/*/*/record.json"))
        assert wanted <= len(done) < 12
        for record in done:
            assert _tree(record.parent) == _tree(a / record.parent.relative_to(into))
        runs, unreadable = read_runs(into)
        assert (len(runs), unreadable) == (len(done), [])
    outcomes = [m.outcome for m in merge([a], into)]
    assert outcomes.count("same") + outcomes.count("added") == 12
    assert not (into / ".merge").exists()
