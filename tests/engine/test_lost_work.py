"""Lost work over several interruptions: each attempt notes its own, and together they are what the ledger says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from bench.core.budget import Budget, Ledger
from bench.engine.attempt import Attempt, read_attempts
from bench.engine.keeping import charge_late, charge_lost, reached
from bench.store import atomic
from bench.store.runs import RunFolder

BUDGET = Budget(denoiser_u=1000)
UNIT_U = 10.0


class Life:
    """One attempt, driven by hand: as ``LeadTuning`` takes up, books, spends and keeps."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.ledger = folder, Ledger(BUDGET)
        self.attempt = Attempt(folder, "cpu", 1, 1, "all")
        blob, _, _ = folder.load_checkpoint()
        if blob is not None:
            self.ledger.restore(torch.load(io.BytesIO(blob), weights_only=True)["ledger"])
        self.older = reached(folder, self.attempt.number - 1) or dict(self.ledger.spent)
        charge_lost(folder, self.ledger, self.attempt.number)
        self.attempt.lose_rest(self.ledger.lost, folder)
        self.write()
        self.n = round(self.ledger.spent["denoiser_u"] / UNIT_U)

    def write(self) -> None:
        atomic.write_json(self.folder.ledger_path, self.ledger.to_json())

    def die(self) -> None:
        """Without a word, and without leaving files open here."""
        self.attempt._events.close()

    def units(self, n: int) -> None:
        for _ in range(n):
            self.n += 1
            self.ledger.charge("denoiser_fwd", UNIT_U)
            spent: dict[str, Any] = {k: v for k, v in self.ledger.spent.items() if v}
            self.attempt.event("unit", unit=self.n, spent=spent, scalars={})

    def keep(self) -> None:
        buffer = io.BytesIO()
        torch.save({"ledger": self.ledger.to_json()}, buffer)
        self.folder.save_checkpoint(self.n, buffer.getvalue(), {})


def lost(folder: RunFolder) -> list[float]:
    return [entry.lost.get("denoiser_u", 0.0) for entry in read_attempts(folder)]


def test_killed_before_and_after_a_checkpoint_each_loss_is_noted_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = Life(folder)
    first.units(3)
    first.keep()
    first.units(2)
    first.die()  # 2 units are lost
    second = Life(folder)
    assert second.n == 3
    second.units(4)
    second.die()  # before its first checkpoint: 4 are lost, and the 2 stand in its notes and the ledger's file only
    third = Life(folder)
    assert third.n == 3
    assert third.ledger.lost["denoiser_u"] == 60
    third.units(1)
    third.keep()
    third.attempt.end("requeue")
    fourth = Life(folder)
    assert fourth.n == 4
    fourth.units(1)
    fourth.die()
    fifth = Life(folder)
    assert fifth.ledger.lost["denoiser_u"] == 70
    assert lost(folder) == [0.0, 20.0, 40.0, 0.0, 10.0]
    assert sum(lost(folder)) == fifth.ledger.lost["denoiser_u"]
    assert fifth.ledger.spent["denoiser_u"] == 40
    fifth.attempt.end("done")


def test_what_an_older_copy_does_late_is_booked_at_the_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    older = Life(folder)
    older.units(1)
    older.keep()
    newer = Life(folder)
    assert newer.ledger.lost["denoiser_u"] == 0
    older.units(2)  # it lives on where no lock reaches it
    newer.units(5)
    late = charge_late(folder, newer.ledger, newer.attempt.number, newer.older)
    newer.attempt.lose(late)
    assert late["denoiser_u"] == newer.ledger.lost["denoiser_u"] == 20
    assert lost(folder) == [0.0, 20.0]
    assert newer.ledger.spent["denoiser_u"] == 60
    older.die()
    newer.die()
