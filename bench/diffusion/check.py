"""The contract suite of tuners, on a random pipeline in seconds: ``bench check tuner NAME`` and ``./my_tuner.py``.

What cannot be seen from outside: files that native code writes outside the current folder, and evaluation prompts that
a tuner carries inside its own source; those are for reviewers to find.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
import io
import os
import pickle
import random
import re
import shutil
import sys
import tempfile
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
from bench.diffusion.generate import generate
from bench.diffusion.meters import FlopTable, Meters
from bench.diffusion.models import BaseModel
from bench.diffusion.random_tiny import random_pipeline
from bench.engine.loop import LoopState, drive

NEEDS = frozenset({"differentiable-reward", "black-box-reward", "pairs", "images", "reference", "attention"})
_UNITS = 3
"""Units of the last phase that a check runs."""
_MAX_UNITS = 300
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
                _result("random-state", lambda: _no_findings(run.random, "no global random state was touched")),
                _result("evaluation-prompts", lambda: _no_findings(run.suites, "no suite was opened")),
                _result("writes", lambda: _no_findings(run.writes, "nothing was written outside work_dir")),
                _result("patch", lambda: _check_patch(run)),
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
    cls: type[Tuner], config: Any, work_dir: Path, run: _Run, budget: Budget = _NO_LIMIT
) -> Iterator[_Session]:
    model = random_pipeline(0)
    ledger = Ledger(budget)
    black_box = "differentiable-reward" not in cls.needs
    with Meters(model, ledger.charge, flops=run.flops) as meters:
        ctx = TuningContext(
            model=model, sampler=SamplerSpec("ddim", n_steps=4, guidance=3.0), global_batch=2, micro_batch=1,
            train_prompts=[Prompt(f"train-{k}", f"a {k} of training") for k in range(5)],
            rewards=lambda _: _BlackBoxReward() if black_box else _CheckReward(), default_reward="check-redness",
            meters=meters, ledger=ledger, seed=0, work_dir=work_dir,
        )  # fmt: skip
        with meters.pause():
            tuner = cls(config, ctx)
            phases = tuner.phases()
        yield _Session(model, ledger, meters, tuner, phases)


def _drive(session: _Session, on_unit: Callable[[LoopState, Phase, Report], None]) -> str:
    last = len(session.phases) - 1

    def enough() -> bool:
        state = session.state
        return state.total >= _MAX_UNITS or (state.phase == last and state.unit >= _UNITS)

    return drive(
        session.tuner.name, session.phases, session.ledger, session.meters.clock, session.state, on_unit=on_unit,
        should_stop=enough,
    )  # fmt: skip


@dataclass
class _Run:
    """What the uninterrupted run left behind."""

    session: _Session | None = None
    start: dict[str, torch.Tensor] = field(default_factory=dict)
    saved: dict[int, tuple[bytes, dict[str, int]]] = field(default_factory=dict)
    """Units done → (tuner state, loop state) as a checkpoint holds them."""
    final: bytes = b""
    adapter: dict[str, torch.Tensor] = field(default_factory=dict)
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
            with session.meters.pause():
                run.saved[state.total] = (_dump(session.tuner.state_dict()), state.to_json())

        why = _drive(session, on_unit)
        if not run.saved:
            raise _BrokenError(f"no unit ran: {why}")
        with session.meters.pause():
            run.final = _dump(session.tuner.state_dict())
        run.adapter = adapters.adapter_state(session.model.unet)
    return f"{session.state.total} units in {len(session.phases)} phases, each returned a Report"


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
    """A budget in the middle of a unit is not passed, or by less than that unit where its cost is not declared."""
    spent = [seen["denoiser_u"] for _, seen in run.costs]
    if not sum(spent):
        return "the tuner uses no U-Net evaluations"
    limit = sum(spent[:-1]) + 0.5 * spent[-1]
    work_dir = scratch / "budget"
    work_dir.mkdir()
    with _session(cls, config, work_dir, run, Budget(denoiser_u=limit)) as session:
        why = _drive(session, lambda state, phase, report: None)
        over = session.ledger.spent["denoiser_u"] - limit
    declared = all(said is not None and said.get("denoiser_u") for said, _ in run.costs)
    if over > (0 if declared else max(spent)):
        raise _BrokenError(f"{over:g} U more than the limit of {limit:g} were spent")
    return f"ended by {why}, {-over:g} U left of {limit:g}" if over <= 0 else f"passed by {over:g} U, less than a unit"


def _check_resume(cls: type[Tuner], config: Any, scratch: Path, run: _Run) -> str:
    """Killed after its first and its next-to-last unit, and resumed: bit for bit the run that was not killed."""
    total = max(run.saved)
    points = sorted({k for k in (1, total - 1) if k in run.saved})
    for k in points:
        saved, loop = run.saved[k]
        work_dir = scratch / f"resume-{k}"
        # files may be ahead of the state: a killed run wrote them after its last checkpoint
        shutil.copytree(scratch / "work", work_dir)
        with _session(cls, config, work_dir, run) as session:
            with session.meters.pause():
                session.tuner.load_state_dict(_load(saved))
            session.state = LoopState.from_json(loop)
            _drive(session, lambda state, phase, report: None)
            with session.meters.pause():
                final = _load(_dump(session.tuner.state_dict()))
            where = _difference(run.adapter, adapters.adapter_state(session.model.unet)) or _difference(
                _load(run.final), final
            )
        if where:
            raise _BrokenError(f"killed after unit {k} of {total} and resumed, {where} differs")
    return f"equal bit for bit after a kill at unit {' and '.join(map(str, points))} of {total}"


def _check_patch(run: _Run) -> str:
    assert run.session is not None
    patch = run.session.tuner.patch()
    if not isinstance(patch, Patch):
        raise _BrokenError(f"patch() gives a {type(patch).__name__}, not a Patch")
    changed = _difference(run.start, run.adapter) is not None
    if patch.adapter and not changed:
        raise _BrokenError("the adapter did not change")
    prompt = Prompt("check", "a check")
    (image,) = generate(run.session.model, [prompt], [0], SamplerSpec("ddim", n_steps=2, guidance=1.0), patch)
    if not torch.isfinite(image.image).all():
        raise _BrokenError("an image sampled with the patch is not finite")
    return "the adapter changed and samples" if changed else "samples without the adapter"


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
