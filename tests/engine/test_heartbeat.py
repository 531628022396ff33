"""The clock that a supervisor outside reads: tuning only, over all attempts, and not the time between them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from bench.engine.tuning import Heartbeat
from bench.launch.local import _tuning_s


def test_a_killed_attempt_counts_until_its_last_sign_of_life_and_the_pause_after_it_does_not(tmp_path: Path) -> None:
    beat, attempts = tmp_path / "tuning.json", [tmp_path / "attempts" / name for name in ("001", "002")]
    now = time.time()
    # killed ten seconds into its tuning, a day ago; the folder was copied since, which made every file new
    beat.write_text(json.dumps({"before_s": 1.0, "since_unix_s": now - 86_400, "pid": 1}))
    for attempt, ago_s in zip(attempts, (90_000, 86_390), strict=True):
        attempt.mkdir(parents=True)
        (attempt / "pulse.json").write_text(json.dumps({"beat": 2, "unix_s": now - ago_s, "stage": None}))
    (tmp_path / "ledger.json").write_text("{}")
    assert _tuning_s(tmp_path, os.getpid()) == 0.0
    with Heartbeat(beat, attempts):
        assert 11.0 <= _tuning_s(tmp_path, os.getpid()) < 12.0
    assert 11.0 <= _tuning_s(tmp_path, os.getpid()) < 12.0


def test_an_attempt_killed_before_its_first_sign_of_life_costs_nothing(tmp_path: Path) -> None:
    beat = tmp_path / "tuning.json"
    beat.write_text(json.dumps({"before_s": 2.5, "since_unix_s": time.time() - 3600, "pid": 1}))
    with Heartbeat(beat, [tmp_path / "attempts" / "001"]):
        assert 2.5 <= _tuning_s(tmp_path, os.getpid()) < 3.5
