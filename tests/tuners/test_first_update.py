"""The first update, and all that must come before it: what it costs is known before the run, to the unit."""

import itertools
from dataclasses import replace

import pytest

from bench.core import registry
from bench.core.afford import Need, shortfalls, total
from bench.core.budget import Budget, Charge, Ledger
from bench.core.contract import Setup, changed_settings, make_config
from bench.core.errors import UserError
from bench.diffusion.meters import Meters
from bench.engine.loop import LoopState, drive
from bench.engine.options import Options
from bench.engine.plan import make_plan, tuner_problems

from .world import Red, context

PRESETS = [
    (entry.name, preset)
    for entry in registry.entries("tuners").values()
    for preset, settings in {"": {}, **entry.load().presets}.items()
    if settings or not preset
]
"""Every tuner with its defaults, and every preset that is something else."""


class BlackBox(Red):
    """Gives no gradient, so that a tuner must not need one."""

    def measure(self, images, prompts):
        return super().measure(images.detach(), prompts)


def small(name, preset):
    """The tuner and the preset's settings with those of contract checks over them."""
    tuner = registry.load("tuners", name)
    settings = {**changed_settings(tuner, make_config(tuner, tuner.presets.get(preset, {}))), **tuner.check_settings}
    return tuner, make_config(tuner, settings)


def setup_of(ctx, seed=0):
    return Setup(ctx.sampler, ctx.sampler, ctx.global_batch, ctx.budget, 6, "red", "tiny-sd", seed)


def exactly(needs):
    """Limits of every kind that just hold the needs: of what the update does not spend, one is to be left."""
    cost = total(needs)
    limits = {k: v + (0 if needs[-1].cost.get(k) else 1) for k, v in cost.amounts.items() if v}
    return Budget(**limits, primary="denoiser_u")


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_the_least_budget_holds_one_update_and_one_unit_less_is_refused(name, preset, tmp_path):
    tuner, config = small(name, preset)
    reward = Red if "differentiable-reward" in tuner.needs or name == "treereward" else BlackBox
    needs = tuner.first_update(config, setup_of(context()))
    if not needs:
        assert config.stages == "fine"  # nothing is tuned
        return
    budget = exactly(needs)
    ledger = Ledger(budget)
    with Meters(context().model, ledger.charge) as meters:
        ctx = context(ledger=ledger, meters=meters, work_dir=tmp_path, rewards=lambda name: reward())
        phases = tuner(config, ctx).phases()
        done = []
        why = drive(name, phases, ledger, meters.clock, LoopState(), on_unit=lambda s, p, r: done.append((p.name, r)))
    last = [r for phase, r in done if phase == phases[-1].name]
    assert why.startswith("budget:")
    assert [r.n_steps for r in last] == [1]
    cost = total(needs)
    assert {k: ledger.spent[k] for k in cost.amounts} == dict(cost.amounts)
    assert shortfalls(needs, budget) == []
    # blip is no reward of the tiny world
    assert tuner_problems(tuner, config, replace(setup_of(ctx), budget=budget)) == [] or preset == "realigndiff-blip"
    for kind, limit in budget.limits():
        if limit == 1:  # no budget is 0
            continue
        (problem,) = shortfalls(needs, replace(budget, **{kind: limit - 1}))
        assert "no update is left" in problem


@pytest.mark.parametrize("name", ["drtune", "alignprop", "refl"])
def test_the_price_is_that_of_the_first_draw_of_the_runs_seed(name):
    """What random paths cost depends on the seed, and is known for each."""
    tuner, config = small(name, "")
    said = []
    for seed in range(12):
        ctx = context(n_steps=10, seed=seed)
        said.append(total(tuner.first_update(config, setup_of(ctx, seed))))
        assert said[-1] == tuner(config, ctx).next_cost()
    assert len({cost.get("denoiser_u") for cost in said}) > 1


@pytest.mark.parametrize("name", ["drtune", "draft", "alignprop", "realigndiff", "refl", "raft", "hgdpo", "treereward"])
def test_a_plan_refuses_a_budget_without_an_update(name):
    """The sample edition's batch of 8 at 20 guided steps: hardly an update costs less than 100 U."""
    options = Options(suite="coco", tuner=name, budget=("denoiser_u=100",))
    (problem,) = make_plan(options).runs[0].problems
    assert problem.startswith(f"{name}: ") and "no update is left" in problem
    with pytest.raises(UserError, match="no update is left"):
        make_plan(options).to_start()


def test_of_what_updates_do_not_spend_something_must_be_left():
    """A run ends when a kind is used up, also one that the next unit does not spend."""
    pool = Need("a pool", Charge({"images": 60, "denoiser_u": 600}), "N is at most {room}", n=60, least=2)
    needs = [pool, Need("an update", Charge({"denoiser_u": 8, "steps": 1}))]
    assert shortfalls(needs, Budget(images=61, denoiser_u=608)) == []
    (problem,) = shortfalls(needs, Budget(images=60, denoiser_u=608))
    assert problem.endswith("no update is left: N is at most 59, or the budget is more than 60")
    (problem,) = shortfalls(needs, Budget(images=2, denoiser_u=608))
    assert problem == "a pool costs 60 of a budget of 2 images, so no update is left: the budget is more than 60"
    (problem,) = shortfalls(needs, Budget(images=100, primary="images"))
    assert "nothing would end the run: a limit on denoiser_u, steps too" in problem
    assert shortfalls(needs, Budget(images=100, device_s=1, primary="device_s")) == []


def test_the_advice_of_counted_things_is_the_largest_number_that_fits():
    update = Need("an update", Charge({"denoiser_u": 7}))

    def needs(n):
        return [Need("a pool", Charge({"denoiser_u": 5 * n}), "N is at most {room}", n), update]

    for limit, n in itertools.product(range(12, 60), (12, 20)):
        found = shortfalls(needs(n), Budget(denoiser_u=limit))
        if found:
            room = int(found[0].split("at most ")[1].split(",")[0])
            assert shortfalls(needs(room), Budget(denoiser_u=limit)) == []
            assert shortfalls(needs(room + 1), Budget(denoiser_u=limit)) != []
        else:
            assert 5 * n + 7 <= limit
