"""The clock that a supervisor outside reads: tuning only, over all attempts, and not the time between them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from bench.engine.tuning import Heartbeat
from bench.launch.local import _tuning_s


def test_a_killed_attempt_counts_until_its_last_ledger_and_the_pause_after_it_does_not(tmp_path: Path) -> None:
    beat, ledger = tmp_path / "tuning.json", tmp_path / "ledger.json"
    now = time.time()
    # killed ten seconds into its tuning, a day ago
    beat.write_text(json.dumps({"before_s": 1.0, "since_unix_s": now - 86_400, "pid": 1}))
    ledger.write_text("{}")
    os.utime(ledger, (now - 86_390, now - 86_390))
    assert _tuning_s(tmp_path, os.getpid()) == 0.0
    with Heartbeat(beat, ledger):
        assert 11.0 <= _tuning_s(tmp_path, os.getpid()) < 12.0
    assert 11.0 <= _tuning_s(tmp_path, os.getpid()) < 12.0
