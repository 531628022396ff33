"""How a run stands, for everything that a folder and a cluster can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.store.jobs import SubmittedJob, note_job, read_jobs
from bench.store.state import ClusterJob, Facts, derive, duration

HOLDER: Mapping[str, Any] = {"number": 1, "host": "n1", "pid": 1, "job_id": "12_3", "cluster": "c"}
JOB = SubmittedJob("12_3", "2026-01-01T00:00:00+00:00", "c")


def facts(**changes: Any) -> Facts:
    empty = Facts(
        folder=Path("/runs/s/t/abc"), spec={}, record=None, jobs=(), holder=None, ended=None, silent_s=1.0, gone=False,
        stage=None, spent={}, lost={},
    )  # fmt: skip
    return replace(empty, **changes)


def on_cluster(state: str, reason: str = "") -> dict[str, ClusterJob]:
    return {"12_3": ClusterJob("12_3", state, reason, "n1")}


LOCAL = {**HOLDER, "job_id": None}


@pytest.mark.parametrize(
    ("known", "jobs", "asked", "word", "says"),
    [
        (facts(record={"status": "done", "reason": "budget:steps"}), {}, True, "done", "budget:steps"),
        (facts(record={"status": "failed", "reason": "boom"}), on_cluster("RUNNING"), True, "failed", "boom"),
        (facts(), {}, True, "to do", ""),
        (facts(jobs=(JOB,)), on_cluster("PENDING", "Priority"), True, "queued", "job 12_3: Priority"),
        (
            facts(jobs=(JOB,)),
            on_cluster("PENDING", "DependencyNeverSatisfied"),
            True,
            "queued",
            "what it waits for failed",
        ),
        (facts(jobs=(JOB,)), {}, True, "lost", "no longer knows its job 12_3"),
        (facts(jobs=(JOB,)), {}, False, "queued", "as submitted"),
        (facts(jobs=(JOB,)), on_cluster("CANCELLED"), True, "cancelled", "job 12_3"),
        (facts(jobs=(JOB,)), on_cluster("RUNNING"), True, "starting", "on n1"),
        (facts(holder=HOLDER), on_cluster("RUNNING"), True, "running", "job 12_3 on n1"),
        (facts(holder=HOLDER, silent_s=400.0), on_cluster("RUNNING"), True, "running", "no sign of life for 7 min"),
        (facts(holder=HOLDER, ended="requeue"), on_cluster("PENDING", "BeginTime"), True, "requeued", "BeginTime"),
        (facts(holder=HOLDER), on_cluster("NODE_FAIL"), True, "interrupted", "NODE_FAIL"),
        (facts(holder=HOLDER), on_cluster("OUT_OF_MEMORY"), True, "failed", "OUT_OF_MEMORY"),
        (facts(holder=HOLDER), on_cluster("CANCELLED"), True, "cancelled", ""),
        (facts(holder=HOLDER), {}, True, "running", ""),
        (facts(holder=HOLDER, silent_s=400.0), {}, True, "lost", "its job 12_3 is over"),
        (facts(holder=HOLDER, silent_s=400.0), {}, False, "lost", "its cluster was not asked"),
        (facts(holder=HOLDER, ended="interrupted"), {}, True, "interrupted", "a checkpoint is kept"),
        (facts(holder=HOLDER, ended="tuned"), {}, True, "tuned", "images and scores"),
        (facts(holder=HOLDER, ended="stopped: out of memory"), {}, True, "failed", "out of memory"),
        (facts(holder=LOCAL), {}, True, "running", ""),
        (facts(holder=LOCAL, gone=True), {}, True, "lost", "its process is gone"),
        (facts(holder=LOCAL, silent_s=90.0), {}, True, "lost", "no sign of life for 90 s from n1"),
    ],
)
def test_states(known: Facts, jobs: dict[str, ClusterJob], asked: bool, word: str, says: str) -> None:
    state = derive(known, jobs, asked=asked)
    assert state.word == word
    assert says in state.reason
    # a state that somebody should act on says what to type
    assert bool(state.hint) == (word in ("lost", "failed", "interrupted", "cancelled", "tuned", "to do")
                                or "no sign" in says or "failed" in says)  # fmt: skip


STAGES = tuple(
    SubmittedJob(job_id, JOB.submitted, "c", stage)
    for job_id, stage in (("9", "tune"), ("10", "generate"), ("11", "generate"), ("12", "evaluate"))
)
TUNING: Mapping[str, Any] = {**HOLDER, "job_id": "9"}


def staged(*states: str) -> dict[str, ClusterJob]:
    """The cluster's word of the four jobs; ``PENDING`` ones wait for others."""
    return {
        job.job_id: ClusterJob(job.job_id, state, "Dependency" if state == "PENDING" else "", "n1")
        for job, state in zip(STAGES, states, strict=True)
    }


@pytest.mark.parametrize(
    ("known", "jobs", "word", "job_id", "n_active"),
    [
        (facts(jobs=STAGES, holder=TUNING), staged("RUNNING", *["PENDING"] * 3), "running", "9", 4),
        (facts(jobs=STAGES, holder=TUNING), staged(*["PENDING"] * 4), "requeued", "9", 4),
        (facts(jobs=STAGES, holder=TUNING, ended="tuned"), staged("COMPLETED", "RUNNING", "PENDING", "PENDING"),
         "running", "10", 3),
        (facts(jobs=STAGES, holder=TUNING, ended="tuned"), staged(*["COMPLETED"] * 3, "RUNNING"), "starting", "12", 1),
        (facts(jobs=STAGES, holder=TUNING, ended="tuned"), staged(*["COMPLETED"] * 3, "NODE_FAIL"), "tuned", "", 0),
        # its set-up failed before anything began, and Slurm took the others back
        (facts(jobs=STAGES), staged("FAILED", *["CANCELLED"] * 3), "failed", "", 0),
        (facts(jobs=STAGES), staged(*["CANCELLED"] * 4), "cancelled", "", 0),
    ],
)  # fmt: skip
def test_a_run_in_several_jobs_stands_where_the_foremost_does(
    known: Facts, jobs: dict[str, ClusterJob], word: str, job_id: str, n_active: int
) -> None:
    state = derive(known, jobs, asked=True)
    assert (state.word, state.job_id, len(state.job_ids)) == (word, job_id, n_active)


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (119, "119 s"), (600, "10 min"), (90_000, "25 h")])
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_jobs_of_one_second_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for job in reversed(STAGES):
        note_job(tmp_path, job)
    assert read_jobs(tmp_path) == list(STAGES)
