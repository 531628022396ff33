"""RAFT: the best of k trains, rewards are never differentiated, every unit is charged and resumable."""

import io

import pytest
import torch

from bench.core.budget import Budget, Ledger
from bench.core.contract import Patch, Setup, make_config
from bench.core.types import SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.check import check_tuner
from bench.diffusion.denoising import denoising_loss
from bench.diffusion.generate import sample_latents
from bench.diffusion.meters import Meters
from bench.diffusion.samplers import Noise
from bench.engine.plan import tuner_problems
from tuners.raft import RAFT

from .world import Red, context

SETTINGS = {"prompts": 2, "k": 3, "updates": 2}
ROUND = ["first-images"] * 2 + ["rounds"] * 4
"""Phases of the units of one and a half rounds: two prompts, two updates, and two prompts of the next round."""


class BlackBox(Red):
    """Has no gradient, and says so when it is asked for one."""

    differentiable = False

    def score(self, images, prompts):
        assert not images.requires_grad and not torch.is_grad_enabled()
        return super().score(images, prompts)

    def measure(self, images, prompts):
        return super().measure(images.detach(), prompts)


def raft(ctx=None, **settings):
    return RAFT(make_config(RAFT, {**SETTINGS, **settings}), ctx or context(rewards=lambda name: BlackBox()))


def next_unit(tuner):
    phase = next(p for p in tuner.phases() if not p.done())
    return phase.name, phase.unit()


def drawn(**settings):
    tuner = raft(**settings)
    while tuner.drawing:
        tuner.unit()
    return tuner


@pytest.mark.parametrize("preset", RAFT.presets)
def test_every_preset_keeps_its_promises(preset):
    assert {r.name: r.detail for r in check_tuner(RAFT, make_config(RAFT, RAFT.presets[preset])) if not r.ok} == {}


def test_the_winner_is_the_best_of_k_of_the_current_model():
    tuner = raft()
    for i, p in enumerate(tuner.parameters):  # current, not base
        p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    tuner.unit()
    ctx = tuner.ctx
    prompt = ctx.prompts(0, 2)[0]
    noise = Noise([ctx.seed("raft-draw", round=0, prompt=0, image=j) for j in range(3)])
    x = torch.cat([sample_latents(ctx.model, [prompt.text], Noise([seed]), ctx.sampler) for seed in noise.seeds])
    r = Red().measure(ctx.model.decode(x), [])
    text, winner = tuner.winners[0]
    assert text == prompt.text
    assert torch.allclose(winner, x[r.argmax()], atol=1e-4)
    with ctx.model.with_patch(Patch(adapter=False)):
        base = sample_latents(ctx.model, [prompt.text], Noise([noise.seeds[int(r.argmax())]]), ctx.sampler)
    assert not torch.allclose(winner, base[0], atol=1e-3)


def test_the_update_is_the_denoising_loss_of_the_winners():
    """Against one batch through the pre-training objective, and in micro-batches of one."""
    tuner = drawn(ctx=context(rewards=lambda name: BlackBox(), micro_batch=1))
    scalars = tuner.accumulate()
    gradient = [p.grad.clone() for p in tuner.parameters]
    for p in tuner.parameters:
        p.grad = None
    texts, x0, t, eps = zip(*(tuner.draw(k) for k in range(2)), strict=True)
    loss = denoising_loss(tuner.ctx.model, torch.stack(x0), texts, torch.stack(t), torch.stack(eps)).mean()
    torch.autograd.backward([loss])
    assert scalars["loss"] == scalars["m"] == pytest.approx(loss.item(), rel=1e-5)
    assert any(g.norm() > 0 for g in gradient)
    for g, p in zip(gradient, tuner.parameters, strict=True):
        assert torch.allclose(g, p.grad, rtol=1e-4, atol=1e-6)
    assert set(texts) == {text for text, _ in tuner.winners}  # each winner once an epoch


def test_the_penalty_is_zero_at_the_base_and_pulls_back_to_it():
    tuner = drawn(kl_weight=0.5)
    assert tuner.accumulate()["kl"] == 0
    for i, p in enumerate(tuner.parameters):
        p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    scalars = tuner.accumulate()
    assert scalars["kl"] > 0
    assert scalars["loss"] == pytest.approx(scalars["m"] + 0.5 * scalars["kl"], rel=1e-5)


def test_rounds_follow_each_other_with_prompts_and_noise_of_their_own():
    tuner = raft()
    names, scalars = [], []
    first = None
    for _ in range(6):
        name, report = next_unit(tuner)
        names.append(name)
        scalars.append(report.scalars)
        if len(names) == 2:
            first = [text for text, _ in tuner.winners]
    assert names == ROUND
    assert [s["round"] for s in scalars] == [0, 0, 0, 0, 1, 1]
    assert [("reward_best" in s) for s in scalars] == [True, True, False, False, True, True]
    assert not set(first) & {text for text, _ in tuner.winners}  # 6 training prompts, without replacement


def test_charged_is_what_was_announced_to_the_unit():
    """k T branches U and k rewards a prompt; 3 U a winner, 4 with the penalty."""
    for kl, u in ((0.0, 3), (1.0, 4)):
        ledger = Ledger(Budget(denoiser_u=1e12))
        with Meters(context().model, ledger.charge) as meters:
            ctx = context(rewards=lambda name: BlackBox(), ledger=ledger, meters=meters)
            tuner = raft(ctx, kl_weight=kl)
            costs = []
            for _ in range(6):
                said, before = tuner.next_cost(), dict(ledger.spent)
                next_unit(tuner)
                assert {kind: ledger.spent[kind] - before[kind] for kind in said.amounts} == dict(said.amounts)
                costs.append(said)
        assert [c.get("denoiser_u") for c in costs] == [3 * 4 * 2] * 2 + [2 * u] * 2 + [3 * 4 * 2] * 2
        assert [c.get("reward_calls") for c in costs] == [3, 3, 0, 0, 3, 3]


def test_killed_at_any_boundary_it_ends_in_the_same_bits():
    def saved(tuner):
        buffer = io.BytesIO()
        torch.save(tuner.state_dict(), buffer)
        return buffer.getvalue()

    tuner = raft()
    states = [saved(tuner)]
    for _ in range(9):  # two rounds and a half, so kills fall into images and updates of different rounds
        next_unit(tuner)
        states.append(saved(tuner))
    end = adapters.adapter_state(tuner.ctx.model.unet)
    for k in range(9):
        resumed = raft()
        resumed.load_state_dict(torch.load(io.BytesIO(states[k]), weights_only=True))
        for _ in range(9 - k):
            next_unit(resumed)
        assert all(torch.equal(v, end[n]) for n, v in adapters.adapter_state(resumed.ctx.model.unet).items())
        assert saved(resumed) == states[-1]


def test_rounds_lower_the_error_on_their_winners():
    tuner = drawn(lr=0.01, updates=40)
    seen = [tuner.unit().scalars["m"] for _ in range(40)]
    assert sum(seen[-10:]) < sum(seen[:10])


def test_a_round_of_unset_length_sees_each_winner_twice():
    tuner = RAFT(make_config(RAFT, {}), context())
    assert (tuner.n_prompts, tuner.updates) == (8, 8)  # global batch 2
    tuner = RAFT(make_config(RAFT, {"prompts": 1}), context())
    assert (tuner.n_prompts, tuner.updates) == (1, 1)


def setup(limit):
    sampler = SamplerSpec("ddim", n_steps=20, guidance=4.0)
    return Setup(
        train_sampler=sampler, sampler=sampler, global_batch=8, n_train_prompts=256, reward="symmetry", model="tiny-sd",
        budget=Budget(denoiser_u=limit),
    )  # fmt: skip


def test_a_budget_that_holds_no_update_is_refused():
    config = make_config(RAFT, {})
    first = 32 * config.k * 40 + 8 * 3
    assert tuner_problems(RAFT, config, setup(first)) == []
    (problem,) = tuner_problems(RAFT, config, setup(first - 1))
    assert "fewer prompts" in problem and f"{first:,}" in problem
    assert tuner_problems(RAFT, make_config(RAFT, {"prompts": 1, "k": 2}), setup(first - 1)) == []
    assert "differentiable-reward" not in RAFT.needs
