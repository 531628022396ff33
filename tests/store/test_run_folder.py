"""The run folder: checkpoints fall back, locks die with their process, specs come back as they went."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.store.lock import exclusive, is_held
from bench.store.runs import RunFolder, spec_from_json
from tests.core.test_identity import SPEC


def test_a_spec_comes_back_as_it_went(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_spec(SPEC)
    assert folder.read_spec() == SPEC


def test_a_spec_of_a_newer_program_is_refused() -> None:
    with pytest.raises(UserError, match="unknown fields"):
        spec_from_json({"later": 1})


def test_the_newest_whole_checkpoint_wins_and_damage_falls_back_with_a_word(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for unit in (5, 10, 15):
        folder.save_checkpoint(unit, f"state {unit}".encode(), {})
    assert folder.load_checkpoint()[0] == b"state 15"
    (folder.checkpoints / "00000015" / "state.pt").write_bytes(b"garbage")
    state, meta, warnings = folder.load_checkpoint()
    assert (state, meta["unit"]) == (b"state 10", 10)
    assert "00000015 is unreadable" in warnings[0]
    (folder.checkpoints / "00000010" / "meta.json").write_text("{")
    state, _, warnings = folder.load_checkpoint()
    assert state is None
    assert len(warnings) == 2


def test_a_lock_is_exclusive_names_its_holder_and_dies_with_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from bench.store.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_held(path)
    with pytest.raises(UserError, match=str(holder.pid)), exclusive(path, "run 1"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert not is_held(path)
    with exclusive(path, "run 1", wait_s=1):
        pass
