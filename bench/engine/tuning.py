"""The tune stage: a tuner driven under its ledger, with checkpoints, snapshots and log at the safe points."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.core import registry
from bench.core.budget import Ledger
from bench.core.contract import Patch, Phase, Report, Scalars, Tuner, make_config
from bench.core.errors import ContractError, UserError
from bench.core.types import RunSpec, Suite
from bench.diffusion import adapters
from bench.diffusion.context import TuningContext
from bench.diffusion.memory import free, is_out_of_memory
from bench.diffusion.meters import Meters, Tally, settle
from bench.diffusion.models import BaseModel
from bench.diffusion.processes import Processes, ProcessFailed
from bench.engine.attempt import Attempt
from bench.engine.keeping import Keeper, charge_late, charge_lost, reached, take_up
from bench.engine.kept import keep
from bench.engine.loop import LoopState, drive
from bench.engine.progress import Progress
from bench.store import atomic
from bench.store.fence import attempt_root
from bench.store.liveness import read_pulse
from bench.store.runs import RunFolder
from rewards.expression import load_reward

STOPPED = "stopped"
FITTING = "fitting.json"
"""In the run folder: the micro-batch that fitted, so that a later attempt does not find it out again."""
_OUT_OF_MEMORY = torch.OutOfMemoryError.__name__


def fitting_micro_batch(folder: RunFolder) -> int | None:
    """What an earlier attempt found to fit; None where nothing was too big."""
    path = folder.root / FITTING
    return int(atomic.read_json(path)["micro_batch"]) if path.exists() else None


def snapshot_name(fraction: float) -> str:
    """``f010`` for a tenth of the budget."""
    return f"f{round(fraction * 100):03d}"


@dataclasses.dataclass
class Tuning:
    """Tuning of one run by one process. It writes nothing: that is for process 0, see ``LeadTuning``."""

    folder: RunFolder
    spec: RunSpec
    suite: Suite
    tuner_ref: str
    model: BaseModel
    micro_batch: int
    processes: Processes

    aborted: Mapping[str, Any] | None = dataclasses.field(default=None, init=False)
    """The ledger of the try that memory did not hold."""

    def run(self) -> str:
        """Tunes until the budget, the phases or a stop end it; returns which (see ``loop.drive``).

        Raises:
            Diverged: non-finite numbers; the snapshots taken so far stay.
            UserError: out of memory with a single sample, with what to do. With several, it goes on with half as many.
            ProcessLost: another process is gone.
        """
        while True:
            self.ledger = Ledger(self.spec.budget)
            self._tally = Tally()
            alone = self.processes.size == 1
            charge = self.ledger.charge if alone else self._tally.charge
            try:
                return self._run(Meters(self.model, charge, world=self.processes.size))
            except ProcessFailed as err:
                # what one process meets all meet: they halve together, or end together
                if err.failure.kind != _OUT_OF_MEMORY or self._micro() < 2:
                    raise err.as_own() from err
                why = f"in process {err.rank + 1}: {err.failure.message}"
            except Exception as err:
                if not is_out_of_memory(err):
                    self.processes.fail(err)
                    raise
                why = str(err).splitlines()[0]
                if self._micro() < 2:
                    hopeless = self._out_of_memory(why)
                    self.processes.fail(hopeless)
                    raise hopeless from err
                self.processes.fail(torch.OutOfMemoryError(why))
            finally:
                # of a unit that failed no process tells another what it did: all did about the same
                settle(self.ledger.charge, [self._tally.take()] * self.processes.size)
            self._halve(why)

    def _micro(self) -> int:
        """Samples at once, as tuners see it."""
        return min(self.micro_batch, max(1, self.spec.global_batch // self.processes.size))

    def _halve(self, why: str) -> None:
        """Goes on from the last checkpoint with half as many samples at once and the same global batch. What was done
        beyond it, the unit that did not fit included, is lost work, as after a kill."""
        self.micro_batch = self._micro() // 2
        self.aborted = self.ledger.to_json()
        adapters.detach(self.model.unet)
        free()

    def _run(self, meters: Meters) -> str:
        tuner = self._build(meters)
        reason = self._drive(tuner, self._restore(tuner), meters)
        if reason != STOPPED:
            self._snapshot(tuner, 1.0)
        return reason

    def _drive(self, tuner: Tuner, state: LoopState, meters: Meters) -> str:
        self._fraction = self.ledger.fraction()

        def on_unit(state: LoopState, phase: Phase, report: Report) -> None:
            scalars = self._settle(tuner, state, report)
            before, now = self._fraction, self.ledger.fraction()
            self._fraction = now
            self._log(state, phase, scalars)
            for fraction in self.spec.fractions:
                if 0 < fraction < 1 and before < fraction <= now:
                    self._snapshot(tuner, fraction)
            self._keep(tuner, state)

        with meters:
            return drive(
                self.spec.label, tuner.phases(), self.ledger, meters.clock, state, on_unit=on_unit,
                should_stop=self._should_stop, agree=self.processes.agree,
            )  # fmt: skip

    def _build(self, meters: Meters) -> Tuner:
        cls = registry.find("tuners", self.tuner_ref).load()
        config = make_config(cls, self.spec.settings)
        device = str(self.model.device)
        ctx = TuningContext(
            model=self.model, train_prompts=self.suite.train_prompts, sampler=self.spec.train_sampler,
            global_batch=self.spec.global_batch, micro_batch=self.micro_batch,
            rewards=lambda name: load_reward(name, device), default_reward=self.spec.reward, meters=meters,
            ledger=self.ledger, seed=self.spec.seed, work_dir=self.folder.root / "work", processes=self.processes,
        )  # fmt: skip
        built = cls(config, ctx)
        assert isinstance(built, Tuner)
        return built

    def _settle(self, tuner: Tuner, state: LoopState, report: Report) -> Scalars:
        """Books what all processes did in this unit; returns the scalars averaged over them."""
        if self.processes.size == 1:
            return report.scalars
        said = self.processes.exchange((state.to_json(), self._tally.take(), dict(report.scalars)))
        places = [place for place, _, _ in said]
        if any(place != places[0] for place in places):
            raise ContractError(tuner.name, "a phase", expected="the same units in every process", got=str(places))
        settle(self.ledger.charge, [tally for _, tally, _ in said])
        values = [scalars for _, _, scalars in said]
        return {key: sum(v[key] for v in values if key in v) / sum(key in v for v in values) for key in values[0]}

    def _out_of_memory(self, why: str) -> UserError:
        """What to do where not even one sample fits."""
        return UserError(
            f"out of memory on {self.model.device} with micro-batches of 1, the smallest: {why}",
            valid="a bigger device, or a smaller model; everything up to the last checkpoint is kept",
            hint="the same command with --dtype bf16 --gradient-checkpointing",
        )

    # --- safe points ---

    def _should_stop(self) -> bool:
        return False

    def _log(self, state: LoopState, phase: Phase, scalars: Scalars) -> None:
        """After every unit."""

    def _keep(self, tuner: Tuner, state: LoopState) -> None:
        """After every unit, last."""

    def _restore(self, tuner: Tuner) -> LoopState:
        """Takes up the newest readable checkpoint, which process 0 has found too."""
        blob, _, _ = self.folder.load_checkpoint()
        state = take_up(blob, tuner, self.ledger)
        theirs = self.processes.agree(None)
        if theirs != state.to_json():
            raise RuntimeError(f"process 1 continues at {theirs}, this one at {state.to_json()}")
        return state

    def _snapshot(self, tuner: Tuner, fraction: float) -> None:
        """At a share of the budget: all processes hold the same adapter, bit for bit.

        Raises:
            ContractError: they do not: an optimiser stepped on gradients that no all_reduce had summed.
        """
        if self.processes.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in adapters.adapter_state(self.model.unet).values():
            digest.update(tensor.numpy().tobytes())
        if len(set(self.processes.exchange(digest.hexdigest()))) > 1:
            raise ContractError(
                tuner.name, f"{self.processes.size} processes", got="a different adapter in each",
                expected="the same adapter: ctx.all_reduce sums the gradients before every optimiser step",
            )  # fmt: skip


@dataclasses.dataclass
class LeadTuning(Tuning):
    """Tuning by the process that keeps the run's files: log, ledger, checkpoints, snapshots."""

    attempt: Attempt
    progress: Progress
    should_stop: Callable[[], bool]

    def __post_init__(self) -> None:
        self._keeper = Keeper(self.folder)

    def _run(self, meters: Meters) -> str:
        keeper = self._keeper
        heartbeat = Heartbeat(self.folder.root / "tuning.json", self._earlier_attempts())
        tuner = self._build(meters)
        state = self._restore(tuner)
        primary = self.spec.budget.primary
        limit = self.spec.budget.limit(primary)
        assert limit is not None
        try:
            with heartbeat, self.progress.stage("tune", limit, _short(primary), done=self._spent()) as self._stage:
                reason = self._drive(tuner, state, meters)
            self.attempt.lose(charge_late(self.folder, self.ledger, self.attempt.number, self._older))
            if reason == STOPPED:
                # tuning that is over is never taken up again: what it ended with is written next
                keeper.keep(tuner, state, self.ledger, force=True)
        finally:
            self.attempt.kept = keeper.cost()
        if cut := len(self.model.truncated):
            self.attempt.warn(f"{cut} training prompts are longer than a text encoder reads: their end was cut")
        if reason != STOPPED:
            keep(tuner, self.folder)
            self._snapshot(tuner, 1.0)
        return reason

    def _halve(self, why: str) -> None:
        super()._halve(why)
        text = (f"out of memory ({why}): going on with micro-batches of {self.micro_batch}; the global batch stays "
                f"{self.spec.global_batch}")  # fmt: skip
        if not self.model.slices:
            text += " (--vae-slicing keeps the decoder's graph of one sample at a time)"
        self.progress.say(text)
        self.attempt.warn(text)
        atomic.write_json(self.folder.root / FITTING, {"micro_batch": self.micro_batch})

    def _earlier_attempts(self) -> list[Path]:
        return [attempt_root(self.folder.root, number) for number in range(1, self.attempt.number)]

    def _should_stop(self) -> bool:
        return self.should_stop()

    def _log(self, state: LoopState, phase: Phase, scalars: Scalars) -> None:
        self.attempt.event(
            "unit", unit=state.total, phase=phase.name, spent=_nonzero(self.ledger.spent), scalars=_finite(scalars)
        )
        # long phases that cost nothing of the primary kind, such as fitting a reward, are seen by their name
        self._stage.advance_to(self._spent(), ", ".join(part for part in (phase.name, _brief(scalars)) if part))

    def _keep(self, tuner: Tuner, state: LoopState) -> None:
        self.attempt.fence.check()
        self._keeper.keep(tuner, state, self.ledger)

    def _restore(self, tuner: Tuner) -> LoopState:
        """Takes up the newest readable checkpoint and books as lost what an earlier attempt did beyond it."""
        blob, _, warnings = self.folder.load_checkpoint()
        for warning in warnings:
            self.attempt.warn(warning)
            self.progress.say(warning)
        state = take_up(blob, tuner, self.ledger)
        if self.aborted is None:
            # a copy that a failed node left alive may still be at work: what it does from here on is booked at the end
            self._older = reached(self.folder, self.attempt.number - 1) or dict(self.ledger.spent)
            charge_lost(self.folder, self.ledger, self.attempt.number)
            self.attempt.lose_rest(self.ledger.lost, self.folder)
        else:
            before = dict(self.ledger.lost)
            self.ledger.note_lost(self.aborted)
            self.attempt.lose({kind: v - before[kind] for kind, v in self.ledger.lost.items() if v > before[kind]})
        atomic.write_json(self.folder.ledger_path, self.ledger.to_json())
        if blob is not None:
            self.progress.say(f"continuing at unit {state.total}, {100 * self.ledger.fraction():.0f} % of the budget")
        self.processes.agree(state.to_json())
        return state

    def _snapshot(self, tuner: Tuner, fraction: float) -> None:
        """The adapter as it is now, in the layout that ``pipe.load_lora_weights`` opens, with what it cost."""
        super()._snapshot(tuner, fraction)
        patch = tuner.patch()
        root = self.folder.snapshots / snapshot_name(fraction)
        if patch.adapter:
            with atomic.new_folder(root / "adapter") as making, tuner.snapshot_weights():
                adapters.save_adapter(self.model.unet, making)
        atomic.write_json(root / "snapshot.json", {
            "fraction": fraction, "spent": self.ledger.spent, "adapter": patch.adapter,
            "adapter_scale": patch.adapter_scale,
        })  # fmt: skip

    def _spent(self) -> float:
        return self.ledger.spent[self.spec.budget.primary]


class Heartbeat:
    """``tuning.json``: lets a process outside compute how long tuning has taken, over all attempts.

    A killed attempt leaves its start behind and no end: it is taken to have ended with its last sign of life, so that
    the time between two attempts is nobody's. Files' own times are not asked: copying a run folder changes them.
    """

    def __init__(self, path: Path, earlier: Sequence[Path]) -> None:
        """
        Args:
            earlier: folders of the attempts before this one.
        """
        self._path = path
        self._before_s = self._earlier_s(earlier)

    def __enter__(self) -> None:
        self._start = time.time()
        atomic.write_json(self._path, {"before_s": self._before_s, "since_unix_s": self._start, "pid": os.getpid()})

    def __exit__(self, *error: object) -> None:
        spent_s = self._before_s + time.time() - self._start
        atomic.write_json(self._path, {"before_s": spent_s, "since_unix_s": None, "pid": os.getpid()})

    def _earlier_s(self, earlier: Sequence[Path]) -> float:
        """Wall-clock seconds of the attempts before this one."""
        if not self._path.exists():
            return 0.0
        left = atomic.read_json(self._path)
        before_s, since = float(left["before_s"]), left["since_unix_s"]
        if since is not None:
            beats = [float(pulse["unix_s"]) for attempt in earlier if (pulse := read_pulse(attempt)) is not None]
            before_s += max(0.0, max(beats, default=since) - since)
        return before_s


def taken_snapshots(folder: RunFolder, spec: RunSpec) -> list[float]:
    """Fractions above 0 whose adapters are there, in order."""
    return [f for f in spec.fractions if f > 0 and (folder.snapshots / snapshot_name(f) / "snapshot.json").exists()]


def load_patch(model: BaseModel, root: Path, tuner_ref: str, settings: Mapping[str, Any]) -> Patch:
    """Puts the snapshot's adapter on the model; all that generation sees of a tuner.

    Args:
        settings: of the tuner, as difference to its defaults; its sampling hooks are made from them.

    Raises:
        UserError: the adapter's file is damaged.
    """
    facts = atomic.read_json(root / "snapshot.json")
    if facts["adapter"]:
        adapters.load_adapter(model.unet, root / "adapter")
    cls = registry.find("tuners", tuner_ref).load()
    hooks = cls.sampling_hooks(make_config(cls, settings))
    return Patch(adapter=facts["adapter"], adapter_scale=facts["adapter_scale"], hooks=tuple(hooks))


def _short(kind: str) -> str:
    return "U" if kind == "denoiser_u" else kind


def _nonzero(spent: Mapping[str, float]) -> dict[str, float]:
    """To the last bit: what an attempt did beyond a checkpoint is the difference to what the checkpoint says."""
    return {k: v for k, v in spent.items() if v}


def _finite(scalars: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a scalar that is not finite is written as null."""
    return {k: (float(v) if abs(float(v)) < float("inf") else None) for k, v in scalars.items()}


def _brief(scalars: Mapping[str, float]) -> str:
    return f"reward {scalars['reward']:.4g}" if "reward" in scalars else ""
