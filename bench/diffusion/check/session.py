"""One tuner on one fresh random pipeline: started, driven, noted between its units and taken up again."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.core.budget import Budget, Charge, Ledger
from bench.core.contract import Phase, Report, Reward, Setup, Tuner
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.context import TuningContext
from bench.diffusion.meters import ChargeFn, FlopTable, Meters
from bench.diffusion.models import BaseModel
from bench.diffusion.processes import Processes
from bench.diffusion.random_tiny import random_pipeline
from bench.engine.loop import LoopState, drive

_UNITS = 3
"""Units of the last phase that a check runs."""
_MAX_UNITS = 300
_NO_LIMIT = Budget(denoiser_u=1e12)


class BrokenError(Exception):
    """A promise that does not hold."""


class CheckReward(Reward):
    """Redness: the mean of red minus the mean of green."""

    name = "check-redness"

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        if tuple(images.shape[1:2]) != (3,) or len(prompts) != images.shape[0]:
            raise BrokenError(f"a reward was given {tuple(images.shape)} images for {len(prompts)} prompts")
        if images.detach().amin() < 0 or images.detach().amax() > 1:
            raise BrokenError("a reward was given values outside [0, 1]")
        return images[:, 0].mean((1, 2)) - images[:, 1].mean((1, 2))


class BlackBoxReward(CheckReward):
    differentiable = False

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return super().measure(images.detach(), prompts)


@dataclass
class Session:
    """A tuner on a random model with its own ledger."""

    model: BaseModel
    ledger: Ledger
    meters: Meters
    tuner: Tuner
    phases: list[Phase]
    state: LoopState = field(default_factory=LoopState)


@dataclass(frozen=True)
class Point:
    """The uninterrupted run between two units."""

    state: bytes
    """The tuner's, as a checkpoint holds it."""
    loop: dict[str, int]
    adapter: dict[str, torch.Tensor]
    spent: dict[str, float]


@dataclass
class Run:
    """What the uninterrupted run left behind."""

    session: Session | None = None
    start: dict[str, torch.Tensor] = field(default_factory=dict)
    saved: dict[int, Point] = field(default_factory=dict)
    """By units done."""
    costs: list[tuple[Charge | None, dict[str, float]]] = field(default_factory=list)
    """For each unit: what next_cost said, and what the meters saw."""
    random: list[str] = field(default_factory=list)
    suites: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    base: str = "sd"
    """Of the random pipeline: see ``bench.diffusion.random_tiny.BASES``."""
    flops: FlopTable = field(default_factory=dict)
    """All sessions run the same shapes, so they are measured once."""


def sampler_of(base: str, n_steps: int, guidance: float) -> SamplerSpec:
    """What a random pipeline is sampled with."""
    return SamplerSpec("flow-euler" if base == "sd3" else "ddim", n_steps=n_steps, guidance=guidance)


def setup(base: str = "sd", budget: Budget = _NO_LIMIT) -> Setup:
    """What a plan would know of a session."""
    sampler = sampler_of(base, n_steps=4, guidance=3.0)
    # pictures of 16 pixels are the tiny world's to a tuner that asks for their size
    return Setup(sampler, sampler, 2, budget, 5, CheckReward.name, "tiny-sd", seed=0)


@contextlib.contextmanager
def open_session(
    cls: type[Tuner], config: Any, work_dir: Path, run: Run, budget: Budget = _NO_LIMIT,
    processes: Processes | None = None, charge: ChargeFn | None = None,
) -> Iterator[Session]:  # fmt: skip
    model = random_pipeline(0, base=run.base)
    ledger = Ledger(budget)
    facts = setup(run.base, budget)
    black_box = "differentiable-reward" not in cls.needs_of(config)
    with Meters(model, charge or ledger.charge, flops=run.flops) as meters:
        ctx = TuningContext(
            model=model, sampler=facts.train_sampler, global_batch=facts.global_batch, micro_batch=1,
            train_prompts=[Prompt(f"train-{k}", f"a {k} of training") for k in range(facts.n_train_prompts)],
            rewards=lambda _: BlackBoxReward() if black_box else CheckReward(), default_reward=facts.reward,
            meters=meters, ledger=ledger, seed=facts.seed, work_dir=work_dir, processes=processes,
        )  # fmt: skip
        with meters.pause():
            tuner = cls(config, ctx)
            phases = tuner.phases()
        yield Session(model, ledger, meters, tuner, phases)


def run_units(
    session: Session, on_unit: Callable[[LoopState, Phase, Report], None] = lambda state, phase, report: None, *,
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


def take_up(session: Session, point: Point) -> None:
    """Goes on from where the uninterrupted run stood."""
    with session.meters.pause():
        session.tuner.load_state_dict(load(point.state))
    session.state = LoopState.from_json(point.loop)
    session.ledger.restore({"spent": point.spent, "lost": {}})


def point_of(session: Session) -> Point:
    with session.meters.pause():
        state = dump(session.tuner.state_dict())
        adapter = adapters.adapter_state(session.model.unet)
    return Point(state, session.state.to_json(), adapter, dict(session.ledger.spent))


def dump(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """The place of the first difference between two nested states, None where they are equal bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else where or "the state"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return where or "the state's keys"
        return next((d for k in a if (d := difference(a[k], b[k], f"{where}[{k!r}]"))), None)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return where or "the state's length"
        return next(
            (d for k, (x, y) in enumerate(zip(a, b, strict=True)) if (d := difference(x, y, f"{where}[{k}]"))), None
        )
    return None if a == b else where or "the state"
