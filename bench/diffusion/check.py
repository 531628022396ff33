"""The contract suite of tuners, on a random pipeline in seconds: ``bench check tuner NAME`` and ``./my_tuner.py``.

What cannot be seen from outside: files that native code writes outside the current folder, and evaluation prompts that
a tuner carries inside its own source; those are for reviewers to find.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
import io
import itertools
import os
import pickle
import random
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.core.budget import Budget, Charge, Ledger
from bench.core.contract import Patch, Phase, Report, Reward, Tuner, changed_settings, make_config
from bench.core.errors import UserError
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.context import TuningContext
from bench.diffusion.generate import generate, image_seed
from bench.diffusion.meters import ChargeFn, FlopTable, Meters, Tally, settle
from bench.diffusion.models import BaseModel, quiet
from bench.diffusion.processes import Processes
from bench.diffusion.random_tiny import random_pipeline, save_random_pipeline
from bench.diffusion.samplers import Noise
from bench.engine.loop import LoopState, drive

NEEDS = frozenset({"differentiable-reward", "black-box-reward", "pairs", "images", "reference", "attention"})
_UNITS = 3
"""Units of the last phase that a check runs."""
_MAX_UNITS = 300
_SAME_ADAPTER = 1e-5
"""Two processes sum in another order than one, in float32; a missing sum is off by the learning rate, 1e-3."""
_SAME_IMAGE = 1e-5
_LOUDER = 5.0
"""An adapter of three updates moves an image too little to tell whether it was loaded at all."""
_NO_LIMIT = Budget(denoiser_u=1e12)


@dataclass(frozen=True)
class CheckResult:
    """One promise of the contract."""

    name: str
    ok: bool
    detail: str
    """What was seen: the figures, or what broke."""


class _BrokenError(Exception):
    """A promise that does not hold."""


def check_tuner(tuner: type[Tuner], config: Any = None) -> list[CheckResult]:
    """Every promise that a tuner makes to the harness, checked on random weights.

    Args:
        tuner: the class.
        config: its settings; None takes the defaults. ``Tuner.check_settings`` are laid over them.
    """
    results = [_result("settings", lambda: _check_settings(tuner))]
    if not results[0].ok:
        return results
    config = make_config(tuner, {**changed_settings(tuner, config or tuner.Config()), **tuner.check_settings})
    # a folder of its own for the whole suite: what a tuner drops into the current folder never lands in the user's
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder, contextlib.chdir(folder):
        scratch = Path(folder).resolve()
        run = _Run()
        results.append(_result("units", lambda: _check_units(tuner, config, scratch, run)))
        if results[-1].ok:
            results += [
                _result("next-cost", lambda: _check_cost(run)),
                _result("budget", lambda: _check_budget(tuner, config, scratch, run)),
                _result("resume", lambda: _check_resume(tuner, config, scratch, run)),
                _result("processes", lambda: _check_processes(tuner, config, scratch, run)),
                _result("random-state", lambda: _no_findings(run.random, "no global random state was touched")),
                _result("evaluation-prompts", lambda: _no_findings(run.suites, "no suite was opened")),
                _result("writes", lambda: _no_findings(run.writes, "nothing was written outside work_dir")),
                _result("patch", lambda: _check_patch(run)),
                _result("diffusers", lambda: _check_diffusers(scratch, run)),
            ]
    return results


def new_tuner(name: str, folder: Path) -> Path:
    """Writes ``<name>.py``, a commented tuner that works and passes its checks; returns its path.

    Raises:
        UserError: a name that is no Python name, or a file that exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r} is no name for a tuner's file", valid="lower-case letters, digits and _")
    path = folder / f"{name}.py"
    if path.exists():
        raise UserError(f"{path} exists", valid="a name that is free", hint=f"bench new tuner {name}_2")
    text = importlib.resources.files("tuners").joinpath("template.py.txt").read_text("utf-8")
    words = "".join(part.capitalize() for part in name.split("_"))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(
        text.replace("__NAME__", name.replace("_", "-")).replace("__CLASS__", words).replace("__FILE__", str(path)),
        "utf-8",
    )
    return path


# -- one tuner on one fresh pipeline


class _CheckReward(Reward):
    """Redness: the mean of red minus the mean of green."""

    name = "check-redness"

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        if tuple(images.shape[1:2]) != (3,) or len(prompts) != images.shape[0]:
            raise _BrokenError(f"a reward was given {tuple(images.shape)} images for {len(prompts)} prompts")
        if images.detach().amin() < 0 or images.detach().amax() > 1:
            raise _BrokenError("a reward was given values outside [0, 1]")
        return images[:, 0].mean((1, 2)) - images[:, 1].mean((1, 2))


class _BlackBoxReward(_CheckReward):
    differentiable = False

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return super().measure(images.detach(), prompts)


@dataclass
class _Session:
    """A tuner on a random model with its own ledger."""

    model: BaseModel
    ledger: Ledger
    meters: Meters
    tuner: Tuner
    phases: list[Phase]
    state: LoopState = field(default_factory=LoopState)


@contextlib.contextmanager
def _session(
    cls: type[Tuner], config: Any, work_dir: Path, run: _Run, budget: Budget = _NO_LIMIT,
    processes: Processes | None = None, charge: ChargeFn | None = None,
) -> Iterator[_Session]:  # fmt: skip
    model = random_pipeline(0)
    ledger = Ledger(budget)
    black_box = "differentiable-reward" not in cls.needs_of(config)
    with Meters(model, charge or ledger.charge, flops=run.flops) as meters:
        ctx = TuningContext(
            model=model, sampler=SamplerSpec("ddim", n_steps=4, guidance=3.0), global_batch=2, micro_batch=1,
            train_prompts=[Prompt(f"train-{k}", f"a {k} of training") for k in range(5)],
            rewards=lambda _: _BlackBoxReward() if black_box else _CheckReward(), default_reward="check-redness",
            meters=meters, ledger=ledger, seed=0, work_dir=work_dir, processes=processes,
        )  # fmt: skip
        with meters.pause():
            tuner = cls(config, ctx)
            phases = tuner.phases()
        yield _Session(model, ledger, meters, tuner, phases)


def _drive(
    session: _Session, on_unit: Callable[[LoopState, Phase, Report], None] = lambda state, phase, report: None, *,
    until: int = _MAX_UNITS, agree: Callable[[str | None], str | None] = lambda why: why,
) -> str:  # fmt: skip
    """Runs the phases, three units of the last, and no more than ``until`` units in all."""
    last = len(session.phases) - 1

    def enough() -> bool:
        state = session.state
        return state.total >= until or (state.phase == last and state.unit >= _UNITS)

    return drive(
        session.tuner.name, session.phases, session.ledger, session.meters.clock, session.state, on_unit=on_unit,
        should_stop=enough, agree=agree,
    )  # fmt: skip


def _take_up(session: _Session, point: _Point) -> None:
    """Goes on from where the uninterrupted run stood."""
    with session.meters.pause():
        session.tuner.load_state_dict(_load(point.state))
    session.state = LoopState.from_json(point.loop)
    session.ledger.restore({"spent": point.spent, "lost": {}})


@dataclass(frozen=True)
class _Point:
    """The uninterrupted run between two units."""

    state: bytes
    """The tuner's, as a checkpoint holds it."""
    loop: dict[str, int]
    adapter: dict[str, torch.Tensor]
    spent: dict[str, float]


@dataclass
class _Run:
    """What the uninterrupted run left behind."""

    session: _Session | None = None
    start: dict[str, torch.Tensor] = field(default_factory=dict)
    saved: dict[int, _Point] = field(default_factory=dict)
    """By units done."""
    costs: list[tuple[Charge | None, dict[str, float]]] = field(default_factory=list)
    """For each unit: what next_cost said, and what the meters saw."""
    random: list[str] = field(default_factory=list)
    suites: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    flops: FlopTable = field(default_factory=dict)
    """All sessions run the same shapes, so they are measured once."""


# -- the checks


def _result(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except _BrokenError as err:
        return CheckResult(name, False, str(err))
    except Exception as err:  # a plug-in may raise anything, and the report must go on
        return CheckResult(name, False, f"{type(err).__name__}: {err}")


def _check_settings(cls: type[Tuner]) -> str:
    config = getattr(cls, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise _BrokenError("Config is no frozen dataclass")
    fields = dataclasses.fields(config)
    bare = [f.name for f in fields if not {"unit", "source", "help"} <= f.metadata.keys()]
    if bare:
        raise _BrokenError(f"setting {bare[0]!r} is not declared with bench.core.contract.setting")
    if not getattr(cls, "name", ""):
        raise _BrokenError("the class has no name")
    if unknown := sorted(cls.needs - NEEDS):
        raise _BrokenError(f"needs names {unknown[0]!r}; known are {', '.join(sorted(NEEDS))}")
    for preset, values in cls.presets.items():
        if unknown := sorted(values.keys() - {f.name for f in fields}):
            raise _BrokenError(f"preset {preset!r} sets {unknown[0]!r}, which is no setting")
    if unknown := sorted(cls.check_settings.keys() - {f.name for f in fields}):
        raise _BrokenError(f"check_settings sets {unknown[0]!r}, which is no setting")
    laid = ", ".join(f"{k} = {v}" for k, v in cls.check_settings.items())
    return f"{len(fields)} settings, {len(cls.presets)} presets" + (f"; checked with {laid}" if laid else "")


def _check_units(cls: type[Tuner], config: Any, scratch: Path, run: _Run) -> str:
    """The uninterrupted run, watched."""
    work_dir = scratch / "work"
    work_dir.mkdir()
    with _watched(scratch, work_dir, run), _session(cls, config, work_dir, run) as session:
        run.session = session
        if not session.phases or not all(isinstance(p, Phase) for p in session.phases):
            raise _BrokenError("phases() gives no list of Phase")
        run.start = adapters.adapter_state(session.model.unet)
        _priced(session.phases, session.ledger, run)

        def on_unit(state: LoopState, phase: Phase, report: Report) -> None:
            steps = run.costs[-1][1]["steps"]
            if report.n_steps != steps:
                raise _BrokenError(
                    f"phase {phase.name!r} reports {report.n_steps} optimiser steps, {steps:g} were taken"
                )
            run.saved[state.total] = _point(session)

        why = _drive(session, on_unit)
        if not run.saved:
            raise _BrokenError(f"no unit ran: {why}")
    return f"{session.state.total} units in {len(session.phases)} phases, each returned a Report"


def _point(session: _Session) -> _Point:
    with session.meters.pause():
        state = _dump(session.tuner.state_dict())
        adapter = adapters.adapter_state(session.model.unet)
    return _Point(state, session.state.to_json(), adapter, dict(session.ledger.spent))


def _priced(phases: Sequence[Phase], ledger: Ledger, run: _Run) -> None:
    """Notes for each unit what next_cost says before it and what the ledger saw after it."""
    for phase in phases:

        def unit(
            unit: Callable[[], Report] = phase.unit, cost: Callable[[], Charge | None] = phase.next_cost
        ) -> Report:
            said, before = cost(), dict(ledger.spent)
            report = unit()
            run.costs.append((said, {kind: ledger.spent[kind] - before[kind] for kind in before}))
            return report

        phase.unit = unit


def _check_cost(run: _Run) -> str:
    known = [(said, seen) for said, seen in run.costs if said is not None]
    for k, (said, seen) in enumerate(known):
        for kind, amount in said.amounts.items():
            # time is a forecast, counts are exact
            if kind not in ("device_s", "flops") and amount != seen[kind]:
                raise _BrokenError(f"unit {k}: next_cost said {kind} = {amount:g}, the meters saw {seen[kind]:g}")
    if not known:
        return "not declared: the last unit may pass the budget"
    return f"exact for {len(known)} of {len(run.costs)} units"


def _check_budget(cls: type[Tuner], config: Any, scratch: Path, run: _Run) -> str:
    """A limit in the middle of a unit is not passed where the unit's cost is declared, else by that unit at most; for
    every kind, at the last unit that spends it."""
    last: dict[int, list[str]] = {}
    for kind in ("denoiser_u", "steps", "images", "reward_calls", "device_s"):
        spent = _spent(run, kind)
        spending = [k for k in range(len(spent) - 1) if spent[k + 1] > spent[k]]
        if spending:
            last.setdefault(spending[-1], []).append(kind)
    held: list[str] = []
    passed: list[str] = []
    for k, kinds in last.items():
        said = run.costs[k][0]
        declared = [kind for kind in kinds if said is not None and said.get(kind)]
        unknown = [kind for kind in kinds if kind not in declared]
        # no unit starts under a declared cost, so that one session serves all of those and one unknown cost after them
        for group in [declared + unknown[:1], *([kind] for kind in unknown[1:])]:
            with _session(cls, config, _work_copy(scratch, f"budget-{'-'.join(group)}"), run) as session:
                if k:
                    _take_up(session, run.saved[k])
                for kind in group:
                    (passed if _stops(session, kind, 0.5 * sum(_spent(run, kind)[k : k + 2])) else held).append(kind)
                    if kind in declared and kind in passed:
                        raise _BrokenError(f"a unit that declares its {kind} was started and passed the limit")
    return f"held: {', '.join(held) or 'none'}" + (f"; passed by a unit at most: {', '.join(passed)}" if passed else "")


def _spent(run: _Run, kind: str) -> list[float]:
    """What was spent after 0, 1, 2 .. units."""
    return [0.0, *(point.spent[kind] for _, point in sorted(run.saved.items()))]


def _stops(session: _Session, kind: str, limit: float) -> bool:
    """Runs to a limit; returns whether its last unit passed it."""
    session.ledger.budget = _limit(kind, limit)
    units = [session.ledger.spent[kind]]
    _drive(session, lambda *_: units.append(session.ledger.spent[kind]))
    if len(units) > 1 and units[-2] >= limit:
        raise _BrokenError(f"{units[-1] - limit:g} {kind} more than the limit of {limit:g} were spent")
    return units[-1] > limit


def _limit(kind: str, amount: float) -> Budget:
    return Budget(**{kind: amount, "primary": kind})  # type: ignore[arg-type]


def _work_copy(scratch: Path, name: str) -> Path:
    """The uninterrupted run's files. They are ahead of a state in the middle, as those of a killed run may be: it wrote
    them after its last checkpoint."""
    shutil.copytree(scratch / "work", scratch / name)
    return scratch / name


def _check_resume(cls: type[Tuner], config: Any, scratch: Path, run: _Run) -> str:
    """Killed and resumed, bit for bit the run that was not killed: after the first unit to the very end, and at the
    first unit, in the middle and at the end of every phase to the next such point."""
    total = max(run.saved)
    points = _kill_points(run)
    for k, until in [*((k, total) for k in points[:1]), *itertools.pairwise([*points, total])]:
        with _session(cls, config, _work_copy(scratch, f"resume-{k}-{until}"), run) as session:
            _take_up(session, run.saved[k])
            _drive(session, until=until)
            now, then = _point(session), run.saved[until]
        where = _difference(then.adapter, now.adapter) or _difference(_load(then.state), _load(now.state))
        if where:
            raise _BrokenError(f"killed after unit {k} of {total} and resumed, {where} differs at unit {until}")
    if not points:
        return "there is one unit, so nothing to resume"
    return f"equal bit for bit after a kill at unit {', '.join(map(str, points))} of {total}"


def _kill_points(run: _Run) -> list[int]:
    """Units done at which to kill, before the last."""
    phases: dict[int, list[int]] = {}
    for k, point in sorted(run.saved.items()):
        phases.setdefault(point.loop["phase"], []).append(k)
    points = {at for units in phases.values() for at in (units[0], units[len(units) // 2], units[-1])}
    return sorted((points | {max(run.saved) - 1}) & run.saved.keys() - {max(run.saved)})


def _check_processes(cls: type[Tuner], config: Any, scratch: Path, run: _Run) -> str:
    """Two processes with half of each batch are one with the whole: the same ledger, and the same adapter up to the
    order of sums; both processes end in the same state, since process 0's checkpoint is for all."""
    work_dir = scratch / "processes"
    work_dir.mkdir()
    turns = _Turns(2)
    ends: dict[int, _Point] = {}

    def tune(processes: Processes) -> None:
        tally = Tally()
        with _session(cls, config, work_dir, run, processes=processes, charge=tally.charge) as session:

            def on_unit(state: LoopState, phase: Phase, report: Report) -> None:
                settle(session.ledger.charge, processes.exchange(tally.take()))

            _drive(session, on_unit, agree=processes.agree)
            ends[processes.rank] = _point(session)

    turns.run(tune)
    one, a, b = run.saved[max(run.saved)], ends[0], ends[1]
    if a.loop["total"] != one.loop["total"]:
        raise _BrokenError(f"two processes did {a.loop['total']} units, one did {one.loop['total']}")
    if where := _difference(a.adapter, b.adapter) or _difference(_load(a.state), _load(b.state)):
        raise _BrokenError(f"{where} differs between two processes: ctx.all_reduce what they share out")
    for kind, amount in one.spent.items():
        # both simulated processes see every optimiser step of this one, and the clock is no count
        if kind not in ("steps", "device_s") and a.spent[kind] != amount:
            raise _BrokenError(
                f"two processes spent {kind} = {a.spent[kind]:g}, one {amount:g}: work only ctx.share(n)"
            )
    off = max((float((x - a.adapter[name]).abs().max()) for name, x in one.adapter.items()), default=0.0)
    if off > _SAME_ADAPTER:
        raise _BrokenError(f"the adapter of two processes is off by {off:.1e} from the adapter of one")
    return f"two equal one: the ledger exactly, the adapter to {off:.0e}"


class _Turns:
    """Processes simulated by threads of which one runs at a time, until it has to wait for what another says."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._running = threading.Condition()
        self._said: list[dict[int, Any]] = []
        self._ended: set[int] = set()

    def run(self, work: Callable[[Processes], None]) -> None:
        """``work`` in each process; raises the first error."""
        errors: list[BaseException] = []

        def one(rank: int) -> None:
            with self._running:
                try:
                    work(_Simulated(rank, self))
                except BaseException as err:
                    errors.append(err)
                finally:
                    self._ended.add(rank)
                    self._running.notify_all()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def exchange(self, rank: int, k: int, value: Any) -> list[Any]:
        """The k-th thing that each process says, once all have said it."""
        while len(self._said) <= k:
            self._said.append({})
        said = self._said[k]
        said[rank] = value
        self._running.notify_all()
        while len(said) < self.size:
            if self._ended - said.keys():
                raise _BrokenError(
                    "one of two processes ended while the other waited: they must all_reduce equally often"
                )
            self._running.wait()
        return [said[r] for r in range(self.size)]


class _Simulated(Processes):
    def __init__(self, rank: int, turns: _Turns) -> None:
        self.rank = rank
        self.size = turns.size
        self._turns = turns
        self._n_said = 0

    def exchange(self, value: Any) -> list[Any]:
        self._n_said += 1
        return self._turns.exchange(self.rank, self._n_said - 1, value)

    def sum_flat(self, flat: torch.Tensor) -> None:
        parts = self.exchange(flat.clone())
        if any(part.shape != flat.shape for part in parts):
            raise _BrokenError("two processes all_reduce tensors of different sizes")
        flat.copy_(torch.stack(parts).sum(0))


def _check_patch(run: _Run) -> str:
    assert run.session is not None
    patch = run.session.tuner.patch()
    if not isinstance(patch, Patch):
        raise _BrokenError(f"patch() gives a {type(patch).__name__}, not a Patch")
    changed = _difference(run.start, run.saved[max(run.saved)].adapter) is not None
    if patch.adapter and not changed:
        raise _BrokenError("the adapter did not change")
    prompt = Prompt("check", "a check")
    (image,) = generate(run.session.model, [prompt], [0], SamplerSpec("ddim", n_steps=2, guidance=1.0), patch)
    if not torch.isfinite(image.image).all():
        raise _BrokenError("an image sampled with the patch is not finite")
    return "the adapter changed and samples" if changed else "samples without the adapter"


def _check_diffusers(scratch: Path, run: _Run) -> str:
    """The saved adapter, loaded with plain diffusers' ``load_lora_weights``, makes our image."""
    from diffusers import StableDiffusionPipeline

    assert run.session is not None
    model, patch = run.session.model, run.session.tuner.patch()
    if not patch.adapter:
        return "no adapter is saved"
    prompt, spec = Prompt("check", "a check"), SamplerSpec("ddim", n_steps=2, guidance=3.0)
    with torch.no_grad(), run.session.tuner.snapshot_weights():
        for p in model.adapter_parameters:
            p.mul_(_LOUDER)
        adapters.save_adapter(model.unet, scratch / "saved")
        (ours,) = generate(model, [prompt], [0], spec, Patch(adapter_scale=patch.adapter_scale))
    with quiet():
        save_random_pipeline(scratch / "model")
        pipe = StableDiffusionPipeline.from_pretrained(scratch / "model", safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        noise = Noise([image_seed(prompt, 0)]).initial(model.latent_shape(), torch.float32, torch.device("cpu"))

        def plain() -> torch.Tensor:
            image: torch.Tensor = pipe(
                prompt.text, latents=noise, num_inference_steps=spec.n_steps, guidance_scale=spec.guidance,
                output_type="pt",
            ).images[0]  # fmt: skip
            return image

        moved = float((plain() - ours.image).abs().max())
        pipe.load_lora_weights(str(scratch / "saved"))
        pipe.set_adapters(pipe.get_active_adapters(), patch.adapter_scale)
        off = float((plain() - ours.image).abs().max())
    if off > _SAME_IMAGE:
        raise _BrokenError(f"loaded by diffusers' load_lora_weights, the adapter's image is off by {off:.1e}")
    return f"the image of load_lora_weights is ours to {off:.0e}; the adapter moves it by {moved:.0e}"


def _no_findings(findings: Sequence[str], fine: str) -> str:
    if findings:
        raise _BrokenError("; ".join(dict.fromkeys(findings)))
    return fine


# -- watching


@contextlib.contextmanager
def _watched(scratch: Path, work_dir: Path, run: _Run) -> Iterator[None]:
    """Notes global random draws, suites that are opened, and writes outside ``work_dir``."""
    # a process's first optimiser step imports torch's compiler, which makes a cache folder: no deed of the tuner
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)]).step()
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "suites"}
    before = _random_states()

    def see(event: str, args: tuple[Any, ...]) -> None:
        if event == "import" and str(args[0]).split(".")[0] == "suites":
            run.suites.append(f"the package {args[0]} was imported")
        for path in _written(event, args):
            if work_dir not in (path, *path.parents) and "__pycache__" not in path.parts and path != Path(os.devnull):
                run.writes.append(f"{event} {path}")

    known = set(scratch.iterdir())
    with _audited(see):
        try:
            yield
        finally:
            run.random += [name for name, state in _random_states().items() if state != before[name]]
            # native code escapes the audit, but not the current folder
            run.writes += [f"{p.name} in the current folder" for p in scratch.iterdir() if p not in known]
            for name in [n for n in sys.modules if n.split(".")[0] == "suites"]:
                del sys.modules[name]
            sys.modules.update(hidden)


def _random_states() -> dict[str, bytes]:
    states = {
        "random": pickle.dumps(random.getstate()),
        "numpy.random": pickle.dumps(np.random.get_state()),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_available():
        states["torch.cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return states


def _written(event: str, args: tuple[Any, ...]) -> Iterator[Path]:
    """Paths that an audit event creates or changes."""
    names: Sequence[Any] = ()
    if event == "open":
        name, mode, flags = args
        writes = (
            set(mode) & set("wax+") if isinstance(mode, str) else (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        names = [name] if writes else []
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        names = args[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        names = args[:2]
    for name in names:
        if isinstance(name, (str, bytes, os.PathLike)):
            yield Path(os.path.abspath(os.fsdecode(name)))


_watchers: list[Callable[[str, tuple[Any, ...]], None]] = []
_installed: list[bool] = []


@contextlib.contextmanager
def _audited(see: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Calls ``see`` for Python's audit events. A hook cannot be removed, so one stays and does nothing."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(lambda event, args: [watch(event, args) for watch in _watchers] and None)
    _watchers.append(see)
    try:
        yield
    finally:
        _watchers.remove(see)


# -- states


def _dump(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _difference(a: Any, b: Any, where: str = "") -> str | None:
    """The place of the first difference between two nested states, None where they are equal bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else where or "the state"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return where or "the state's keys"
        return next((d for k in a if (d := _difference(a[k], b[k], f"{where}[{k!r}]"))), None)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return where or "the state's length"
        return next(
            (d for k, (x, y) in enumerate(zip(a, b, strict=True)) if (d := _difference(x, y, f"{where}[{k}]"))), None
        )
    return None if a == b else where or "the state"
