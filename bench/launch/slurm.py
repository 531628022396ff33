"""As jobs of a Slurm cluster, through submitit: one array for equal resources; the run folders hold the truth."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.core import exits, userconfig
from bench.core.errors import UserError
from bench.launch import slurm_cluster, slurm_intent
from bench.launch.base import Job, Launcher, Outcome
from bench.launch.planned import missing
from bench.launch.slurm_arrays import Array, choose_partition, make_arrays
from bench.launch.slurm_cluster import ClusterFacts
from bench.launch.slurm_settings import SlurmSettings, of_report, resolve
from bench.store.jobs import read_jobs
from bench.store.runs import RunFolder

POLL_S = 2.0
POLL_MAX_S = 30.0
TELL_EVERY_S = 60.0
"""Between two lines about a controller that does not answer."""
GONE_S = 30.0
"""How long the file system may take to show a record that a job on another node wrote, and Slurm to end the job of a
run that is done."""


class Slurm(Launcher):
    """Jobs of a Slurm cluster: returns when they are submitted, with --wait when they are over."""

    @functools.cached_property
    def settings(self) -> SlurmSettings:
        return resolve(userconfig.read(self.options.config), self.options.settings)

    @functools.cached_property
    def facts(self) -> ClusterFacts:
        return slurm_cluster.ask()

    @property
    def waits(self) -> bool:
        return self.options.wait

    @property
    def cpus(self) -> int:
        return self.settings.cpus

    def check(self, jobs: Sequence[Job] = ()) -> None:
        """That this is not a job itself; settings, Slurm's commands, its controller; that it has nodes and room."""
        slurm_cluster.refuse_inside_a_job()
        if self.settings.report_partition and self.settings.report:
            # before anything is submitted, as no array would wait for a last job that is refused
            choose_partition(of_report(self.settings), self.facts, "report_partition")
        arrays = make_arrays(jobs, self.settings, self.facts)
        self._leaves_room(sum(len(a.tasks) for a in arrays))

    def active(self, folders: Sequence[Path]) -> dict[Path, str]:
        """One squeue call for all."""
        submitted = {folder: read_jobs(folder) for folder in folders}
        cut_short = slurm_intent.unsettled(_runs_of(folders[0])) if folders else []
        if not any(submitted.values()) and not cut_short:
            return {}
        queue = slurm_cluster.active_jobs()
        if cut_short:
            slurm_intent.adopt(cut_short, queue, self.facts.name)
            submitted = {folder: read_jobs(folder) for folder in folders}
        found = {}
        for folder, jobs in submitted.items():
            for job in jobs:
                if job.cluster == self.facts.name and job.job_id in queue:
                    found[folder] = f"job {job.job_id} {queue[job.job_id].state.lower()}"
                    break
        return found

    def describe(self, jobs: Sequence[Job]) -> list[str]:
        """Arrays, resources, walltime and why, GPU-hours."""
        arrays = make_arrays(jobs, self.settings, self.facts)
        lines = []
        for array in arrays:
            r = array.resources
            stage = "" if r.stage == "all" else f" {r.stage}"
            stage += _part(array)
            lines.append(f"array{stage}: {len(array.tasks)} job(s), {len(array.jobs)} run(s), each job {r.text()}, "
                         f"{r.time_min} min")  # fmt: skip
            lines.append(f"  {r.time_min} min = {array.why}")
        expected, most = (sum(hours) for hours in zip(*(a.gpu_hours() for a in arrays), strict=True))
        where = self.settings.partition or (self.facts.default.name if self.facts.default else "no default")
        lines.append(f"cluster {self.facts.name}, partition {where}: {len(arrays)} array(s), "
                     f"about {expected:,.1f} GPU-hours expected, {most:,.1f} at most")  # fmt: skip
        return lines

    def launch(self, jobs: Sequence[Job], *, quiet: bool = False) -> list[Outcome]:
        """Submits; with --wait, waits."""
        if not jobs:
            return []
        from bench.launch.slurm_submit import new_submission, submit, submit_report

        self.check(jobs)
        arrays = make_arrays(jobs, self.settings, self.facts)
        runs = _runs_of(jobs[0].folder)
        folder = new_submission(runs)
        ids: list[str] = []
        start = time.monotonic()
        try:
            before: list[tuple[str, str]] = []
            for number, array in enumerate(arrays):
                if array.resources.stage in ("all", "tune"):
                    before = []
                new = submit(array, folder / f"{number:03d}", self.settings, self.facts, _after(array, before))
                ids += new
                before.append((array.resources.stage, new[0].partition("_")[0]))
                self._say(array, new)
        except UserError as err:
            raise _partly(err, ids) from err
        print(f"{len(jobs)} run(s) submitted in {time.monotonic() - start:.1f} s; logs and scripts: {folder}",
              file=sys.stderr)  # fmt: skip
        if self.waits:
            return self._wait(jobs, ids)
        if self.settings.report:
            try:
                last = submit_report(ids, runs, [j.folder for j in jobs], folder / "report", self.settings, self.facts)
                print(f"job {last} renders the leaderboard after them: {runs}/leaderboard/index.html", file=sys.stderr)
            except UserError as err:
                print(f"no last job renders the leaderboard: {err.problem}\ntry:   bench report --runs {runs}",
                      file=sys.stderr)  # fmt: skip
        print("next:  bench status --watch   bench logs RUN   bench cancel RUN   the same command again continues",
              file=sys.stderr)  # fmt: skip
        return [Outcome(job.folder, exits.DONE) for job in jobs]

    def _leaves_room(self, n: int) -> None:
        """sbatch itself would try for two minutes before it says so."""
        held = len(slurm_cluster.active_jobs()) if n > self.facts.max_jobs // 2 else 0
        if n + held > self.facts.max_jobs:
            raise UserError(
                f"{n} job(s) are more than cluster {self.facts.name} has room for: it holds {self.facts.max_jobs} "
                f"(MaxJobCount), {held} of them yours already",
                valid=f"{max(0, self.facts.max_jobs - held)} job(s) at once",
                hint="fewer --seeds or --tuner, or --set slurm.pack=N to share jobs; the same command later continues",
            )  # fmt: skip

    def _say(self, array: Array, ids: Sequence[str]) -> None:
        number, _, _ = ids[0].partition("_")
        what = f"array {number}: {len(ids)} jobs" if len(ids) > 1 else f"job {number}"
        stage = "" if array.resources.stage == "all" else f", stage {array.resources.stage}{_part(array)}"
        print(f"{what}, {len(array.jobs)} run(s){stage}, each job {array.resources.text()}, "
              f"{array.resources.time_min} min = {array.why}", file=sys.stderr)  # fmt: skip

    def _wait(self, jobs: Sequence[Job], ids: Sequence[str]) -> list[Outcome]:
        """Until every run has a record and all jobs are over; a run whose job is gone without one is lost."""
        waiting = {job.folder for job in jobs}
        mine, idle_s, poll_s, told = set(ids), 0.0, POLL_S, -TELL_EVERY_S
        while idle_s < GONE_S:
            time.sleep(poll_s)
            waiting = {folder for folder in waiting if not RunFolder(folder).record_path.exists()}
            try:
                queued = bool(mine & slurm_cluster.active_jobs().keys())
            except UserError as err:
                # a controller that is being restarted has not lost its jobs
                if time.monotonic() - told >= TELL_EVERY_S:
                    told = time.monotonic()
                    print(f"waiting on: {err.problem}", file=sys.stderr, flush=True)
                continue
            if not waiting and not queued:
                break
            # records without a job, or jobs without a run: the file system, or Slurm, needs a moment
            idle_s = 0.0 if queued and waiting else idle_s + poll_s
            poll_s = min(POLL_MAX_S, 1.1 * poll_s) if queued and waiting else POLL_S
        for folder, why in missing(sorted(waiting)).items():
            print(f"lost: {folder.name}: {why}\ntry:   bench logs {folder.name}", file=sys.stderr)
        return [Outcome(job.folder, exits.FAILED if job.folder in waiting else exits.DONE) for job in jobs]


def _after(array: Array, before: Sequence[tuple[str, str]]) -> str:
    """What an array waits for, as sbatch's --dependency has it, of the (stage, array) that go before.

    Each task for the tuning of its own runs, which must have ended well, and for parts of images only to be over: a
    part that is missing is made by the last stage, and a job that died takes no other with it.
    """
    tuned = [f"aftercorr:{job}" for stage, job in before if stage == "tune"]
    parts = [job for stage, job in before if stage == "generate"] if array.resources.stage == "evaluate" else []
    return ",".join([*tuned, *(["afterany:" + ":".join(parts)] if parts else [])])


def _part(array: Array) -> str:
    number, of = array.shard
    return f", part {number + 1} of {of}" if of > 1 else ""


def _partly(err: UserError, ids: Sequence[str]) -> UserError:
    """Says what of a submission stands although a later array was refused."""
    if not ids:
        return err
    arrays = ", ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in ids))
    return UserError(f"{err.problem} ({len(ids)} job(s) were submitted before: {arrays}; they stay)",
                     valid=err.valid, hint=err.hint)  # fmt: skip


def _runs_of(folder: Path) -> Path:
    return folder.resolve().parents[2]
