"""Meters count what happens on the modules, whoever calls them; the context deals prompts and draws; the loop stops."""

import contextlib
import time

import pytest
import torch

from bench.core.budget import Budget, Charge, Ledger
from bench.core.contract import Phase, Report, Reward
from bench.core.errors import ContractError
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.context import TuningContext
from bench.diffusion.meters import Meters
from bench.diffusion.random_tiny import random_pipeline
from bench.engine.loop import LoopState, drive


class Bright(Reward):
    name = "bright"
    minimise = True

    def measure(self, images, prompts):
        return images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def model():
    model = random_pipeline(0)
    model.attach_adapter(rank=2, alpha=2, generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def ledger():
    return Ledger(Budget(denoiser_u=1e9))


def call(model, rows):
    x = torch.zeros(rows, 4, 8, 8)
    return model.denoiser(x, torch.tensor(5), model.encode_prompts(["a"] * rows))


def test_rows_are_counted_forward_and_backward_and_flops_are_proportional(model, ledger):
    with Meters(model, ledger.charge):
        with torch.no_grad():
            call(model, 3)
        assert (ledger.spent["denoiser_fwd"], ledger.spent["denoiser_bwd"]) == (3, 0)
        forward = ledger.spent["flops"] / 3
        out = call(model, 2)
        assert ledger.spent["denoiser_bwd"] == 0
        out.sum().backward()
    assert (ledger.spent["denoiser_fwd"], ledger.spent["denoiser_bwd"]) == (5, 2)
    assert ledger.spent["denoiser_u"] == 9
    backward = (ledger.spent["flops"] - 5 * forward) / 2
    assert 0.8 * forward < backward < 2.5 * forward
    for p in model.adapter_parameters:
        p.grad = None


def test_counting_leaves_no_gradient_and_ends_with_its_block(model, ledger):
    with Meters(model, ledger.charge), torch.no_grad():
        call(model, 1)
    assert all(p.grad is None for p in model.adapter_parameters)
    call(model, 1)
    assert ledger.spent["denoiser_fwd"] == 1


def test_a_call_that_goes_around_our_denoiser_is_counted_too(model, ledger):
    with Meters(model, ledger.charge), torch.no_grad():
        model.unet(torch.zeros(2, 4, 8, 8), 5, model.encode_prompts(["a", "b"]))
        model.unet(sample=torch.zeros(1, 4, 8, 8), timestep=5, encoder_hidden_states=model.encode_prompts(["a"]))
    assert ledger.spent["denoiser_fwd"] == 3


def test_a_checkpointed_recomputation_counts_as_it_happens(model, ledger):
    from torch.utils.checkpoint import checkpoint

    x = torch.zeros(1, 4, 8, 8, requires_grad=True)
    with Meters(model, ledger.charge):
        cond = model.encode_prompts(["a"])
        checkpoint(lambda x: model.denoiser(x, torch.tensor(5), cond), x, use_reentrant=False).sum().backward()
    assert ledger.spent["denoiser_fwd"] == 2


def test_images_rewards_and_steps_are_counted(model, ledger):
    with Meters(model, ledger.charge) as meters:
        reward = meters.metered_reward(Bright())
        x = torch.zeros(2, 4, 8, 8, requires_grad=True)
        images = model.decode(x)
        assert torch.equal(reward.score(images, ["a", "b"]), -images.mean((1, 2, 3)))
        reward.measure(images.detach(), ["a", "b"])
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        optimizer.step()
        before = ledger.spent["flops"]
        images.sum().backward()
    assert ledger.spent["images"] == 2
    assert ledger.spent["reward_calls"] == 4
    assert ledger.spent["steps"] == 1
    assert ledger.spent["flops"] > before > 0
    assert (reward.name, reward.minimise, reward.identity()) == ("bright", True, Bright().identity())


def test_off_the_clock_nothing_is_charged_and_time_stands_still(model, ledger):
    with Meters(model, ledger.charge, world=4) as meters:
        with meters.clock():
            time.sleep(0.05)
            with meters.pause(), torch.no_grad():
                call(model, 1)
                time.sleep(0.3)
        assert ledger.spent["denoiser_fwd"] == 0
        with meters.pause(), meters.clock():
            time.sleep(0.01)
    # four devices for the awake part; a loaded machine may add to it, the pause would add 1.2
    assert 0.2 <= ledger.spent["device_s"] < 1.2


# -- context


def context(model, ledger, meters, tmp_path, n=5, seed=0):
    return TuningContext(
        model=model, train_prompts=[Prompt(str(k), f"text {k}") for k in range(n)], sampler=SamplerSpec("ddim"),
        global_batch=3, micro_batch=8, rewards=lambda name: Bright(), default_reward="bright", meters=meters,
        ledger=ledger, seed=seed, work_dir=tmp_path,
    )  # fmt: skip


def test_prompts_are_shuffled_epochs_without_replacement_and_need_only_the_update(model, ledger, tmp_path):
    ctx = context(model, ledger, Meters(model, ledger.charge), tmp_path)
    stream = [p.id for u in range(10) for p in ctx.prompts(u, 3)]
    for epoch in range(6):
        assert sorted(stream[5 * epoch : 5 * epoch + 5]) == list("01234")
    assert len({tuple(stream[5 * e : 5 * e + 5]) for e in range(6)}) > 1
    again = context(model, ledger, Meters(model, ledger.charge), tmp_path)
    assert [p.id for p in again.prompts(7, 3)] == stream[21:24]
    other = context(model, ledger, Meters(model, ledger.charge), tmp_path, seed=1)
    assert [p.id for u in range(10) for p in other.prompts(u, 3)] != stream
    assert ctx.micro_batch == 3


def test_draws_are_named_and_rewards_are_metered_once(model, ledger, tmp_path):
    with Meters(model, ledger.charge) as meters:
        ctx = context(model, ledger, meters, tmp_path)
        a, b, c = (torch.rand(3, generator=ctx.rng("x", update=u)) for u in (0, 0, 1))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert ctx.reward() is ctx.reward("bright")
        ctx.reward().score(torch.zeros(4, 3, 2, 2), ["a"] * 4)
    assert ledger.spent["reward_calls"] == 4
    assert ctx.remaining() == {"denoiser_u": 1e9}


def test_nothing_that_a_context_holds_leads_to_other_prompts(model, ledger, tmp_path):
    ctx = context(model, ledger, Meters(model, ledger.charge), tmp_path)
    held = [v for v in vars(ctx).values() if isinstance(v, (list, tuple)) and v and isinstance(v[0], Prompt)]
    assert held == [tuple(Prompt(str(k), f"text {k}") for k in range(5))]


# -- loop


def phase(name, n, ledger, cost=10.0, declared=True, done=None):
    """n units of ``cost`` U each."""
    ran = [] if done is None else done

    def unit():
        ran.append(name)
        ledger.charge("denoiser_fwd", cost)
        return Report({"n": len(ran)})

    next_cost = (lambda: Charge({"denoiser_u": cost})) if declared else (lambda: None)
    return Phase(name, unit, lambda: ran.count(name) >= n, next_cost)


def loop(phases, ledger, state=None, **kwargs):
    seen = []
    state = state or LoopState()
    why = drive(
        "t", phases, ledger, contextlib.nullcontext, state,
        on_unit=lambda s, p, r: seen.append((p.name, s.phase, s.unit, s.total)), **kwargs,
    )  # fmt: skip
    return why, seen, state


def test_phases_run_in_order_until_each_is_done(ledger):
    why, seen, state = loop([phase("a", 2, ledger), phase("b", 1, ledger)], ledger)
    assert why == "done"
    assert seen == [("a", 0, 1, 1), ("a", 0, 2, 2), ("b", 1, 1, 3)]
    assert LoopState.from_json(state.to_json()) == state


def test_a_unit_that_does_not_fit_is_not_started_and_an_undeclared_one_passes_by_less_than_itself():
    for declared, spent in ((True, 20), (False, 30)):
        ledger = Ledger(Budget(denoiser_u=25))
        why, seen, _ = loop([phase("a", 9, ledger, declared=declared)], ledger)
        assert why == "budget:denoiser_u"
        assert ledger.spent["denoiser_u"] == spent
        assert len(seen) == spent / 10


def test_the_loop_stops_between_units_when_asked_and_goes_on_from_its_state(ledger):
    done = []
    phases = [phase("a", 2, ledger, done=done), phase("b", 2, ledger, done=done)]
    asked = iter([False, False, False, True])
    why, seen, state = loop(phases, ledger, should_stop=lambda: next(asked))
    assert (why, len(seen)) == ("stopped", 3)
    why, seen, state = loop(phases, ledger, LoopState.from_json(state.to_json()))
    assert (why, seen) == ("done", [("b", 1, 2, 4)])


def test_a_unit_that_returns_no_report_is_a_contract_error_that_names_the_tuner(ledger):
    with pytest.raises(ContractError, match=r"t: phase 'x'.*got dict"):
        loop([Phase("x", dict, lambda: False)], ledger)
