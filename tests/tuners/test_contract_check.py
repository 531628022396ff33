"""``bench check tuner``: every preset and the template pass; a tuner that breaks one promise fails that check."""

import copy
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from bench.core import registry
from bench.core.afford import Need
from bench.core.budget import Charge
from bench.core.contract import Report, make_config
from bench.core.errors import UserError
from bench.diffusion.check import check_tuner, new_tuner
from tuners.drtune import DRTune
from tuners.refl import ReFL

PROMISES = [
    "settings",
    "units",
    "next-cost",
    "budget",
    "resume",
    "first-update",
    "processes",
    "random-state",
    "evaluation-prompts",
    "writes",
    "patch",
    "diffusers",
]


def failed(tuner, config=None):
    return {r.name: r.detail for r in check_tuner(tuner, config) if not r.ok}


def test_drtune_keeps_its_promises():
    results = check_tuner(DRTune)
    assert [r.name for r in results] == PROMISES
    assert {r.name: r.detail for r in results if not r.ok} == {}


def test_check_settings_are_laid_over_the_others_and_named():
    small = type("Small", (ReFL,), {"check_settings": {"pretrain_pool": 2}})
    (settings, *_, resume) = check_tuner(small, make_config(ReFL, {"pretrain_weight": 1.0}))[:5]
    assert "checked with pretrain_pool = 2" in settings.detail
    assert "of 4" in resume.detail  # one unit of the pool, three updates
    unknown = type("Unknown", (ReFL,), {"check_settings": {"nothing": 2}})
    assert "check_settings" in failed(unknown)["settings"]


def test_two_phases_keep_their_promises():
    assert failed(ReFL, make_config(ReFL, {"pretrain_weight": 1.0, "pretrain_pool": 2})) == {}


def test_a_new_tuner_passes_from_its_file(tmp_path):
    path = new_tuner("my_tuner", tmp_path)
    tuner = registry.load("tuners", str(path))
    assert (tuner.name, tuner.__name__) == ("my-tuner", "MyTuner")
    assert failed(tuner) == {}
    assert "__" not in path.read_text().replace("__init__", "").replace("__future__", "")


def test_a_new_tuner_overwrites_nothing_and_needs_a_python_name(tmp_path):
    new_tuner("mine", tmp_path)
    with pytest.raises(UserError, match="exists"):
        new_tuner("mine", tmp_path)
    with pytest.raises(UserError, match="no name"):
        new_tuner("My Tuner", tmp_path)


# -- one promise broken at a time


class Good(DRTune):
    """Base of the broken ones."""

    name = "good"


def breaks(promise, id=None, **members):
    return pytest.param(type("Broken", (Good,), members), promise, id=id or promise)


def unit_with(effect):
    def unit(self):
        effect(self)
        return DRTune.unit(self)

    return unit


ONE_U = [Need("an update", Charge({"denoiser_u": 1.0}))]


def bare_setting():
    @dataclass(frozen=True)
    class Config:
        lr: float = field(default=1.0)

    return Config


def overspending_unit(self):
    report = DRTune.unit(self)
    self.ctx.model.denoiser(torch.zeros(200, 4, 8, 8), torch.tensor(5), self.ctx.model.encode_prompts(["a"] * 200))
    return report


def import_suites(self):
    import suites  # noqa: F401


def outside(self):
    with open("notes.txt", "w") as f:
        f.write("x")


def forgets_the_optimizer(self, state):
    optimizer = self.optimizer.state_dict()
    DRTune.load_state_dict(self, state)
    self.optimizer.load_state_dict(optimizer)


def two_steps_reported(self):
    report = DRTune.unit(self)
    return Report(report.scalars, n_steps=2)


def frozen_unit(self):
    before = [p.detach().clone() for p in self.parameters]
    report = DRTune.unit(self)
    for p, old in zip(self.parameters, before, strict=True):
        p.data.copy_(old)
    return report


def unsynced_step(self):
    """The pattern of kvablack/ddpo-pytorch #10: every process steps on gradients of its own."""
    kept, self.ctx = self.ctx, copy.copy(self.ctx)
    self.ctx.all_reduce = lambda tensors: None
    try:
        return DRTune.step(self)
    finally:
        self.ctx = kept


def whole_batch_each(self, path):
    """Every process works on all samples, so that their sum is twice the gradient."""
    kept, self.ctx = self.ctx, copy.copy(self.ctx)
    self.ctx.share = range
    try:
        return DRTune.accumulate(self, path)
    finally:
        self.ctx = kept


def one_sided_unit(self):
    if self.ctx.share(2).start == 0:
        self.ctx.all_reduce([torch.zeros(1)])
    return DRTune.unit(self)


def moves_the_base(self):
    with torch.no_grad():
        self.ctx.model.unet.conv_out.weight += 0.01


def forgets_in_the_second_phase(self, state):
    ReFL.load_state_dict(self, {**state, "pool": state["pool"][:1]})


@pytest.mark.parametrize(
    ("tuner", "promise"),
    [
        breaks("processes", step=unsynced_step),
        breaks("processes", id="processes-share", accumulate=whole_batch_each),
        breaks("processes", id="processes-one-sided", unit=one_sided_unit),
        breaks("diffusers", unit=unit_with(moves_the_base)),
        breaks("settings", Config=bare_setting()),
        breaks("settings", id="settings-needs", needs=frozenset({"magic"})),
        breaks("settings", id="settings-preset", presets={"p": {"nothing": 1}}),
        breaks("units", unit=lambda self: {"loss": 1.0}),
        breaks("units", id="units-steps", unit=two_steps_reported),
        breaks("units", id="units-phases", phases=lambda self: ["tune"]),
        breaks("next-cost", next_cost=lambda self: Charge({"denoiser_u": 1.0})),
        breaks("budget", unit=overspending_unit),
        breaks("first-update", first_update=classmethod(lambda cls, config, setup: ONE_U)),
        breaks("resume", load_state_dict=forgets_the_optimizer),
        breaks("resume", id="resume-pickle", state_dict=lambda self: {"tuner": Good}),
        breaks("random-state", unit=unit_with(lambda self: torch.rand(1))),
        breaks("random-state", id="random-state-numpy", unit=unit_with(lambda self: np.random.rand())),
        breaks("random-state", id="random-state-python", unit=unit_with(lambda self: random.random())),
        breaks("evaluation-prompts", unit=unit_with(import_suites)),
        breaks("writes", unit=unit_with(outside)),
        breaks("writes", id="writes-native", unit=unit_with(lambda self: torch.save({}, "state.pt"))),
        breaks("patch", patch=lambda self: None),
        breaks("patch", id="patch-unchanged", unit=frozen_unit),
    ],
)
def test_a_broken_promise_fails_its_check(tuner, promise):
    assert promise in failed(tuner)


def test_a_kill_inside_and_at_the_end_of_a_first_phase_is_tried():
    """A kill after the first update finds an adapter that is restored and a pool that is not."""
    tuner = type("Forgetful", (ReFL,), {"load_state_dict": forgets_in_the_second_phase})
    config = make_config(ReFL, {"pretrain_weight": 1.0, "pretrain_pool": 3})
    assert "killed after unit" in failed(tuner, config)["resume"]
