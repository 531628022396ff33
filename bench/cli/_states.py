"""Every run under a folder with its state: what ``status`` shows and ``cancel`` acts on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.launch import slurm_cluster, slurm_intent
from bench.launch.queue import Queue, ask, ask_history
from bench.store.runs import RunFolder, iter_run_folders
from bench.store.state import Facts, State, derive, read_facts

N_READERS = 8
"""Run folders read at once: on a network file system the time goes into waiting."""


@dataclass(frozen=True)
class Row:
    """One run."""

    facts: Facts
    state: State

    @property
    def name(self) -> str:
        return self.facts.folder.name

    def as_dict(self) -> dict[str, Any]:
        """Plain figures for --json and tables."""
        f, spec = self.facts, self.facts.spec
        primary = spec["budget"]["primary"]
        live = self.state.word == "running"
        return {
            "run_id": spec.get("run_id", f.folder.name), "suite": spec["suite"],
            "tuner": spec["label"], "reward": spec["reward"], "seed": spec["seed"], "state": self.state.word,
            "reason": self.state.reason or None, "hint": self.state.hint or None, "folder": str(f.folder),
            "primary": primary, "limit": float(spec["budget"][primary]), "spent": f.spent.get(primary, 0.0),
            "lost": f.lost.get(primary, 0.0), "steps": f.spent.get("steps", 0.0),
            "stage": dict(f.stage) if live and f.stage else None,
            "attempt": f.holder["number"] if f.holder else 0, "host": f.holder["host"] if f.holder else None,
            "job_id": f.job_ids[-1] if f.job_ids else None,
        }  # fmt: skip


def read_states(runs: Path, names: Sequence[RunFolder] | None = None) -> tuple[list[Row], Queue]:
    """States of all runs under ``runs``, or of those named; with at most one call of squeue and one of sacct."""
    folders = list(iter_run_folders(runs)) if names is None else list(names)
    problem = _adopt(runs)
    with ThreadPoolExecutor(N_READERS) as readers:
        facts = list(readers.map(read_facts, folders))
    open_runs = [f for f in facts if f.record is None and f.job_ids]
    queue = ask({job_id for f in open_runs for job_id in f.job_ids})
    queue.problem = queue.problem or problem
    if not queue.problem:
        # its own words are enough for a run whose attempt said how it ended
        unknown = [f for f in open_runs if f.ended is None and not any(i in queue.jobs for i in f.job_ids)]
        since = min((f.jobs[0].submitted if f.jobs else str((f.holder or {})["started"]) for f in unknown), default="")
        ask_history(queue, {job_id for f in unknown for job_id in f.job_ids}, since.partition("+")[0])
    return [Row(f, derive(f, queue.jobs, asked=not queue.problem)) for f in facts], queue


def _adopt(runs: Path) -> str:
    """Notes the jobs of a submission that was cut short in their run folders; why it could not, or empty."""
    cut_short = slurm_intent.unsettled(runs)
    if not cut_short:
        return ""
    if shutil.which("squeue") is None:
        return f"{len(cut_short)} submission(s) were cut short, and this machine has no squeue to look for their jobs"
    try:
        slurm_intent.adopt(cut_short, slurm_cluster.active_jobs())
    except UserError as err:
        return err.problem
    return ""
