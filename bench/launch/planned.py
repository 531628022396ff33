"""What became of a plan's runs: the check that stands between a cluster's word and a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError
from bench.launch.slurm_script import read_reason
from bench.store.jobs import read_jobs
from bench.store.runs import RunFolder


def read_planned(listing: Path) -> list[Path]:
    """Run folders, one a line, as the submission wrote them."""
    try:
        return [Path(line) for line in listing.read_text("utf-8").splitlines() if line]
    except OSError as err:
        raise UserError(f"cannot read the list of planned runs {listing}: {err.strerror}",
                        valid="planned.txt of a submission under RUNS/.slurm") from err  # fmt: skip


def missing(planned: Sequence[Path]) -> dict[Path, str]:
    """Planned runs without a record, each with what is known of why."""
    found = {}
    for root in planned:
        if not (root / "spec.json").exists():
            found[root] = "its run folder is gone"
        elif not RunFolder(root).record_path.exists():
            reasons = (read_reason(root, job.job_id) for job in reversed(read_jobs(root)))
            found[root] = next(filter(None, reasons), None) or "its job ended without a record, or still waits"
    return found
