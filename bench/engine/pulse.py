"""A sign of life: what a worker is doing, written every few seconds for those who look from outside."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.engine.progress import Progress
from bench.store.liveness import BEAT_S, PULSE


class Pulse:
    """While held, a thread keeps ``attempts/NNN/pulse.json`` fresh, also while a unit of tuning takes minutes."""

    def __init__(self, attempt: Path, progress: Progress) -> None:
        self._path = attempt / PULSE
        self._progress = progress
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        n = 0
        while True:
            n += 1
            self._write({"beat": n, "unix_s": time.time(), "stage": self._progress.now()})
            if self._over.wait(BEAT_S):
                return

    def _write(self, facts: dict[str, Any]) -> None:
        """Not flushed to the disk: a beat that a power cut loses is no loss, and a full disk ends no run here."""
        making = self._path.with_suffix(".tmp")
        try:
            making.write_text(json.dumps(facts), "utf-8")
            os.replace(making, self._path)
        except OSError:
            making.unlink(missing_ok=True)
