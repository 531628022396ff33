"""How a run stands: what its folder says, merged with what a cluster says of its job. Pure but for reading files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.store import atomic
from bench.store.fence import attempt_root, read_fence
from bench.store.jobs import SubmittedJob, read_jobs, was_cancelled
from bench.store.liveness import SILENT_S, has_ended, process_is_gone, read_pulse, silent_s
from bench.store.runs import RunFolder

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
RUNNING = frozenset({
    "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
})  # fmt: skip
NEVER = {
    "DependencyNeverSatisfied": "what it waits for failed", "PartitionConfig": "no node of the partition is that large",
    "BadConstraints": "no node is like that", "ReqNodeNotAvail": "the node it asks for is down",
    "JobHeldUser": "it is held; scontrol release", "JobHeldAdmin": "an administrator holds it",
    "PartitionDown": "the partition is down", "AssocMaxJobsLimit": "your limit of jobs is reached",
}  # fmt: skip
"""Reasons for which a job waits longer than its user may think."""
ACTIVE = frozenset({"queued", "requeued", "starting", "running"})
CONTINUE = "the same bench run command continues it"


@dataclass(frozen=True)
class ClusterJob:
    """A job as the cluster shows it."""

    job_id: str
    state: str
    """Slurm's word: PENDING, RUNNING, NODE_FAIL ..."""
    reason: str
    nodes: str


@dataclass(frozen=True)
class Facts:
    """What a run folder says, without asking anybody."""

    folder: Path
    spec: Mapping[str, Any]
    record: Mapping[str, Any] | None
    """status, reason."""
    jobs: tuple[SubmittedJob, ...]
    holder: Mapping[str, Any] | None
    """The newest attempt: number, host, pid, job id, when."""
    ended: str | None
    """How that attempt says it ended; None while it has not."""
    silent_s: float
    gone: bool
    """Its process ran on this machine and is no more."""
    stage: Mapping[str, Any] | None
    """What it was doing: name, count, total, unit, rate_per_s, eta_s."""
    spent: Mapping[str, float]
    lost: Mapping[str, float]

    @property
    def job_ids(self) -> list[str]:
        """Jobs that may have to do with it, the newest last."""
        held = [self.holder["job_id"]] if self.holder is not None and self.holder.get("job_id") else []
        return list(dict.fromkeys([*held, *(job.job_id for job in self.jobs)]))


@dataclass(frozen=True)
class State:
    """How a run stands: a word, why, and what to type where something should be done."""

    word: str
    """done · failed · diverged · running · starting · queued · requeued · tuned · interrupted · cancelled · lost ·
    to do"""
    reason: str = ""
    hint: str = ""
    job_id: str = ""
    """Of the job that waits or runs for it now; of several the foremost."""
    job_ids: tuple[str, ...] = ()
    """Of all that wait or run for it."""


def read_facts(folder: RunFolder) -> Facts:
    """Everything that the folder says. Raises UserError where a file is damaged."""
    spec = atomic.read_json(folder.spec_path)
    record = None
    if folder.record_path.exists():
        whole = atomic.read_json(folder.record_path)
        record = {"status": whole["status"], "reason": whole["reason"]}
    holder = read_fence(folder.root)
    ended, silent, gone, pulse = None, float("inf"), False, None
    if holder is not None:
        attempt = attempt_root(folder.root, holder["number"])
        if has_ended(attempt):
            ended = atomic.read_json(attempt / "exit.json")["exit"]
        elif record is None:
            silent, gone, pulse = silent_s(attempt), process_is_gone(dict(holder)), read_pulse(attempt)
    ledger = atomic.read_json(folder.ledger_path) if folder.ledger_path.exists() else {}
    return Facts(
        folder=folder.root, spec=spec, record=record, jobs=() if record else tuple(read_jobs(folder.root)),
        holder=holder, ended=ended, silent_s=silent, gone=gone, stage=pulse["stage"] if pulse else None,
        spent=ledger.get("spent", {}), lost=ledger.get("lost", {}),
    )  # fmt: skip


def derive(facts: Facts, jobs: Mapping[str, ClusterJob], *, asked: bool) -> State:
    """The state of a run.

    Args:
        jobs: what the cluster knows, by id.
        asked: whether the cluster answered; where not, absence means nothing.
    """
    if facts.record is not None:
        word = facts.record["status"]
        retry = "" if word == "done" else "--retry-failed runs it again"
        return State(word, facts.record["reason"], retry)
    known = [jobs[job_id] for job_id in facts.job_ids if job_id in jobs]
    active = [job for job in known if job.state in WAITING | RUNNING]
    if active:
        first = _foremost(facts, active)
        return replace(_with_cluster(facts, first), job_id=first.job_id, job_ids=tuple(job.job_id for job in active))
    if facts.holder is None:
        return _never_started(facts, known, asked=asked)
    if facts.ended is not None:
        return _ended(facts)
    over = [job for job in known if job.job_id == facts.holder.get("job_id")]
    if over:
        return _job_over(facts, over[-1])
    if facts.gone:
        return State("lost", "its process is gone without a word", f"{CONTINUE}; bench logs {facts.folder.name}")
    if facts.silent_s <= SILENT_S:
        return State("running")
    since = f"no sign of life for {duration(facts.silent_s)}"
    if not asked and facts.holder.get("job_id"):
        return State("lost", f"{since}; its cluster was not asked", "bench status again when squeue answers")
    job = f", and its job {facts.holder['job_id']} is over" if facts.holder.get("job_id") else ""
    return State("lost", f"{since} from {facts.holder['host']}{job}", f"{CONTINUE}; bench logs {facts.folder.name}")


def _foremost(facts: Facts, active: list[ClusterJob]) -> ClusterJob:
    """What a run with stages in several jobs stands at: one that runs, else one that waits for nothing but its turn."""
    held = facts.holder.get("job_id") if facts.holder is not None else None
    running = [job for job in active if job.state in RUNNING]
    own = [job for job in running or active if job.job_id == held]
    ready = [job for job in active if job.reason != "Dependency"]
    return (own or running[-1:] or ready or active)[0]


def _with_cluster(facts: Facts, job: ClusterJob) -> State:
    """Of a run whose job waits or runs."""
    its_own = facts.holder is not None and facts.holder.get("job_id") == job.job_id
    if job.state in WAITING:
        never = NEVER.get(job.reason.split(",")[0])
        why = f"job {job.job_id}" + (f": {job.reason}" if job.reason else "") + (f", {never}" if never else "")
        return State("requeued" if its_own else "queued", why, f"bench cancel {facts.folder.name}" if never else "")
    where = f"job {job.job_id} on {job.nodes}" if job.nodes else f"job {job.job_id}"
    if not its_own:
        stages = [j.stage for j in facts.jobs if j.job_id == job.job_id]
        return State("running", f"{where}, makes images") if stages == ["generate"] else State("starting", where)
    if facts.ended is None and facts.silent_s > SILENT_S:
        return State("running", f"{where}, no sign of life for {duration(facts.silent_s)}",
                     f"bench logs {facts.folder.name}")  # fmt: skip
    return State("running", where)


def _never_started(facts: Facts, known: list[ClusterJob], *, asked: bool) -> State:
    if known:
        # of a run with stages in several jobs the first one failed and Slurm took back those that waited for it
        return _job_over(facts, ([job for job in known if job.state != "CANCELLED"] or known)[-1])
    if not facts.jobs:
        return State("to do", "", "the same bench run command starts it")
    job = facts.jobs[-1]
    if not asked:
        return State("queued", f"job {job.job_id}, as submitted at {job.submitted}")
    if was_cancelled(facts.folder, job.job_id):
        return State("cancelled", f"job {job.job_id}", CONTINUE)
    return State("lost", f"the cluster no longer knows its job {job.job_id}, which never began",
                 "the same bench run command submits it again")  # fmt: skip


def _ended(facts: Facts) -> State:
    assert facts.ended is not None
    log = f"bench logs {facts.folder.name}"
    if facts.ended == "tuned":
        return State("tuned", "images and scores are missing", CONTINUE)
    if facts.ended.startswith(("stopped", "crashed")):
        return State("failed", facts.ended, f"{log}; {CONTINUE}")
    return State("interrupted", "a checkpoint is kept", CONTINUE)


def _job_over(facts: Facts, job: ClusterJob) -> State:
    """Of a run whose job ended without a word in the run folder."""
    note = facts.folder / "jobs" / f"{job.job_id}.reason"
    said = note.read_text("utf-8").strip() if note.exists() else ""
    detail = ", ".join(part for part in (job.state, job.reason, said) if part)
    if job.state == "CANCELLED":
        return State("cancelled", f"job {job.job_id}", CONTINUE)
    infrastructure = job.state in ("NODE_FAIL", "PREEMPTED", "TIMEOUT", "BOOT_FAIL", "DEADLINE")
    return State("interrupted" if infrastructure else "failed", f"job {job.job_id}: {detail}",
                 f"bench logs {facts.folder.name}; {CONTINUE}")  # fmt: skip


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h``, ``2 d``."""
    if seconds == float("inf"):
        return "a long time"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
