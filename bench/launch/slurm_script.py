"""Shell lines of a batch job before its body: every one is checked, and what failed stands in the run folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.store import atomic

TASKS = "tasks.txt"
"""In a submission's folder: a line for each task, its run folders between tabs."""


def write_tasks(submission: Path, tasks: Sequence[Sequence[Path]]) -> None:
    """For the shell, which knows its task's number only."""
    lines = ["\t".join(str(folder) for folder in folders) for folders in tasks]
    atomic.write_text(submission / TASKS, "".join(line + "\n" for line in lines))


def read_tasks(submission: Path) -> list[list[Path]]:
    """The run folders of each task."""
    return [[Path(name) for name in line.split("\t")] for line in (submission / TASKS).read_text("utf-8").splitlines()]


def setup_lines(submission: Path, user: Sequence[str], *, needed: bool = True) -> list[str]:
    """What runs before the job's body.

    submitit goes on when a line fails. Here a line that fails, or leaves, ends the job with its code, after a note
    ``jobs/<job id>.reason`` in each run folder of the task. Python's path is the submitter's, so that the job finds
    what the submitter found, from whatever folder the command was given.

    Args:
        needed: False for a job without run folders, which reports on the others: a line that fails is said there and
            no more, as it failed the others too and that is what there is to report.
    """
    path = shlex.quote(":".join(own_path()))
    found = [
        f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}",
        # where sbatch was told to export nothing, srun would hand on nothing either
        "export SLURM_EXPORT_ENV=ALL",
    ]
    if not needed:
        return [*(_said(line) for line in user), *found]
    lines = [
        f"bench_tasks={shlex.quote(str(submission / TASKS))}",
        "bench_job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
        "bench_left() {",
        "  local code=$1 folder",
        "  trap - EXIT",
        '  echo "tunebench: set-up line failed (exit $code): $bench_line" >&2',
        "  sed -n \"$((${SLURM_ARRAY_TASK_ID:-0} + 1))p\" \"$bench_tasks\" | tr '\\t' '\\n' | while read -r folder; do",
        '    mkdir -p "$folder/jobs"',
        '    echo "set-up line failed (exit $code): $bench_line" >"$folder/jobs/$bench_job.reason"',
        "  done",
        "  [ $code -ne 0 ] || code=1",
        "  exit $code",
        "}",
        "trap 'bench_left $?' EXIT",
    ]
    for line in user:
        # each line by itself: 'set -e' would reach into the scripts that it sources
        lines += [f"bench_line={shlex.quote(line)}", "{", line, "} || bench_left $?"]
    return [*lines, "trap - EXIT", *found]


def _said(line: str) -> str:
    return f"{{\n{line}\n}} || echo \"tunebench: set-up line failed (exit $?): \"{shlex.quote(line)} >&2"


def own_path() -> list[str]:
    """Folders that this Python imports from beside those of its installation, absolute."""
    installed = tuple(str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix))
    found = [str(Path(p or ".").resolve()) for p in sys.path if not p.endswith(".zip")]
    return list(dict.fromkeys(p for p in found if not p.startswith(installed)))


def read_reason(run: Path, job_id: str) -> str | None:
    """Why a job ended before it could work on the run, where its set-up or its task said so."""
    path = run / "jobs" / f"{job_id}.reason"
    return path.read_text("utf-8").strip() if path.exists() else None
