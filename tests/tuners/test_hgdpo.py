"""HG-DPO's losses against closed forms, a naive graph and finite differences; its cost; its pairs."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from bench.core.budget import Budget, Ledger
from bench.core.contract import Patch, make_config
from bench.core.errors import UserError
from bench.core.types import SamplerSpec
from bench.diffusion.check import check_tuner
from bench.diffusion.denoising import ancestral_coefficients, diffuse, predict
from bench.diffusion.meters import Meters
from bench.diffusion.random_tiny import random_pipeline
from tuners.hgdpo import HGDPO, select_pairs

from .world import context

DOUBLE = []


def double_context(tmp_path, **changes):
    if not DOUBLE:
        DOUBLE.append(random_pipeline(0, torch.float64))
    ledger = Ledger(Budget(denoiser_u=1e12))
    return context(
        work_dir=tmp_path, model=DOUBLE[0], ledger=ledger, meters=Meters(DOUBLE[0], ledger.charge), **changes
    )


def hgdpo(ctx, *, moved=0.0, **settings):
    """A tuner with its pool built; ``moved`` takes the adapter away from B = 0."""
    tuner = HGDPO(make_config(HGDPO, {"D": 3, "N": 3, **settings}), ctx)
    for phase in tuner.phases()[:2]:
        while not phase.done():
            phase.unit()
    for i, p in enumerate(tuner.parameters):
        p.data += moved * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype)
    return tuner


def flat_gradient(tuner):
    gradient = torch.cat([p.grad.flatten() for p in tuner.parameters])
    for p in tuner.parameters:
        p.grad = None
    return gradient


def a_batch(tuner, n=2):
    drawn = [tuner.draw(pair, k) for k, pair in enumerate(tuner.batch(0)[:n])]
    return [torch.stack(parts) for parts in zip(*drawn, strict=True)]


def gradient_of(tuner, *batch):
    torch.autograd.backward([tuner.pair_loss(*batch)[0].mean()])
    return flat_gradient(tuner)


# -- the loss


@pytest.mark.parametrize("preset", HGDPO.presets)
def test_every_preset_keeps_its_promises(preset):
    config = make_config(HGDPO, HGDPO.presets[preset])
    assert {r.name: r.detail for r in check_tuner(HGDPO, config) if not r.ok} == {}


def test_at_the_start_the_loss_is_log_2_and_statistics_match(tmp_path):
    tuner = hgdpo(double_context(tmp_path))
    loss, terms = tuner.pair_loss(*a_batch(tuner))
    assert loss.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-12)
    assert terms["l_stat"].tolist() == [0, 0]
    assert torch.equal(terms["m_w"], terms["m_ref_w"])
    torch.autograd.backward([terms["l_stat"].sum()])
    assert flat_gradient(tuner).abs().max() == 0


def test_eq_3_as_printed_is_not_log_2_at_the_start(tmp_path):
    """With x_t^w in the loser's reference term, two equal models do not agree about the loser."""
    tuner = hgdpo(double_context(tmp_path))
    x_w, x_l, cond, t, eps = a_batch(tuner)
    _, right = tuner.pair_loss(x_w, x_l, cond, t, eps)
    delta = (right["m_w"] - right["m_ref_w"]) - (right["m_l"] - right["m_ref_w"])
    as_printed = torch.nn.functional.softplus(tuner.config.beta * delta)
    assert (as_printed - math.log(2)).abs().min() > 0.1


def test_at_the_start_the_gradient_is_half_beta_times_that_of_the_error_difference(tmp_path):
    tuner = hgdpo(double_context(tmp_path))
    batch = a_batch(tuner)
    gradient = gradient_of(tuner, *batch)
    _, terms = tuner.pair_loss(*batch)
    torch.autograd.backward([0.5 * tuner.config.beta * (terms["m_w"] - terms["m_l"]).mean()])
    assert gradient.norm() > 0
    assert torch.allclose(gradient, flat_gradient(tuner), rtol=1e-10, atol=1e-14)


def test_swapping_winner_and_loser_flips_the_gradient(tmp_path):
    tuner = hgdpo(double_context(tmp_path), lambda_stat=0.0)
    x_w, x_l, *rest = a_batch(tuner)
    there, back = gradient_of(tuner, x_w, x_l, *rest), gradient_of(tuner, x_l, x_w, *rest)
    assert there.norm() > 0
    assert torch.allclose(there, -back, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("moved", [0.0, 0.1])
def test_identical_images_have_no_preference(tmp_path, moved):
    tuner = hgdpo(double_context(tmp_path), moved=moved, lambda_stat=0.0)
    x_w, _, *rest = a_batch(tuner)
    loss, _ = tuner.pair_loss(x_w, x_w, *rest)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-12)
    assert gradient_of(tuner, x_w, x_w, *rest).abs().max() < 1e-10


def test_the_update_is_that_of_a_naive_graph(tmp_path):
    """accumulate() in micro-batches of one against the paper's equations written out: separate U-Net
    calls, -log sigmoid, and latents of real DDPM steps with noise of their own that both models share."""
    tuner = hgdpo(double_context(tmp_path, micro_batch=1), moved=0.1, beta=40.0, lambda_stat=1e9)
    scalars = tuner.accumulate()
    gradient = flat_gradient(tuner)

    model = tuner.ctx.model
    scheduler = double_ddpm(model)
    x_w, x_l, cond, t, eps = a_batch(tuner)
    losses, stats, dpos = [], [], []
    for b in range(2):
        error = {}
        predicted = {}
        for side, x0 in (("w", x_w), ("l", x_l)):
            abar = scheduler.alphas_cumprod[t[b]]
            x_t = abar.sqrt() * x0[b : b + 1] + (1 - abar).sqrt() * eps[b : b + 1]
            for who, patch in (("ref", Patch(adapter=False)), ("theta", Patch())):
                with model.with_patch(patch), torch.set_grad_enabled(who == "theta"):
                    out = model.unet(x_t, t[b], encoder_hidden_states=cond[b : b + 1]).sample
                error[who, side] = ((eps[b] - out[0]) ** 2).mean()
                predicted[who, side] = (x_t, out)
        steps = [
            scheduler.step(out, int(t[b]), x_t, generator=torch.Generator().manual_seed(b)).prev_sample
            for x_t, out in (predicted["theta", "w"], predicted["ref", "w"])
        ]
        stat = (steps[0].mean((2, 3)) - steps[1].mean((2, 3))).square().sum()
        inside = -40.0 * (error["theta", "w"] - error["ref", "w"] - (error["theta", "l"] - error["ref", "l"]))
        dpos.append(-torch.nn.functional.logsigmoid(inside))
        stats.append(stat)
        losses.append(dpos[-1] + 1e9 * stat)
    torch.autograd.backward([sum(losses) / 2])
    naive = flat_gradient(tuner)
    assert torch.allclose(gradient, naive, rtol=1e-7, atol=1e-10)
    assert scalars["loss"] == pytest.approx(sum(losses).item() / 2, rel=1e-9)
    assert scalars["l_stat"] == pytest.approx(sum(stats).item() / 2, rel=1e-7)
    assert scalars["l_dpo"] == pytest.approx(sum(dpos).item() / 2, rel=1e-9)
    assert 0.1 < 1e9 * scalars["l_stat"] < 10  # of the size of the other term


def test_the_gradient_is_that_of_finite_differences(tmp_path):
    tuner = hgdpo(double_context(tmp_path), moved=0.1)
    batch = a_batch(tuner)
    gradient = gradient_of(tuner, *batch)
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def moved_by(h):
        at = 0
        for p in tuner.parameters:
            p.data += h * direction[at : at + p.numel()].view(p.shape)
            at += p.numel()
        return tuner.pair_loss(*batch)[0].mean().item()

    h = 1e-6
    up = moved_by(h)
    down = moved_by(-2 * h)
    assert (up - down) / (2 * h) == pytest.approx((gradient @ direction).item(), rel=1e-5)


# -- the closed form of one DDPM step


def double_ddpm(model):
    known = {k: v for k, v in model.scheduler_config.items() if k in DDPMScheduler._get_init_keys(DDPMScheduler)}
    scheduler = DDPMScheduler.from_config(known)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    return scheduler


@pytest.mark.parametrize("t", [0, 1, 2, 100, 500, 998, 999])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_two_predictions_differ_by_b_t_after_a_shared_ddpm_step(t, variance):
    model = random_pipeline(0, torch.float64)
    scheduler = double_ddpm(model)
    scheduler.register_to_config(variance_type=variance)
    rng = torch.Generator().manual_seed(t)
    x_t, eps_a, eps_b = torch.randn((3, 2, 4, 8, 8), generator=rng, dtype=torch.float64)

    def step(eps_hat, seed):
        return scheduler.step(eps_hat, t, x_t, generator=torch.Generator().manual_seed(seed)).prev_sample

    b_t = ancestral_coefficients(model)[t]
    for seed in (0, 1):  # whatever the shared noise
        assert torch.allclose(step(eps_a, seed) - step(eps_b, seed), b_t * (eps_a - eps_b), rtol=0, atol=1e-10)
    if t > 0:  # with noise of its own, each model's mean is off by the noise's
        apart = (step(eps_a, 0) - step(eps_a, 1)).mean((2, 3)).square().sum()
        assert apart > 1e-8


def test_the_coefficients_are_the_published_schedules():
    """b_t^2 on Stable Diffusion's schedule (research/tuners.md §3.5)."""
    b = ancestral_coefficients(random_pipeline(0, torch.float64)).square()
    assert [f"{b[t]:.1e}" for t in (999, 500, 100, 1)] == ["1.5e-04", "3.2e-05", "1.8e-05", "4.3e-04"]
    assert f"{b.mean():.2e}" == "5.15e-05"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_predictions_are_noise_whatever_the_model_predicts(kind):
    model = random_pipeline(0, torch.float64, prediction_type=kind)
    x0, eps = torch.randn((2, 2, 4, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([300, 700])
    x_t = diffuse(model, x0, t, eps)
    cond = model.encode_prompts(["a", "b"])
    out = model.denoiser(x_t, t, cond)
    abar = double_ddpm(model).alphas_cumprod[t].view(-1, 1, 1, 1)
    expected = {
        "epsilon": out, "v_prediction": abar.sqrt() * out + (1 - abar).sqrt() * x_t,
        "sample": (x_t - abar.sqrt() * out) / (1 - abar).sqrt(),
    }  # fmt: skip
    assert torch.allclose(predict(model, x_t, t, cond), expected[kind], rtol=1e-10)


# -- pairs


def test_the_loser_is_the_lth_best():
    scores = torch.tensor([[0.3, 0.9, 0.1, 0.5]])
    assert [select_pairs(scores, rank, 0.0) for rank in (2, 3, 4)] == [[(0, 1, 3)], [(0, 1, 0)], [(0, 1, 2)]]


def test_pairs_without_a_gap_are_left_out():
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.4], [0.2, 0.2]])
    assert [d for d, _, _ in select_pairs(scores, 2, 0.0)] == [0, 1]
    assert [d for d, _, _ in select_pairs(scores, 2, 0.1001)] == [0]


def test_winners_and_losers_are_the_pools(tmp_path):
    tuner = hgdpo(context(work_dir=tmp_path))
    for d, w, l in tuner.pairs:
        s = tuner.pool.scores[d]
        assert (s[w], s[l]) == (s.max(), s.min())
        x_w, x_l, *_ = tuner.draw((d, w, l), 0)
        assert torch.equal(x_w, tuner.pool.read(d).latents[w])
        assert torch.equal(x_l, tuner.pool.read(d).latents[l])


def test_every_pair_trains_once_an_epoch(tmp_path):
    tuner = hgdpo(context(work_dir=tmp_path, global_batch=2))
    seen = [pair for update in range(3) for pair in tuner.batch(update)]
    assert sorted(seen[:3]) == sorted(seen[3:]) == sorted(tuner.pairs)


def test_a_gap_that_no_pair_has_is_an_error_that_says_the_largest(tmp_path):
    tuner = hgdpo(context(work_dir=tmp_path), min_gap=99.0)
    with pytest.raises(UserError, match="below 0"):
        tuner.unit()


def test_prompt_dropout_trains_the_unconditional_branch(tmp_path):
    tuner = hgdpo(context(work_dir=tmp_path), prompt_dropout=1.0)
    empty = tuner.ctx.model.encode_prompts([""])[0]
    pair = tuner.pairs[0]
    assert torch.equal(tuner.draw(pair, 0)[2], empty)
    never = HGDPO(make_config(HGDPO, {"D": 3, "N": 3}), tuner.ctx)
    never.pool = tuner.pool
    assert torch.equal(never.draw(pair, 0)[2], tuner.pool.read(pair[0]).cond)


# -- what it costs


def test_a_prompt_of_the_papers_pool_costs_2000_u_and_a_pair_8(tmp_path):
    """research/tuners.md §7, measured: 20 images of 50 guided steps; two images forward, backward, reference."""
    ledger = Ledger(Budget(denoiser_u=1e12))
    with Meters(context().model, ledger.charge) as meters:
        ctx = context(
            work_dir=tmp_path, ledger=ledger, meters=meters, n_steps=50, global_batch=20, micro_batch=20,
            sampler=SamplerSpec("ddim", n_steps=50, guidance=7.5),
        )  # fmt: skip
        tuner = HGDPO(make_config(HGDPO, {"D": 1, "N": 20}), ctx)
        pool, scoring, train = tuner.phases()
        pool.unit()
        assert ledger.spent["denoiser_u"] == ledger.spent["denoiser_fwd"] == 2000
        assert (ledger.spent["images"], ledger.spent["reward_calls"]) == (0, 0)
        scoring.unit()
        assert ledger.spent["denoiser_u"] == 2000
        assert (ledger.spent["images"], ledger.spent["reward_calls"]) == (20, 20)
        train.unit()
        assert ledger.spent["denoiser_u"] == 2000 + 20 * 8
        assert (ledger.spent["denoiser_bwd"], ledger.spent["steps"]) == (2 * 20, 1)


@pytest.mark.parametrize(("preset", "u"), [("hgdpo", 8), ("dpo", 8), ("sft", 3)])
def test_charged_is_what_was_announced(tmp_path, preset, u):
    ledger = Ledger(Budget(denoiser_u=1e12))
    with Meters(context().model, ledger.charge) as meters:
        ctx = context(work_dir=tmp_path, ledger=ledger, meters=meters, global_batch=3, micro_batch=2)
        tuner = HGDPO(make_config(HGDPO, {**HGDPO.presets[preset], "D": 2, "N": 2}), ctx)
        for phase in tuner.phases():
            for _ in range(2):
                said, before = phase.next_cost(), dict(ledger.spent)
                phase.unit()
                seen = {kind: ledger.spent[kind] - before[kind] for kind in said.amounts}
                assert seen == dict(said.amounts)
        assert said.get("denoiser_u") == 3 * u


def test_no_decoder_text_encoder_or_reward_is_called_while_training(tmp_path):
    ctx = context(work_dir=tmp_path)
    trained = hgdpo(ctx)
    state = trained.state_dict()
    tuner = HGDPO(trained.config, ctx)  # as after a resume: nothing of the pool is in memory
    tuner.load_state_dict(state)
    ctx.model._texts.clear()
    called = []
    handles = [
        part.register_forward_pre_hook(lambda module, args: called.append(type(module).__name__))
        for part in (ctx.model.vae.decoder, ctx.model.vae.encoder, ctx.model.text_encoder)
    ]
    before = ctx._ledger.spent["reward_calls"]
    tuner.unit()
    for handle in handles:
        handle.remove()
    assert called == []
    assert ctx._ledger.spent["reward_calls"] == before


def test_an_update_is_logged_with_both_errors_of_both_models(tmp_path):
    tuner = hgdpo(context(work_dir=tmp_path))
    assert tuner.unit().scalars.keys() == {
        "loss", "l_dpo", "l_stat", "m_w", "m_l", "m_ref_w", "m_ref_l", "accuracy", "grad_norm", "clipped",
    }  # fmt: skip
    sft = hgdpo(context(work_dir=tmp_path), **HGDPO.presets["sft"])
    assert sft.unit().scalars.keys() == {"loss", "m_w", "grad_norm", "clipped"}


def test_training_learns_the_pools_preferences(tmp_path):
    """On fixed noise, before and after."""
    tuner = hgdpo(context(work_dir=tmp_path, global_batch=8, micro_batch=8), lr=1e-3, D=2, N=3, lambda_stat=0.0)
    fixed = [
        torch.stack(parts) for parts in zip(*(tuner.draw(tuner.pairs[k % 2], 100 + k) for k in range(64)), strict=True)
    ]

    def preference():
        with torch.no_grad():
            _, terms = tuner.pair_loss(*fixed)
        return terms["l_dpo"].mean().item(), terms["accuracy"].mean().item()

    assert preference() == (pytest.approx(math.log(2), rel=1e-5), 0.0)
    for _ in range(25):
        tuner.unit()
    l_dpo, accuracy = preference()
    assert l_dpo < math.log(2) - 0.03
    assert accuracy > 0.6


def test_statistic_matching_holds_the_channel_means(tmp_path):
    """The same updates with and without it: the channel means stay nearer to the reference's."""

    def drift(lambda_stat):
        # Adam sees directions only, so the term shows where it outweighs the preference
        tuner = hgdpo(context(work_dir=tmp_path), lr=1e-3, lambda_stat=lambda_stat)
        return sum(tuner.unit().scalars["l_stat"] for _ in range(20))

    assert drift(1e9) < 0.3 * drift(0.0)


def test_a_seed_changes_the_pool_and_a_repeat_does_not(tmp_path):
    def pool(seed):
        tuner = hgdpo(context(work_dir=tmp_path / str(seed), seed=seed))
        return tuner.pool.digests

    assert pool(0) == pool(0)
    assert not set(pool(0)) & set(pool(1))
    assert len(set(pool(0))) == 3


def test_the_pool_is_drawn_without_the_adapter(tmp_path):
    """Even a tuner that starts from a moved adapter ranks the base model's images."""
    tuner = hgdpo(context(work_dir=tmp_path))
    moved = HGDPO(tuner.config, context(work_dir=tmp_path / "moved"))
    for p in moved.parameters:
        p.data += 0.3
    moved.pool.draw_next()
    assert moved.pool.digests[0] == tuner.pool.digests[0]


def test_the_training_sampler_is_part_of_a_shards_name(tmp_path):
    tuner = hgdpo(context(work_dir=tmp_path))
    name = tuner.pool.shard_name(0)
    assert (tmp_path / name).is_file()
    tuner.ctx.sampler = replace(tuner.ctx.sampler, guidance=2.0)
    assert tuner.pool.shard_name(0) != name
