"""The promises of a tuner to the harness, one function each: it returns what was seen, or raises BrokenError."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.core.afford import total
from bench.core.budget import Budget, Charge, Ledger
from bench.core.contract import Patch, Phase, Report, Tuner
from bench.core.types import Prompt
from bench.diffusion import adapters
from bench.diffusion.check.session import (
    BrokenError,
    Point,
    Run,
    Session,
    difference,
    load,
    open_session,
    point_of,
    run_units,
    sampler_of,
    setup,
    take_up,
)
from bench.diffusion.check.simulated import Turns
from bench.diffusion.check.watching import watched
from bench.diffusion.generate import generate, image_seed
from bench.diffusion.meters import Tally, settle
from bench.diffusion.models import quiet
from bench.diffusion.processes import Processes
from bench.diffusion.random_tiny import save_random_pipeline
from bench.diffusion.samplers import Noise
from bench.diffusion.sources import find_source
from bench.engine.loop import LoopState

NEEDS = frozenset({"differentiable-reward", "black-box-reward", "pairs", "images", "reference", "attention"})
_SAME_ADAPTER = 1e-5
"""Two processes sum in another order than one, in float32; a missing sum is off by the learning rate, 1e-3."""
_SAME_IMAGE = 1e-5
_LOUDER = 5.0
"""An adapter of three updates moves an image too little to tell whether it was loaded at all."""


def check_settings(cls: type[Tuner]) -> str:
    config = getattr(cls, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise BrokenError("Config is no frozen dataclass")
    fields = dataclasses.fields(config)
    bare = [f.name for f in fields if not {"unit", "source", "help"} <= f.metadata.keys()]
    if bare:
        raise BrokenError(f"setting {bare[0]!r} is not declared with bench.core.contract.setting")
    if not getattr(cls, "name", ""):
        raise BrokenError("the class has no name")
    if unknown := sorted(cls.needs - NEEDS):
        raise BrokenError(f"needs names {unknown[0]!r}; known are {', '.join(sorted(NEEDS))}")
    for preset, values in cls.presets.items():
        if unknown := sorted(values.keys() - {f.name for f in fields}):
            raise BrokenError(f"preset {preset!r} sets {unknown[0]!r}, which is no setting")
    if unknown := sorted(cls.check_settings.keys() - {f.name for f in fields}):
        raise BrokenError(f"check_settings sets {unknown[0]!r}, which is no setting")
    laid = ", ".join(f"{k} = {v}" for k, v in cls.check_settings.items())
    return f"{len(fields)} settings, {len(cls.presets)} presets" + (f"; checked with {laid}" if laid else "")


def check_units(cls: type[Tuner], config: Any, scratch: Path, run: Run) -> str:
    """The uninterrupted run, watched."""
    work_dir = scratch / "work"
    work_dir.mkdir()
    with watched(scratch, work_dir, run), open_session(cls, config, work_dir, run) as session:
        run.session = session
        if not session.phases or not all(isinstance(p, Phase) for p in session.phases):
            raise BrokenError("phases() gives no list of Phase")
        run.start = adapters.adapter_state(session.model.unet)
        _priced(session.phases, session.ledger, run)

        def on_unit(state: LoopState, phase: Phase, report: Report) -> None:
            steps = run.costs[-1][1]["steps"]
            if report.n_steps != steps:
                raise BrokenError(
                    f"phase {phase.name!r} reports {report.n_steps} optimiser steps, {steps:g} were taken"
                )
            run.saved[state.total] = point_of(session)

        why = run_units(session, on_unit)
        if not run.saved:
            raise BrokenError(f"no unit ran: {why}")
    return f"{session.state.total} units in {len(session.phases)} phases, each returned a Report"


def _priced(phases: Sequence[Phase], ledger: Ledger, run: Run) -> None:
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


def check_cost(run: Run) -> str:
    known = [(said, seen) for said, seen in run.costs if said is not None]
    for k, (said, seen) in enumerate(known):
        for kind, amount in said.amounts.items():
            # time is a forecast, counts are exact
            if kind not in ("device_s", "flops") and amount != seen[kind]:
                raise BrokenError(f"unit {k}: next_cost said {kind} = {amount:g}, the meters saw {seen[kind]:g}")
    if not known:
        return "not declared: the last unit may pass the budget"
    return f"exact for {len(known)} of {len(run.costs)} units"


def check_budget(cls: type[Tuner], config: Any, scratch: Path, run: Run) -> str:
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
            with open_session(cls, config, _work_copy(scratch, f"budget-{'-'.join(group)}"), run) as session:
                if k:
                    take_up(session, run.saved[k])
                for kind in group:
                    (passed if _stops(session, kind, 0.5 * sum(_spent(run, kind)[k : k + 2])) else held).append(kind)
                    if kind in declared and kind in passed:
                        raise BrokenError(f"a unit that declares its {kind} was started and passed the limit")
    return f"held: {', '.join(held) or 'none'}" + (f"; passed by a unit at most: {', '.join(passed)}" if passed else "")


def _spent(run: Run, kind: str) -> list[float]:
    """What was spent after 0, 1, 2 .. units."""
    return [0.0, *(point.spent[kind] for _, point in sorted(run.saved.items()))]


def _stops(session: Session, kind: str, limit: float) -> bool:
    """Runs to a limit; returns whether its last unit passed it."""
    session.ledger.budget = _limit(kind, limit)
    units = [session.ledger.spent[kind]]
    run_units(session, lambda *_: units.append(session.ledger.spent[kind]))
    if len(units) > 1 and units[-2] >= limit:
        raise BrokenError(f"{units[-1] - limit:g} {kind} more than the limit of {limit:g} were spent")
    return units[-1] > limit


def _limit(kind: str, amount: float) -> Budget:
    return Budget(**{kind: amount, "primary": kind})  # type: ignore[arg-type]


def _work_copy(scratch: Path, name: str) -> Path:
    """The uninterrupted run's files. They are ahead of a state in the middle, as those of a killed run may be: it wrote
    them after its last checkpoint."""
    shutil.copytree(scratch / "work", scratch / name)
    return scratch / name


def check_resume(cls: type[Tuner], config: Any, scratch: Path, run: Run) -> str:
    """Killed and resumed, bit for bit the run that was not killed: after the first unit to the very end, and at the
    first unit, in the middle and at the end of every phase to the next such point."""
    total = max(run.saved)
    points = _kill_points(run)
    for k, until in [*((k, total) for k in points[:1]), *itertools.pairwise([*points, total])]:
        with open_session(cls, config, _work_copy(scratch, f"resume-{k}-{until}"), run) as session:
            take_up(session, run.saved[k])
            run_units(session, until=until)
            now, then = point_of(session), run.saved[until]
        where = difference(then.adapter, now.adapter) or difference(load(then.state), load(now.state))
        if where:
            raise BrokenError(f"killed after unit {k} of {total} and resumed, {where} differs at unit {until}")
    if not points:
        return "there is one unit, so nothing to resume"
    return f"equal bit for bit after a kill at unit {', '.join(map(str, points))} of {total}"


def check_first_update(cls: type[Tuner], config: Any, run: Run) -> str:
    """What a plan is told of the first update and all before it is what the meters saw."""
    needs = cls.first_update(config, setup(run.base))
    if not needs:
        return "not declared: nothing is tuned, or a budget that does not hold it is found after the run"
    assert run.session is not None
    last = len(run.session.phases) - 1
    spent = next((p.spent for _, p in sorted(run.saved.items()) if p.loop["phase"] == last), None)
    if spent is None:
        raise BrokenError("the last phase, which is to hold the updates, did not begin")
    said = total(needs)
    for kind, amount in said.amounts.items():
        if amount != spent[kind]:
            raise BrokenError(f"first_update said {kind} = {amount:g}, the meters saw {spent[kind]:g}")
    return f"exact: {said.get('denoiser_u'):g} U up to its end"


def _kill_points(run: Run) -> list[int]:
    """Units done at which to kill, before the last."""
    phases: dict[int, list[int]] = {}
    for k, point in sorted(run.saved.items()):
        phases.setdefault(point.loop["phase"], []).append(k)
    points = {at for units in phases.values() for at in (units[0], units[len(units) // 2], units[-1])}
    return sorted((points | {max(run.saved) - 1}) & run.saved.keys() - {max(run.saved)})


def check_processes(cls: type[Tuner], config: Any, scratch: Path, run: Run) -> str:
    """Two processes with half of each batch are one with the whole: the same ledger, and the same adapter up to the
    order of sums; both processes end in the same state, since process 0's checkpoint is for all."""
    work_dir = scratch / "processes"
    work_dir.mkdir()
    turns = Turns(2)
    ends: dict[int, Point] = {}

    def tune(processes: Processes) -> None:
        tally = Tally()
        with open_session(cls, config, work_dir, run, processes=processes, charge=tally.charge) as session:

            def on_unit(state: LoopState, phase: Phase, report: Report) -> None:
                settle(session.ledger.charge, processes.exchange(tally.take()))

            run_units(session, on_unit, agree=processes.agree)
            ends[processes.rank] = point_of(session)

    turns.run(tune)
    one, a, b = run.saved[max(run.saved)], ends[0], ends[1]
    if a.loop["total"] != one.loop["total"]:
        raise BrokenError(f"two processes did {a.loop['total']} units, one did {one.loop['total']}")
    if where := difference(a.adapter, b.adapter) or difference(load(a.state), load(b.state)):
        raise BrokenError(f"{where} differs between two processes: ctx.all_reduce what they share out")
    for kind, amount in one.spent.items():
        # both simulated processes see every optimiser step of this one, and the clock is no count
        if kind not in ("steps", "device_s") and a.spent[kind] != amount:
            raise BrokenError(f"two processes spent {kind} = {a.spent[kind]:g}, one {amount:g}: work only ctx.share(n)")
    off = max((float((x - a.adapter[name]).abs().max()) for name, x in one.adapter.items()), default=0.0)
    if off > _SAME_ADAPTER:
        raise BrokenError(f"the adapter of two processes is off by {off:.1e} from the adapter of one")
    return f"two equal one: the ledger exactly, the adapter to {off:.0e}"


def check_patch(run: Run) -> str:
    assert run.session is not None
    patch = run.session.tuner.patch()
    if not isinstance(patch, Patch):
        raise BrokenError(f"patch() gives a {type(patch).__name__}, not a Patch")
    changed = difference(run.start, run.saved[max(run.saved)].adapter) is not None
    if patch.adapter and not changed:
        raise BrokenError("the adapter did not change")
    prompt = Prompt("check", "a check")
    (image,) = generate(run.session.model, [prompt], [0], sampler_of(run.base, 2, 1.0), patch)
    if not torch.isfinite(image.image).all():
        raise BrokenError("an image sampled with the patch is not finite")
    return "the adapter changed and samples" if changed else "samples without the adapter"


def check_diffusers(scratch: Path, run: Run) -> str:
    """The saved adapter, loaded with plain diffusers' ``load_lora_weights``, makes our image."""
    import diffusers

    assert run.session is not None
    model, patch = run.session.model, run.session.tuner.patch()
    if not patch.adapter:
        return "no adapter is saved"
    prompt, spec = Prompt("check", "a check"), sampler_of(run.base, 2, 3.0)
    with torch.no_grad(), run.session.tuner.snapshot_weights():
        for p in model.adapter_parameters:
            p.mul_(_LOUDER)
        adapters.save_adapter(model.unet, scratch / "saved")
        (ours,) = generate(model, [prompt], [0], spec, Patch(adapter_scale=patch.adapter_scale))
    with quiet():
        save_random_pipeline(scratch / "model", base=run.base)
        absent = find_source(str(scratch / "model")).absent_parts()
        pipe = getattr(diffusers, model.family.pipeline).from_pretrained(
            scratch / "model", **dict.fromkeys(absent), **({"safety_checker": None} if run.base == "sd" else {})
        )
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
        raise BrokenError(f"loaded by diffusers' load_lora_weights, the adapter's image is off by {off:.1e}")
    return f"the image of load_lora_weights is ours to {off:.0e}; the adapter moves it by {moved:.0e}"


def no_findings(findings: Sequence[str], fine: str) -> str:
    if findings:
        raise BrokenError("; ".join(dict.fromkeys(findings)))
    return fine
