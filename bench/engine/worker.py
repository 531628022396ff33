"""The worker: carries out one run folder, stage by stage, from wherever an earlier attempt left it.

    prepare (done by ``bench.engine.prepare``) -> tune -> generate -> score -> record.json

Each stage looks at what is on disk and does what is missing, so that the same command again is the recovery procedure.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from bench.core import registry
from bench.core.budget import Ledger
from bench.core.contract import ImageFolder, make_config
from bench.core.errors import Diverged, UserError
from bench.core.identity import file_sha256, plain
from bench.core.record import Artifact, ErrorEntry, LedgerEntry, MetricEntry, Record, SnapshotEntry
from bench.core.types import RunSpec, Suite
from bench.diffusion import adapters
from bench.diffusion.models import BaseModel, load_model
from bench.diffusion.processes import Processes, ProcessFailed, ProcessLost
from bench.engine import imaging, ranks, scoring, tuning
from bench.engine.attempt import Attempt, provenance, read_attempts, read_curve
from bench.engine.prepare import read_suite
from bench.engine.progress import Progress
from bench.metrics.images import read_folder
from bench.store import atomic
from bench.store.lock import exclusive
from bench.store.runs import RunFolder

LOCK_WAIT_S = 3.0
"""A worker whose parent was just killed needs a moment to go."""

Status = Literal["done", "failed", "diverged"]
Ending = tuple[Status, str, ErrorEntry | None, dict[str, float]]
"""Status, reason, error, lost work."""


class Stopped(Exception):
    """SIGTERM arrived: the attempt ends at the next safe point and keeps everything."""


class Worker:
    """One attempt at one run."""

    def __init__(self, folder: RunFolder, *, quiet: bool = False) -> None:
        self.folder = folder
        self.progress = Progress(quiet=quiet)
        self.spec: RunSpec = folder.read_spec()
        self.suite: Suite = read_suite(folder)
        self.request: Mapping[str, Any] = atomic.read_json(folder.request_path)
        self.cache = Path(self.request["runs"]) / ".cache"
        self.device = _device(self.request["device"])
        self.processes: int = self.request.get("processes", 1)
        self.micro_batch: int = self.request.get("micro_batch") or self.spec.global_batch // self.processes
        torch.set_num_threads(self.request["n_threads"])
        self.stopping = False
        self._model: BaseModel | None = None

    def execute(self) -> Record:
        """Does what is missing and writes the record.

        Raises:
            UserError: something the user can put right; the run stays unfinished and nothing is lost.
            Stopped: SIGTERM; likewise.
        """
        with exclusive(self.folder.lock_path, f"run {self.spec.run_id}", wait_s=LOCK_WAIT_S):
            if self.folder.record_path.exists():
                return self.folder.read_record()
            atomic.sweep(self.folder.root)
            attempt = Attempt(self.folder, self.device, self.processes, self.micro_batch)
            lost: dict[str, float] = {}
            try:
                status, reason, error, lost = self._tune(attempt)
                record = self._finish(attempt, status, reason, error)
            except (Stopped, KeyboardInterrupt):
                attempt.end("interrupted", lost)
                raise
            except UserError as err:
                attempt.end(f"stopped: {err.problem}", lost)
                raise
            except BaseException as err:
                attempt.end(f"crashed: {type(err).__name__}", lost)
                raise
            attempt.end(status, lost)
            record = record.model_copy(update={"attempts": read_attempts(self.folder)})
            self._write(record)
            return record

    def stop(self) -> None:
        """Raises Stopped once SIGTERM has come; called at safe points."""
        if self.stopping:
            raise Stopped

    # --- stages ---

    def _tune(self, attempt: Attempt) -> Ending:
        """What tuning ended with is kept, so that a kill in a later stage does not tune again."""
        outcome = self.folder.root / "tuned.json"
        if outcome.exists():
            done = atomic.read_json(outcome)
            error = ErrorEntry(**done["error"]) if done["error"] else None
            return done["status"], done["reason"], error, {}
        with ranks.crew(self.folder.root, self.processes, self.device, self.spec.budget.hard_wall_s) as crew:
            model = self._load_model()
            job = tuning.LeadTuning(
                **self._job(model, Processes() if crew is None else crew.join()),
                attempt=attempt, progress=self.progress, should_stop=lambda: self.stopping,
            )  # fmt: skip
            return self._run(job, outcome)

    def _job(self, model: BaseModel, processes: Processes) -> dict[str, Any]:
        """What tuning is given in every process."""
        return {
            "folder": self.folder, "spec": self.spec, "suite": self.suite, "tuner_ref": self.request["tuner"],
            "model": model, "micro_batch": self.micro_batch, "processes": processes,
        }  # fmt: skip

    def follow(self, rank: int, port: int) -> int:
        """Tunes as process ``rank`` beside the worker that listens on ``port``, which holds the run's lock.

        Returns:
            Exit code: 1 when tuning failed, here or elsewhere; process 0 has been told, and tells the user.
        """
        with ranks.follower(rank, self.processes, port, self.device, self.spec.budget.hard_wall_s) as processes:
            if self.device == "cuda":
                self.device = f"cuda:{rank}"
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
            status, reason, failure = "diverged", str(err), _error(err)
        except (UserError, ProcessLost, KeyboardInterrupt):
            raise
        except Exception as err:
            status, reason, failure = "failed", f"{type(err).__name__}: {err}", _error(err)
            self.progress.say(traceback.format_exc())
        finally:
            adapters.detach(job.model.unet)
        if reason == tuning.STOPPED:
            raise Stopped
        atomic.write_json(self.folder.ledger_path, job.ledger.to_json())
        atomic.write_json(
            outcome, {"status": status, "reason": reason, "error": failure.model_dump() if failure else None}
        )
        return status, reason, failure, job.lost

    def _finish(self, attempt: Attempt, status: Status, reason: str, error: ErrorEntry | None) -> Record:
        """Images and scores of what tuning left. A failed run is not scored: it is a row with its reason."""
        if status == "failed":
            return self._record(status, reason, error, [], [])
        with self._timed(attempt, "generate"):
            folders = self._generate()
        with self._timed(attempt, "score"):
            entries = self._scorer().score_all([(n, f.root) for n, f in folders.items()], self.stop)
        self.folder.drop_checkpoints()
        shutil.rmtree(self.folder.root / "work", ignore_errors=True)
        return self._record(status, reason, error, list(folders.items()), entries)

    def _generate(self) -> dict[str, ImageFolder]:
        """Image folders of the base and of every snapshot, in order of the budget."""
        root = self.folder.snapshots
        fractions = tuning.taken_snapshots(self.folder, self.spec)
        wanted = [root / tuning.snapshot_name(f) / "images" for f in fractions]
        base = root / scoring.BASE / "images"
        if all((p / "index.jsonl").exists() for p in [base, *wanted]):
            return {p.parent.name: read_folder(p) for p in [base, *wanted]}
        model = self._load_model()
        atomic.write_json(
            root / scoring.BASE / "snapshot.json",
            {"fraction": 0.0, "spent": {}, "adapter": False, "adapter_scale": 1.0},
        )
        folders = {
            scoring.BASE: imaging.base_images(base, self.cache, model, self.spec, self.suite, self.progress, self.stop)
        }
        for path in wanted:
            patch = tuning.load_patch(model, path.parent, self.request["tuner"], self.spec.settings)
            folders[path.parent.name] = imaging.make_images(
                path, model, self.spec, self.suite, patch, self.progress, f"generate {path.parent.name}", self.stop
            )
            adapters.detach(model.unet)
        return folders

    def _scorer(self, *, fresh: bool = False) -> scoring.Scorer:
        torch.set_num_threads(self.request["score_threads"])
        cls = registry.find("tuners", self.request["tuner"]).load()
        config = make_config(cls, self.spec.settings)
        return scoring.Scorer(
            self.folder, self.spec, self.suite, self.cache, self.device, self.progress,
            cls.own_reward_family(config, self.spec.model), cls.related_families(config), fresh=fresh,
        )  # fmt: skip

    def _load_model(self) -> BaseModel:
        if self._model is None:
            self._model = load_model(self.request["model"], device=self.device)
            found = self._model.source.revision()
            if found != self.spec.model_revision:
                raise UserError(
                    f"the files of model {self.spec.model!r} changed since this run was planned: "
                    f"{found}, not {self.spec.model_revision}",
                    hint="plan it anew: the same bench run command makes a new run",
                )
        return self._model

    # --- the record ---

    def record_failure(self, reason: str) -> Record:
        """The record of a run that was ended from outside."""
        with exclusive(self.folder.lock_path, f"run {self.spec.run_id}", wait_s=LOCK_WAIT_S):
            error = ErrorEntry(type="HardLimit", message=f"{reason}: ended from outside after "
                               f"{self.spec.budget.hard_wall_s:.0f} s of tuning")  # fmt: skip
            record = self._record("failed", reason, error, [], [])
            self._write(record)
            return record

    def _record(
        self, status: Status, reason: str, error: ErrorEntry | None, folders: list[tuple[str, ImageFolder]],
        entries: list[MetricEntry],
    ) -> Record:  # fmt: skip
        s = self.suite.spec
        limited = (
            f"only the first {s.limit} prompts were used (--limit)" if s.limit else self._untrained(status, folders)
        )
        n_threads = self.request["n_threads"]
        return Record(
            run_id=self.spec.run_id, status=status, reason=reason, spec=plain(self.spec),
            settings=dict(self.request["settings"]), suite={**plain(s), "id": s.id}, notes=list(self.suite.notes),
            ranked=limited is None, unranked_reason=limited, ledger=self._ledger(),
            provenance=provenance(
                self.device, n_threads, self.request["command"], self.processes, self.micro_batch
            ),
            attempts=read_attempts(self.folder), snapshots=[self._snapshot(n, f) for n, f in folders], metrics=entries,
            curve=read_curve(self.folder), artifacts=self._artifacts(folders), error=error,
        )  # fmt: skip

    def _untrained(self, status: Status, folders: list[tuple[str, ImageFolder]]) -> str | None:
        """Why a run whose adapter was never trained is no result: its images are the base model's."""
        facts = [atomic.read_json(self.folder.snapshots / name / "snapshot.json") for name, _ in folders[1:]]
        if status != "done" or not any(f["adapter"] for f in facts) or self._ledger().spent["steps"]:
            return None
        return "no optimiser step was taken: the budget does not hold the first one"

    def _ledger(self) -> LedgerEntry:
        empty = Ledger(self.spec.budget).to_json()
        data = atomic.read_json(self.folder.ledger_path) if self.folder.ledger_path.exists() else empty
        path = self.folder.root / "evaluation.json"
        return LedgerEntry(**data, evaluation_s=atomic.read_json(path) if path.exists() else {})

    def _snapshot(self, name: str, images: ImageFolder) -> SnapshotEntry:
        root = self.folder.snapshots / name
        facts = atomic.read_json(root / "snapshot.json")
        return SnapshotEntry(
            name=name, fraction=facts["fraction"], spent=facts["spent"],
            adapter=f"snapshots/{name}/adapter" if facts["adapter"] else None, images=f"snapshots/{name}/images",
            n_images=len(images.refs), content_hash=images.content_hash, adapter_scale=facts["adapter_scale"],
            u_per_image=imaging.u_per_image(root / "images"),
        )  # fmt: skip

    def _artifacts(self, folders: list[tuple[str, ImageFolder]]) -> list[Artifact]:
        paths = [p for name, _ in folders for p in (
            f"snapshots/{name}/images/index.jsonl", f"snapshots/{name}/adapter/pytorch_lora_weights.safetensors",
        )]  # fmt: skip
        root = self.folder.root
        return [Artifact(path=p, sha256=file_sha256(root / p)) for p in paths if (root / p).exists()]

    def _write(self, record: Record) -> None:
        atomic.write_json(self.folder.record_path, record.model_dump(mode="json", by_alias=True))

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


def _error(err: BaseException) -> ErrorEntry:
    tail = err.failure.tail if isinstance(err, ProcessFailed) else "".join(traceback.format_exception(err))[-4000:]
    return ErrorEntry(type=type(err).__name__, message=str(err), tail=tail)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this Python sees no CUDA device", valid="cpu, auto", hint="--device cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise UserError(f"--device {name!r} is no device", valid="cpu, cuda, cuda:N, auto")
    return name


def _die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when its launcher dies, so that a killed command leaves nothing behind."""
    pr_set_pdeathsig = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            raise SystemExit(137)


def main(argv: list[str]) -> int:
    """Exit code 0: the record says done; 1: it says failed or diverged; 2: user error; 130: interrupted."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine.worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, help="pid to die with")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--record-failure", metavar="REASON")
    parser.add_argument("--rank", type=int, help="tune beside the worker that started this process")
    parser.add_argument("--port", type=int, help="where that worker listens")
    args = parser.parse_args(argv)
    if args.parent is not None:
        _die_with_parent(args.parent)
    _silence_libraries()
    try:
        worker = Worker(RunFolder(args.folder), quiet=args.quiet or args.rank is not None)
        if args.rank is not None:
            return worker.follow(args.rank, args.port)
        if args.record_failure:
            return _exit_code(worker.record_failure(args.record_failure))
        with _on_sigterm(lambda: setattr(worker, "stopping", True)):
            return _exit_code(worker.execute())
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    except (Stopped, KeyboardInterrupt):
        return 130


def _silence_libraries() -> None:
    """Loading bars of libraries would tear our own progress lines apart."""
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()


def _exit_code(record: Record) -> int:
    return 0 if record.status == "done" else 1


@contextmanager
def _on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    previous = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
