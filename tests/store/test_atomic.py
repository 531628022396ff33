"""Files are whole or absent, whatever happens; a full disk is one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.store import atomic


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        atomic.write_json(path, {"x": object()})
    assert atomic.read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "f"
    with pytest.raises(ZeroDivisionError), atomic.new_folder(target) as making:
        (making / "x").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    for text in ("one", "two"):
        with atomic.new_folder(target) as making:
            (making / "x").write_text(text)
    assert (target / "x").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_kill_9_in_the_middle_of_writing_leaves_whole_files(tmp_path: Path) -> None:
    """A writer rewrites one file without pause; it is killed at many moments; a reader never sees half of it."""
    code = (
        "import sys; from pathlib import Path; from bench.store import atomic\n"
        "i = 0\n"
        "while True:\n"
        "    i += 1; atomic.write_json(Path(sys.argv[1]) / 'a.json', {'i': i, 'fill': 'x' * 200_000})\n"
    )
    for wait_s in (0.0, 0.003, 0.01, 0.017):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        while not (tmp_path / "a.json").exists():
            time.sleep(0.01)
        time.sleep(wait_s)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(atomic.read_json(tmp_path / "a.json")["fill"]) == 200_000
    atomic.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_said_in_one_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real kernel error: the file size limit of this process, which the write runs into half way."""
    path = tmp_path / "a.bin"
    atomic.write_bytes(path, b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from bench.store import atomic\n"
        "from bench.core.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: atomic.write_bytes(Path(sys.argv[1]), b'x' * 100_000)\n"
        "except UserError as err: print(err)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert "continues" in done.stdout
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_file_system(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this sandbox does not let root mount a tmpfs")
    try:
        atomic.write_text(small / "kept", "kept")
        with pytest.raises(UserError, match="the disk is full"):
            atomic.write_bytes(small / "big", b"x" * 200_000)
        assert (small / "kept").read_text() == "kept"
        assert [p.name for p in small.iterdir()] == ["kept"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x":')
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        atomic.read_json(tmp_path / "a.json")
