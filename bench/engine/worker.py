"""The worker: carries out one run folder, stage by stage, from wherever an earlier attempt left it.

    prepare (done by ``bench.engine.prepare``) -> tune -> generate -> score -> record.json

Each stage looks at what is on disk and does what is missing, so that the same command again is the recovery procedure.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from bench.core import exits, registry
from bench.core.contract import ImageFolder, make_config
from bench.core.errors import Diverged, UserError
from bench.core.judging import Judging
from bench.core.record import ErrorEntry, Record
from bench.core.types import RunSpec, Suite
from bench.diffusion import adapters
from bench.diffusion.execution import Execution
from bench.diffusion.memory import is_out_of_memory
from bench.diffusion.models import BaseModel
from bench.diffusion.processes import Processes, ProcessLost
from bench.engine import imaging, ranks, scoring, tuning
from bench.engine.attempt import Attempt, read_attempts
from bench.engine.devices import resolve
from bench.engine.generating import Generation
from bench.engine.kept import own_rewards
from bench.engine.log import log_tail, logged
from bench.engine.prepare import read_suite
from bench.engine.progress import Progress
from bench.engine.pulse import Pulse
from bench.engine.recording import Recorder, Status, error_entry
from bench.engine.shards import Shard, helpers
from bench.store import atomic
from bench.store.liveness import turn
from bench.store.runs import RunFolder

Stage = Literal["all", "tune", "evaluate"]
Ending = tuple[Status, str, ErrorEntry | None]
"""Status, reason, error."""


class Stopped(Exception):
    """A signal asked: the attempt ended at a safe point and keeps everything. ``code`` is the process's exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Worker:
    """One attempt at one run."""

    def __init__(self, folder: RunFolder, *, quiet: bool = False) -> None:
        self.folder = folder
        self.progress = Progress(quiet=quiet)
        self.spec: RunSpec = folder.read_spec()
        self.suite: Suite = read_suite(folder)
        self.request: Mapping[str, Any] = atomic.read_json(folder.request_path)
        self.cache = Path(self.request["runs"]) / ".cache"
        self.device = resolve(self.request["device"])
        self.processes: int = self.request.get("processes", 1)
        asked = self.request.get("micro_batch") or self.spec.global_batch // self.processes
        self.micro_batch = min(asked, tuning.fitting_micro_batch(folder) or asked)
        self.execution = Execution.of(self.request, self.device)
        torch.set_num_threads(self.request["n_threads"])
        self.recorder = Recorder(
            folder, self.spec, self.suite, self.request, self.device, self.processes, self.micro_batch,
            self.execution.to_json(),
        )  # fmt: skip
        self.asked_to_leave = 0
        """The exit code to leave with at the next safe point; 0 while nobody asked."""
        self._model: BaseModel | None = None

    def execute(self, stage: Stage = "all", *, redirect: bool = True) -> Record | None:
        """Does what is missing of ``stage`` and, after the last one or a failure, writes the record.

        Args:
            stage: ``tune`` leaves images and scores to a later ``evaluate``, which may run elsewhere.
            redirect: see ``bench.engine.log.logged``.

        Returns:
            The record; None when tuning is over and evaluation is for another job.

        Raises:
            UserError: something the user can put right; the run stays unfinished and nothing is lost. ``Stale`` when
                a newer attempt took over.
            Stopped: a signal asked; likewise.
        """
        with turn(self.folder.root):
            if self.folder.record_path.exists():
                return self.folder.read_record()
            if stage == "evaluate":
                self._check_tuned()
            attempt = Attempt(self.folder, self.device, self.processes, self.micro_batch, stage)
            with (
                attempt.fence, logged(attempt.root, redirect=redirect) as (log, screen),
                Pulse(attempt.root, self.progress),
            ):  # fmt: skip
                self.progress.write_to(log, screen)
                try:
                    return self._attempt(attempt, stage)
                except UserError as err:
                    self.progress.note(f"error: {err}")
                    raise
                except Stopped:
                    self.progress.say("asked to leave: a checkpoint is kept; the same command continues")
                    raise
                except Exception:
                    self.progress.note(traceback.format_exc())
                    raise
                finally:
                    self.progress.write_to(None, sys.stderr)

    def _attempt(self, attempt: Attempt, stage: Stage) -> Record | None:
        """The attempt from its first write to its last."""
        if self.folder.record_path.exists():
            # an older copy finished between our look and our claim
            attempt.end("done by an earlier attempt")
            return self.folder.read_record()
        self.folder.sweep()
        for text in attempt.other_code(self.folder, self.request):
            attempt.warn(text)
            self.progress.say(f"warning: {text}")
        try:
            status, reason, error = self._tune(attempt)
            if stage == "tune" and status != "failed":
                attempt.end("tuned")
                return None
            record = self._finish(attempt, stage, status, reason, error)
        except Stopped as err:
            attempt.end("requeue" if err.code == exits.REQUEUE else "interrupted")
            raise
        except KeyboardInterrupt:
            attempt.end("interrupted")
            raise
        except UserError as err:
            attempt.end(f"stopped: {err.problem}")
            raise
        except BaseException as err:
            attempt.end(f"crashed: {type(err).__name__}")
            raise
        attempt.end(status)
        record = record.model_copy(update={"attempts": read_attempts(self.folder)})
        self.recorder.write(record)
        return record

    def _check_tuned(self) -> None:
        if (self.folder.root / "tuned.json").exists():
            return
        kind = self.spec.budget.primary
        share = self.recorder.ledger().spent.get(kind, 0.0) / (self.spec.budget.limit(kind) or 1.0)
        raise UserError(
            f"run {self.spec.run_id} is not tuned yet: {100 * share:.0f} % of its {kind} budget is spent",
            valid="--stage evaluate after --stage tune has ended",
            hint="the same bench run command continues the tuning; bench status",
        )

    def stop(self) -> None:
        """Raises Stopped once a signal has asked; called at safe points."""
        if self.asked_to_leave:
            raise Stopped(self.asked_to_leave)

    # --- stages ---

    def _tune(self, attempt: Attempt) -> Ending:
        """What tuning ended with is kept, so that a kill in a later stage does not tune again."""
        outcome = self.folder.root / "tuned.json"
        if outcome.exists():
            done = atomic.read_json(outcome)
            error = ErrorEntry(**done["error"]) if done["error"] else None
            return done["status"], done["reason"], error
        with ranks.crew(self.folder.root, self.processes, self.device, self.spec.budget.hard_wall_s) as crew:
            model = self._load_model()
            job = tuning.LeadTuning(
                **self._job(model, Processes() if crew is None else crew.join()),
                attempt=attempt, progress=self.progress, should_stop=lambda: bool(self.asked_to_leave),
            )  # fmt: skip
            return self._run(job, outcome)

    def _job(self, model: BaseModel, processes: Processes) -> dict[str, Any]:
        """What tuning is given in every process."""
        return {
            "folder": self.folder, "spec": self.spec, "suite": self.suite, "tuner_ref": self.request["tuner"],
            "model": model, "micro_batch": self.micro_batch, "processes": processes,
        }  # fmt: skip

    def follow(self, rank: int, host: str, port: int, local_rank: int) -> int:
        """Tunes as process ``rank``, number ``local_rank`` on its node, beside the worker that listens there and holds
        the run's lock.

        Returns:
            Exit code: 1 when tuning failed, here or elsewhere; process 0 has been told, and tells the user.
        """
        hard_wall_s = self.spec.budget.hard_wall_s
        with ranks.follower(rank, self.processes, host, port, self.device, hard_wall_s, local_rank) as processes:
            if self.device == "cuda":
                self.device = f"cuda:{local_rank}"
            job = tuning.Tuning(**self._job(self._load_model(), processes))
            try:
                job.run()
            except Exception:
                return 1
        return 0

    def _run(self, job: tuning.LeadTuning, outcome: Path) -> Ending:
        """Runs the job and writes what it ended with to ``outcome``."""
        status: Status = "done"
        failure: ErrorEntry | None = None
        try:
            reason = job.run()
        except Diverged as err:
            status, reason, failure = "diverged", str(err), error_entry(err)
        except (UserError, ProcessLost, KeyboardInterrupt):
            raise
        except Exception as err:
            status, reason, failure = "failed", f"{type(err).__name__}: {err}", error_entry(err)
            self.progress.say(traceback.format_exc())
        finally:
            adapters.detach(job.model.unet)
            self.recorder = dataclasses.replace(self.recorder, micro_batch=job.micro_batch)
        if reason == tuning.STOPPED:
            raise Stopped(self.asked_to_leave)
        atomic.write_json(self.folder.ledger_path, job.ledger.to_json())
        atomic.write_json(
            outcome, {"status": status, "reason": reason, "error": failure.model_dump() if failure else None}
        )
        return status, reason, failure

    def _finish(
        self, attempt: Attempt, stage: Stage, status: Status, reason: str, error: ErrorEntry | None
    ) -> Record:
        """Images and scores of what tuning left. A failed run is not scored: it is a row with its reason."""
        if status == "failed":
            return self.recorder.make(status, reason, error, [], [])
        # a job for images and scores alone has one process's share of a machine
        n = min(self.processes if stage == "all" else 1, imaging.n_blocks(self.suite))
        if n > 1:
            self._share_out(attempt, n)
        with self._timed(attempt, "generate"):
            folders = self._generate()
        with self._timed(attempt, "score"):
            entries = self._scorer().score_all([(n, f.root) for n, f in folders.items()], self.stop)
        self.folder.drop_checkpoints()
        atomic.remove(self.folder.root / "work")
        return self.recorder.make(status, reason, error, list(folders.items()), entries)

    def _share_out(self, attempt: Attempt, n: int) -> None:
        """Makes and looks at the images together with ``n`` - 1 other processes, as far as those come."""
        shard = Shard(0, n)
        with helpers(self.folder.root, n, self.progress.say) as wait:
            with self._timed(attempt, "generate"):
                self._generation().part(shard)
            with self._timed(attempt, "score"):
                self._look(shard)
                wait(self.stop)

    def _look(self, shard: Shard) -> None:
        try:
            parts = list(self._generation().parts(shard))
        except OSError as err:  # scoring says which are missing
            self.progress.note(f"{shard.title('score')} is left to one process: {err}")
            return
        self._scorer().look(shard, parts, self.stop)

    def _generate(self) -> dict[str, ImageFolder]:
        """Image folders of the base and of every snapshot, in order of the budget."""
        return self._generation().whole()

    def make_part(self, shard: Shard, local_rank: int | None) -> None:
        """One slice of the run's images and of what is asked of them, beside other processes that make theirs; see
        ``bench.engine.shards``.

        Args:
            local_rank: of this process on its node, where several share its GPUs.

        Raises:
            UserError: the run is not tuned yet.
            Stopped: a signal asked; what is made is kept.
        """
        if self.folder.record_path.exists():
            return
        self._check_tuned()
        if self.device == "cuda" and local_rank is not None:
            self.device = f"cuda:{local_rank}"
        self._generation().part(shard)
        self._look(shard)

    def _generation(self) -> Generation:
        torch.set_num_threads(self.request["n_threads"])
        store = imaging.base_store(self.cache, self.spec, self.execution.to_json())
        return Generation(self.folder, self.spec, self.suite, self.request["tuner"], store, self._load_model,
                          self.progress, self.stop)  # fmt: skip

    def _scorer(self, *, fresh: bool = False) -> scoring.Scorer:
        torch.set_num_threads(self.request["score_threads"])
        cls = registry.find("tuners", self.request["tuner"]).load()
        config = make_config(cls, self.spec.settings)
        return scoring.Scorer(
            self.folder, self.spec, self.suite, self.cache, self.device, self.progress,
            cls.own_reward_family(config, self.spec.model), cls.related_families(config),
            own_rewards(self.folder, self.spec, self.request["tuner"], self.device), fresh=fresh,
            judging=Judging.from_json(self.request.get("judging", {})),
        )  # fmt: skip

    def _load_model(self) -> BaseModel:
        if self._model is None:
            self._model = self._fit_model()
            found = self._model.source.revision()
            if found != self.spec.model_revision:
                raise UserError(
                    f"the files of model {self.spec.model!r} changed since this run was planned: "
                    f"{found}, not {self.spec.model_revision}",
                    hint="plan it anew: the same bench run command makes a new run",
                )
        return self._model

    def _fit_model(self) -> BaseModel:
        """Raises UserError, also where the device does not hold the model."""
        try:
            return self.execution.load(self.request["model"], self.device)
        except Exception as err:
            if not is_out_of_memory(err):
                raise
            raise UserError(
                f"{self.device} does not hold model {self.spec.model!r}: {str(err).splitlines()[0]}",
                valid="a bigger device, or --dtype bf16 in place of fp32",
            ) from err

    # --- the record ---

    def record_failure(self, reason: str) -> Record:
        """The record of a run whose worker could not write it: it was ended from outside, or ended itself."""
        with turn(self.folder.root):
            if self.folder.record_path.exists():
                return self.folder.read_record()
            error = ErrorEntry(type="NoRecord", message=reason, tail=log_tail(self.folder))
            record = self.recorder.make("failed", reason, error, [], [])
            self.recorder.write(record)
            return record

    @contextmanager
    def _timed(self, attempt: Attempt, stage: str) -> Iterator[None]:
        """Adds the stage's wall-clock seconds, over all attempts, to what the record shows as off the clock."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            attempt.event("stage", stage=stage, wall_s=seconds)
            path = self.folder.root / "evaluation.json"
            before = atomic.read_json(path) if path.exists() else {}
            atomic.write_json(path, {**before, stage: before.get(stage, 0.0) + seconds})


def _die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when its launcher dies, so that a killed command leaves nothing behind."""
    pr_set_pdeathsig = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            raise SystemExit(137)


def main(argv: list[str]) -> int:
    """Runs one run folder; the exit code is one of ``bench.core.exits``."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine.worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stage", choices=("all", "tune", "evaluate"), default="all")
    parser.add_argument("--parent", type=int, help="pid to die with")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--record-failure", metavar="REASON")
    parser.add_argument("--shard", metavar="K/N", help="make only slice K of N of the images, without a record")
    parser.add_argument("--rank", type=int, help="tune beside the worker that started this process")
    parser.add_argument("--host", default=ranks.HOST, help="where that worker listens")
    parser.add_argument("--port", type=int)
    parser.add_argument("--local-rank", type=int, help="number of this process on its node; default: its rank")
    args = parser.parse_args(argv)
    if args.parent is not None:
        _die_with_parent(args.parent)
    _silence_libraries()
    try:
        worker = Worker(RunFolder(args.folder), quiet=args.quiet or args.rank is not None)
        if args.rank is not None:
            local_rank = args.rank if args.local_rank is None else args.local_rank
            return worker.follow(args.rank, args.host, args.port, local_rank)
        if args.record_failure:
            return _exit_code(worker.record_failure(args.record_failure))
        # in the command's own process on a terminal somebody may be at a debugger's prompt
        debugging = args.parent is None and sys.stdin.isatty() and sys.stderr.isatty()
        with _on_signals(worker):
            if args.shard:
                worker.make_part(Shard.parse(args.shard), args.local_rank)
                return exits.DONE
            return _exit_code(worker.execute(args.stage, redirect=not debugging))
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    except Stopped as err:
        return err.code
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def _silence_libraries() -> None:
    """Loading bars of libraries would tear our own progress lines apart."""
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()


def _exit_code(record: Record | None) -> int:
    return exits.DONE if record is None or record.status == "done" else exits.FAILED


@contextmanager
def _on_signals(worker: Worker) -> Iterator[None]:
    """SIGUSR2 is a cluster's word that the machine goes soon; SIGTERM is somebody's wish. The first one counts."""
    codes = {signal.SIGUSR2: exits.REQUEUE, signal.SIGTERM: exits.INTERRUPTED}

    def act(sign: int, _: object) -> None:
        worker.asked_to_leave = worker.asked_to_leave or codes[signal.Signals(sign)]

    previous = {sign: signal.signal(sign, act) for sign in codes}
    try:
        yield
    finally:
        for sign, handler in previous.items():
            signal.signal(sign, handler)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
