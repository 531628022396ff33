"""How the task of a job ends, which decides whether Slurm lets what waits for it begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core import exits
from bench.launch.base import Outcome
from bench.launch.slurm_task import exit_code


@pytest.mark.parametrize(
    ("stage", "codes", "with_record", "ends"),
    [
        ("tune", (exits.FAILED, exits.DONE), {0}, exits.DONE),
        ("tune", (exits.DONE, exits.USER), set(), exits.DONE),
        ("tune", (exits.FAILED, exits.FAILED), {0, 1}, exits.FAILED),
        # the second was done by an earlier job and waits for nothing
        ("tune", (exits.FAILED, exits.DONE), {0, 1}, exits.FAILED),
        ("tune", (exits.STALE,), set(), exits.DONE),
        ("tune", (exits.REQUEUE, exits.REQUEUE), set(), exits.REQUEUE),
        ("all", (exits.DONE, exits.FAILED), {0, 1}, exits.FAILED),
        ("evaluate", (exits.USER, exits.DONE), {1}, exits.USER),
    ],
)
def test_a_tuning_task_ends_well_while_one_of_its_runs_needs_the_next_stage(
    tmp_path: Path, stage: str, codes: tuple[int, ...], with_record: set[int], ends: int
) -> None:
    folders = [tmp_path / str(k) for k in range(len(codes))]
    for k, folder in enumerate(folders):
        folder.mkdir()
        if k in with_record:
            (folder / "record.json").touch()
    assert exit_code(stage, [Outcome(f, code) for f, code in zip(folders, codes, strict=True)]) == ends
