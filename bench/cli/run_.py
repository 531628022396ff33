"""``bench run``: plan, tune, generate, score, render; the main job."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.core.record import Record
    from bench.engine.plan import PlannedRun
    from bench.launch.base import Job, Launcher


N_WRITERS = 16


@click.command()
@o.plan_options
@click.option("--launcher", default="local", show_default=True, help="Where runs run; see: bench list launchers.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once on this machine.")
@click.option("--wait", is_flag=True, help="Wait for jobs of a cluster and report as for local runs.")
@click.option("--dry-run", is_flag=True, help="Print what would be started, where and for how long; start nothing.")
@o.config
@o.device
@click.option("--retry-failed", is_flag=True, help="Run failed ones again.")
@o.execution_options
@o.as_json
def run(
    launcher: str,
    jobs: int,
    wait: bool,
    dry_run: bool,
    config: Path | None,
    device: str,
    retry_failed: bool,
    dtype: str | None,
    gradient_checkpointing: bool,
    attention_slicing: bool,
    vae_slicing: bool,
    vae_tiling: bool,
    compile: bool,
    json: bool,
    **options: Any,
) -> int:
    """Tune, generate, score and publish. The same command again continues what is missing."""
    from bench.cli._output import print_json
    from bench.core.errors import UserError
    from bench.diffusion.execution import Execution
    from bench.diffusion.sources import find_source
    from bench.engine import devices
    from bench.engine.options import Options
    from bench.engine.plan import make_plan

    options = o.filled(options)
    options["settings"], where = o.split_settings(options["settings"])
    launch = _launcher(launcher, where, jobs=jobs, config=config, wait=wait)
    if launch.here and device.startswith("cuda"):
        devices.resolve(device)
    plan = make_plan(Options(**options))
    runs: Path = options["runs"]
    try:
        kept = plan.to_start()
    except UserError as err:
        raise UserError(err.problem, valid=err.valid, hint=shlex.join(["bench", "plan", *sys.argv[2:]])) from None
    for reason in plan.left_out:
        print(f"left out: {reason}", file=sys.stderr)
    for sentence in dict.fromkeys(sentence for r in kept for sentence in r.absences):
        print(f"absent: {sentence}", file=sys.stderr)
    to_start = _to_start(kept, launch, retry_failed=retry_failed, quiet=json)
    execution = Execution(dtype or "", gradient_checkpointing, attention_slicing, vae_slicing, vae_tiling, compile)
    for run_ in kept:
        if problems := execution.problems(find_source(run_.model_ref)):
            raise UserError(problems[0])
    how = {"device": device, "processes": options["processes"], "micro_batch": options["micro_batch"],
           "execution": dataclasses.asdict(execution)}  # fmt: skip
    if dry_run:
        lines = launch.describe(_jobs(to_start, runs, how)) if to_start else ["nothing to start"]
        print_json({"dry_run": lines, "runs": [r.spec.run_id for r in to_start]}) if json else print("\n".join(lines))
        return 0
    exit_code = _launch(to_start, launch, runs, how, quiet=json)
    if not launch.waits:
        if json:
            print_json({"submitted": [r.spec.run_id for r in to_start], "left_out": plan.left_out})
        return exit_code
    reported = _report(kept, runs, plan.left_out, json=json)
    return exit_code or reported


def _launcher(name: str, settings: Mapping[str, Mapping[str, str]], **options: Any) -> Launcher:
    """The launcher, checked, before anything slow. Raises UserError for settings of another one."""
    from bench.core import registry
    from bench.core.errors import UserError
    from bench.launch.base import LaunchOptions

    cls = registry.load("launchers", name)
    for other in settings.keys() - {name}:
        key = next(iter(settings[other]))
        raise UserError(f"--set {other}.{key} is for --launcher {other}, and this is --launcher {name}",
                        hint=f"--launcher {other}")  # fmt: skip
    launch: Launcher = cls(LaunchOptions(settings=settings.get(name, {}), **options))
    launch.check()
    return launch


def _to_start(runs: Sequence[PlannedRun], launcher: Launcher, *, retry_failed: bool, quiet: bool) -> list[PlannedRun]:
    """The runs that are neither over nor with a cluster; says of the others what they are."""
    from bench.engine.progress import Progress

    say = Progress(quiet=quiet).say
    active = launcher.active([run.folder.root for run in runs if run.state == "started"])
    chosen = []
    for run in runs:
        if run.state == "done":
            say(f"already done: {_name(run)}: {run.folder.record_path}{_unmeasured(run)}")
        elif run.state in ("failed", "diverged") and not retry_failed:
            say(f"already {run.state}: {_name(run)}: {run.folder.record_path} (--retry-failed runs it again)")
        elif run.folder.root in active:
            say(f"already submitted: {_name(run)}: {active[run.folder.root]}")
        else:
            chosen.append(run)
    return chosen


def _unmeasured(run: PlannedRun) -> str:
    """Metrics that were asked for and are not in the finished record, with the command that adds them."""
    measured = run.folder.read_spec().metrics
    lacking = ",".join(name for name in run.spec.metrics if name not in measured)
    return f" (without {lacking}: bench score {run.spec.run_id} --metrics +{lacking})" if lacking else ""


def _jobs(runs: Sequence[PlannedRun], root: Path, how: Mapping[str, Any]) -> list[Job]:
    from bench.cli._estimates import estimates
    from bench.launch.base import Job

    return [
        Job(run.folder.root, run.spec.budget.hard_wall_s, how["processes"], how["device"], estimate=estimate)
        for run, estimate in zip(runs, estimates(runs, root, how["processes"]), strict=True)
    ]


def _launch(runs: Sequence[PlannedRun], launcher: Launcher, root: Path, how: Mapping[str, Any], *, quiet: bool) -> int:
    """Prepares run folders and starts them. Returns the first exit code that is not 0.

    Args:
        how: what changes no answer: device, processes, micro-batch, execution.
    """
    from bench.core.checkout import commit
    from bench.engine.prepare import prepare, suite_files
    from bench.engine.progress import Progress

    progress = Progress(quiet=quiet)
    jobs = _jobs(runs, root, how)
    launcher.check(jobs)
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    for run in runs:
        if run.state in ("failed", "diverged"):
            _set_aside(run)
        progress.say(f"{'continuing' if run.state == 'started' else 'starting'}: {_name(run)}")
    head, dirty = commit()
    request = {**how, "command": command, "cpus": launcher.cpus, "commit": head, "dirty": dirty}
    # a thousand runs are thousands of files, each flushed: waiting for them one by one takes longer than submitting
    with ThreadPoolExecutor(N_WRITERS) as writers:
        files = {id(suite): suite_files(suite) for suite in {id(run.suite): run.suite for run in runs}.values()}
        list(writers.map(lambda run: prepare(run, request, files[id(run.suite)]), runs))
    outcomes = launcher.launch(jobs, quiet=quiet)
    return next((outcome.exit_code for outcome in outcomes if outcome.exit_code), 0)


def _report(runs: Sequence[PlannedRun], root: Path, left_out: Sequence[str], *, json: bool) -> int:
    """Renders the leaderboard and prints what came out. Returns 1 where a run did not end well."""
    from bench.cli._output import print_json

    page = _render(root)
    records = [(r, r.folder.read_record()) for r in runs if r.folder.record_path.exists()]
    if json:
        print_json({"page": str(page), "runs": [_summary(r, rec) for r, rec in records], "left_out": left_out})
    else:
        for planned, record in records:
            _print_record(planned, record)
        print(f"leaderboard: {page}")
    return 1 if any(rec.status not in ("done",) for _, rec in records) else 0


def _name(run: PlannedRun) -> str:
    return f"{run.spec.label} on {run.spec.suite}, seed {run.spec.seed} (run {run.spec.run_id})"


def _set_aside(run: PlannedRun) -> None:
    """Keeps the failed record under another name and lets the run go on from its last checkpoint."""
    n = len(list(run.folder.root.glob("record.failed-*.json")))
    for name in ("tuned.json", "tuning.json"):
        (run.folder.root / name).unlink(missing_ok=True)
    run.folder.record_path.rename(run.folder.root / f"record.failed-{n:03d}.json")


def _render(runs: Any) -> Any:
    from bench.cli._methods import describe
    from leaderboard.site import build

    return build(runs, describe=describe)


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
    from bench.cli._output import print_results
    from bench.engine.summary import sampling

    print(f"\n{run.spec.label} on {run.spec.suite}, reward {run.spec.reward}, seed {run.spec.seed}: "
          f"{record.status} ({record.reason})")  # fmt: skip
    if record.unranked_reason:
        print(f"  not ranked: {record.unranked_reason}")
    if record.error:
        print(f"  {record.error.type}: {record.error.message}")
    print_results(_rows(record))
    if note := sampling(record):
        print(note)
    print(f"record: {run.folder.record_path}")
