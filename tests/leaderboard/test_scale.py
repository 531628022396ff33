"""A site of many runs: what is known is not checked again, what did not change is taken over, memory stays small."""

from __future__ import annotations

import gc
import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.records import write_records
from leaderboard import index_page, read
from leaderboard.read import read_all
from leaderboard.site import build_site

N = 45


def test_one_new_record_costs_one_check_and_few_pages(tmp_path: Path) -> None:
    write_records(tmp_path, N, n_boards=3)
    first = build_site([tmp_path], n_processes=2)
    assert (first.n_runs, first.n_checked, first.n_made) == (N, N, first.n_pages)
    again = build_site([tmp_path])
    assert (again.n_checked, again.n_made) == (0, 0)
    write_records(tmp_path, 1, first=N, n_boards=3)
    second = build_site([tmp_path])
    assert (second.n_runs, second.n_checked) == (N + 1, 1)
    assert second.n_made < second.n_pages / 2
    full = build_site([tmp_path], tmp_path / "full")
    assert _bytes(full.index.parent) == _bytes(second.index.parent)
    assert second.index.stat().st_size < 300_000


def test_a_record_takes_little_memory(tmp_path: Path) -> None:
    write_records(tmp_path, 40)
    read_all([tmp_path])
    gc.collect()
    tracemalloc.start()
    found = read_all([tmp_path])
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.runs) == 40
    assert held / 40 < 64 * 1024  # 5,000 of them below a third of a GiB


@pytest.mark.parametrize("damage", [b"", b"{", b"0" * 64])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: bytes) -> None:
    write_records(tmp_path, 3)
    cache = tmp_path / ".cache" / "leaderboard"
    assert read_all([tmp_path], cache).n_checked == 3
    assert read_all([tmp_path], cache).n_checked == 0
    path = cache / "summaries.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:80] + damage + b"\n", *lines[2:]]))
    again = read_all([tmp_path], cache)
    assert (len(again.runs), again.n_checked) == (3, 1)


def test_two_folders_are_joined_by_run_id(tmp_path: Path) -> None:
    write_records(tmp_path / "a", 3)
    write_records(tmp_path / "b", 3, first=2)  # the third is in both
    found = read_all([tmp_path / "a", tmp_path / "b"])
    assert (len(found.runs), found.unreadable) == (5, [])
    (path,) = (tmp_path / "b").glob(f"*/*/{write_records(tmp_path / 'c', 1, first=2)[0]}/record.json")
    path.write_text(path.read_text("utf-8").replace("budget:denoiser_u", "another"), "utf-8")
    (told,) = read_all([tmp_path / "a", tmp_path / "b"]).unreadable
    assert "again with other content" in told.reason


def test_many_rows_leave_the_front_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_page, "MOST_ROWS_INLINE", 4)
    write_records(tmp_path, 6, n_boards=2)
    built = build_site([tmp_path])
    text = built.index.read_text("utf-8")
    assert 'id="h-boards"' in text
    assert 'class="place"' not in text
    assert len(list((built.index.parent / "boards").glob("*.html"))) == 2


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_digest_is_taken_from_memory_only_where_the_clock_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, fresh = tmp_path / "old.json", tmp_path / "fresh.json"
    for path in (old, fresh):
        path.write_text("one", "utf-8")
    os.utime(old, ns=(10**18, 10**18))
    first = read._Stamps(tmp_path)
    digests = first.digests_of([str(old), str(fresh)])
    first.write()
    times = fresh.stat().st_mtime_ns
    fresh.write_text("two", "utf-8")  # as long, and within the clock's step
    os.utime(fresh, ns=(times, times))
    second = read._Stamps(tmp_path)
    assert second.digests_of([str(fresh)])[str(fresh)] == hashlib.sha256(b"two").hexdigest() != digests[str(fresh)]
    monkeypatch.setattr(read._Stamps, "_digest_of", lambda self, path: pytest.fail(f"{path} was read again"))
    assert second.digests_of([str(old)])[str(old)] == digests[str(old)]


def test_what_a_killed_build_left_half_written_costs_that_record_alone(tmp_path: Path) -> None:
    write_records(tmp_path, 3)
    cache = tmp_path / ".cache" / "leaderboard"
    read_all([tmp_path], cache)
    path = cache / "summaries.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    write_records(tmp_path, 1, first=3)
    assert read_all([tmp_path], cache).n_checked == 2
    assert read_all([tmp_path], cache).n_checked == 0
