"""The fence: whoever claims a run last is the only one who can change what attempts share, whatever older copies do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core import exits
from bench.core.errors import UserError
from bench.store import atomic, liveness
from bench.store.fence import Fence, Stale, attempt_root, read_fence
from bench.store.runs import RunFolder

FACTS = {
    "host": "n1",
    "pid": 4711,
    "job_id": "12_3",
    "cluster": "c",
    "restarts": 0,
    "started": "2026-01-01T00:00:00+00:00",
}


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_holder_writes_and_an_older_copy_changes_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    old = Fence.claim(tmp_path, FACTS)
    with old:
        folder.save_checkpoint(3, b"old", {})
        atomic.write_json(folder.ledger_path, {"by": "old"})
    new = Fence.claim(tmp_path, {**FACTS, "host": "n2"})
    with new:
        folder.save_checkpoint(4, b"new", {})
        atomic.write_json(folder.record_path, {"by": "new"})
    before = tree(tmp_path)
    with old:
        for change in (
            lambda: atomic.write_json(folder.ledger_path, {"by": "old, later"}),
            lambda: atomic.write_json(folder.record_path, {"by": "old, later"}),
            lambda: folder.save_checkpoint(5, b"old, later", {}),
            folder.drop_checkpoints,
            lambda: atomic.write_bytes(folder.snapshots / "f100" / "images" / "000000.png", b"x"),
        ):
            with pytest.raises(Stale, match=r"started anew by attempt 2 on n2, job 12_3; this copy, attempt 1, stops"):
                change()
    assert tree(tmp_path) == before
    assert Stale("x").exit_code == exits.STALE


def test_a_write_that_had_begun_before_the_claim_does_not_land_after_it(tmp_path: Path) -> None:
    """Between an older copy's look at the token and its rename there is time: the rename itself must fail."""
    old = Fence.claim(tmp_path, FACTS)
    with old, pytest.raises(Stale), atomic.new_folder(tmp_path / "checkpoints" / "00000001") as making:
        (making / "state.pt").write_bytes(b"old")
        with Fence.claim(tmp_path, FACTS):
            pass
    assert not (tmp_path / "checkpoints" / "00000001").exists()


def test_what_is_an_attempts_own_it_may_always_write(tmp_path: Path) -> None:
    old = Fence.claim(tmp_path, FACTS)
    Fence.claim(tmp_path, FACTS)
    with old:
        atomic.write_json(old.attempt / "exit.json", {"exit": "stopped"})
    assert (attempt_root(tmp_path, 1) / "exit.json").exists()


def test_of_many_that_start_at_once_each_has_a_number_and_the_last_can_write(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from bench.store.fence import Fence, Stale; from bench.store import atomic\n"
        "root = Path(sys.argv[1]); sys.stdin.readline()\n"
        "try: fence = Fence.claim(root, {'host': 'h', 'pid': 1, 'job_id': None})\n"
        "except Stale: print(0, flush=True); sys.stdin.readline(); print('Stale'); raise SystemExit\n"
        "print(fence.number, flush=True); sys.stdin.readline()\n"
        "with fence:\n"
        "    try: atomic.write_json(root / 'ledger.json', {'by': fence.number}); print('wrote')\n"
        "    except Stale: print('Stale')\n"
    )  # fmt: skip
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         text=True) for _ in range(8)
    ]  # fmt: skip
    numbers = []
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        assert process.stdout is not None
        numbers.append(int(process.stdout.readline()))
    said = [process.communicate("go\n")[0].strip() for process in started]
    claimed = [n for n in numbers if n]
    assert len(set(claimed)) == len(claimed)
    assert [n for n, word in zip(numbers, said, strict=True) if word == "wrote"] == [8]
    assert said.count("Stale") == 7
    assert json.loads((tmp_path / "ledger.json").read_text()) == {"by": 8}
    holder = read_fence(tmp_path)
    assert holder is not None and holder["number"] == 8


def test_a_removed_run_folder_is_said_to_be_removed(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fence = Fence.claim(root, FACTS)
    atomic.remove(root)
    with fence, pytest.raises(UserError, match="was removed while attempt 1 worked in it"):
        atomic.write_json(root / "ledger.json", {})
    assert not root.exists()


def hold(root: Path, **facts: object) -> Fence:
    """An attempt that another process is taken to hold."""
    return Fence.claim(root, {**FACTS, **facts})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "WATCH_S", 1.0)
    monkeypatch.setattr(liveness, "LOCK_WAIT_S", 0.1)
    for key in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CLUSTER_NAME",
                "SLURM_RESTART_COUNT"):  # fmt: skip
        monkeypatch.delenv(key, raising=False)


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_whose_pulse_beats_is_left_alone(tmp_path: Path) -> None:
    fence = hold(tmp_path, host="elsewhere")
    code = (
        "import json, sys, time\nfor n in range(100):\n"
        "    open(sys.argv[1], 'w').write(json.dumps({'beat': n})); time.sleep(0.1)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(fence.attempt / liveness.PULSE)])
    try:
        with pytest.raises(UserError, match="attempt 1 on elsewhere, job 12_3: it shows signs of life"):
            for _ in range(20):  # a beat may be half written when it is read
                with liveness.turn(tmp_path):
                    pass
    finally:
        other.kill()
        other.wait()


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_without_a_pulse_is_taken_over(tmp_path: Path) -> None:
    hold(tmp_path, host="elsewhere")
    with liveness.turn(tmp_path):
        pass


@pytest.mark.usefixtures("quick")
def test_a_requeued_job_does_not_wait_for_its_older_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm gave a node up that lives on: its copy still holds the lock where both see one file system."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "c")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    hold(tmp_path, host=socket.gethostname(), pid=os.getpid())
    code = (
        "import sys, time; from pathlib import Path; from bench.store.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        with liveness.turn(tmp_path):
            pass
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
        with pytest.raises(UserError, match="another process"), liveness.turn(tmp_path):
            pass
    finally:
        other.kill()
        other.communicate()


@pytest.mark.usefixtures("quick")
def test_what_the_given_up_copy_starts_again_does_not_take_the_run_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "c")
    hold(tmp_path, job_id="12", restarts=1)
    with pytest.raises(Stale, match="Slurm has started job 12 anew as attempt 1 on n1"), liveness.turn(tmp_path):
        pass


def test_a_dead_process_that_nobody_buried_is_gone() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert liveness.process_is_gone({"host": socket.gethostname(), "pid": child.pid})
    assert not liveness.process_is_gone({"host": socket.gethostname(), "pid": os.getpid()})
    child.wait()
    assert liveness.process_is_gone({"host": socket.gethostname(), "pid": child.pid})
