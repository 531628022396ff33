"""``bench run``: plan, tune, generate, score, render; the main job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.core.record import Record
    from bench.engine.plan import PlannedRun


@click.command()
@o.plan_options
@click.option("--launcher", default="local", show_default=True, help="Where runs run; see: bench list launchers.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
@click.option("--retry-failed", is_flag=True, help="Run failed ones again.")
@o.as_json
def run(launcher: str, device: str, retry_failed: bool, json: bool, **options: Any) -> int:
    """Tune, generate, score and publish. The same command again continues what is missing."""
    from bench.cli._output import print_json
    from bench.core import registry
    from bench.core.errors import UserError
    from bench.engine.options import Options
    from bench.engine.plan import make_plan

    launch = registry.load("launchers", launcher)()
    plan = make_plan(Options(**options))
    runs: Path = options["runs"]
    try:
        kept = plan.to_start()
    except UserError as err:
        raise UserError(err.problem, valid=err.valid, hint=shlex.join(["bench", "plan", *sys.argv[2:]])) from None
    for reason in plan.left_out:
        print(f"left out: {reason}", file=sys.stderr)
    how = {"device": device, "processes": options["processes"], "micro_batch": options["micro_batch"]}
    exit_code = _launch(kept, launch, how, retry_failed=retry_failed, quiet=json)
    page = _render(runs)
    records = [(r, r.folder.read_record()) for r in kept if r.folder.record_path.exists()]
    if json:
        print_json({
            "page": str(page), "runs": [_summary(r, rec) for r, rec in records], "left_out": plan.left_out,
        })  # fmt: skip
    else:
        for planned, record in records:
            _print_record(planned, record)
        print(f"leaderboard: {page}")
    return exit_code or (1 if any(rec.status not in ("done",) for _, rec in records) else 0)


def _launch(
    runs: Sequence[PlannedRun], launcher: Any, how: Mapping[str, Any], *, retry_failed: bool, quiet: bool
) -> int:
    """Starts what is not done; says what is. Returns the first exit code that is not 0.

    Args:
        how: what changes no answer: device, processes, micro-batch.
    """
    from bench.engine.prepare import prepare
    from bench.engine.progress import Progress
    from bench.launch.base import Job

    progress = Progress(quiet=quiet)
    jobs = []
    for run in runs:
        name = f"{run.spec.label} on {run.spec.suite}, seed {run.spec.seed} (run {run.spec.run_id})"
        if run.state == "done":
            progress.say(f"already done: {name}: {run.folder.record_path}")
            continue
        if run.state in ("failed", "diverged"):
            if not retry_failed:
                progress.say(f"already {run.state}: {name}: {run.folder.record_path} (--retry-failed runs it again)")
                continue
            _set_aside(run)
        progress.say(f"{'continuing' if run.state == 'started' else 'starting'}: {name}")
        command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
        prepare(run, {**how, "command": command})
        jobs.append(Job(run.folder.root, run.spec.budget.hard_wall_s))
    outcomes = launcher.launch(jobs, quiet=quiet)
    return next((outcome.exit_code for outcome in outcomes if outcome.exit_code), 0)


def _set_aside(run: PlannedRun) -> None:
    """Keeps the failed record under another name and lets the run go on from its last checkpoint."""
    n = len(list(run.folder.root.glob("record.failed-*.json")))
    for name in ("tuned.json", "tuning.json"):
        (run.folder.root / name).unlink(missing_ok=True)
    run.folder.record_path.rename(run.folder.root / f"record.failed-{n:03d}.json")


def _render(runs: Any) -> Any:
    from leaderboard.site import build

    return build(runs)


def _summary(run: PlannedRun, record: Record) -> dict[str, Any]:
    return {
        "run_id": record.run_id, "tuner": run.spec.label, "suite": run.spec.suite, "seed": run.spec.seed,
        "status": record.status, "reason": record.reason, "record": str(run.folder.record_path),
        "spent": record.ledger.spent, "metrics": [row.as_dict() for row in _rows(record)],
    }  # fmt: skip


def _rows(record: Record) -> list[Any]:
    from bench.engine.summary import rows

    return rows(record)


def _print_record(run: PlannedRun, record: Record) -> None:
    from bench.cli._output import print_table
    from bench.engine.summary import sampling

    print(f"\n{run.spec.label} on {run.spec.suite}, reward {run.spec.reward}, seed {run.spec.seed}: "
          f"{record.status} ({record.reason})")  # fmt: skip
    if record.unranked_reason:
        print(f"  not ranked: {record.unranked_reason}")
    if record.error:
        print(f"  {record.error.type}: {record.error.message}")
    table = [row.cells() for row in _rows(record)]
    if table:
        print_table(("metric", "base", "tuned", "difference", "95 % interval", "role", "n"), table)
    if note := sampling(record):
        print(note)
    print(f"record: {run.folder.record_path}")
