"""DRaFT: how many steps train, DRaFT-LV's re-noisings, DRaFT+'s penalty (research/tuners.md section 3.3, oracle 9)."""

import pytest
import torch

from bench.core.budget import Budget, Ledger
from bench.core.contract import make_config
from bench.core.types import SamplerSpec
from bench.diffusion.meters import Meters
from bench.diffusion.random_tiny import random_pipeline
from bench.diffusion.samplers import Noise, predict_eps
from tuners.draft import DRaFT

from .world import context


def draft(model=None, n_steps=4, scheduler="ddim", ctx=None, **settings):
    """With an adapter away from its start."""
    if model is not None:
        ledger = Ledger(Budget(denoiser_u=1e12))
        sampler = SamplerSpec(scheduler, n_steps=n_steps, guidance=3.0)
        ctx = context(model=model, sampler=sampler, meters=Meters(model, ledger.charge), ledger=ledger)
    tuner = DRaFT(make_config(DRaFT, settings), ctx or context(n_steps=n_steps))
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in tuner.parameters:
            p.add_(0.1 * torch.randn(p.shape, generator=g).to(p))
    return tuner


def gradient(tuner):
    tuner.accumulate(tuner.path(0))
    return torch.cat([p.grad.flatten() for p in tuner.parameters])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def double():
    return random_pipeline(0, torch.float64)


@pytest.mark.parametrize(
    ("preset", "T", "K"),
    [
        ("draft-1", 50, 1),
        ("draft-10", 50, 10),
        ("draft-10", 20, 4),
        ("draft-10", 2, 1),
        ("draft-lv", 20, 1),
        ("draft-t", 20, 20),
        ("draft-t-sg", 50, 50),
        ("draft+", 50, 1),
    ],
)
def test_the_last_k_steps_train_and_the_last_predictions_clean_latent_is_scored(preset, T, K):
    tuner = DRaFT(make_config(DRaFT, DRaFT.presets[preset]), context(n_steps=T))
    path = tuner.path(0)
    assert path.train == set(range(T - K, T))
    assert path.stop == T - 1
    assert path.through_input == (preset != "draft-t-sg")
    assert path == tuner.path(7)


# -- DRaFT-LV


def test_without_re_noising_it_is_draft_1(double):
    assert torch.equal(gradient(draft(double, K=1, n=0)), gradient(draft(double, K=1)))


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "euler", "dpmpp-2m"])
def test_the_mean_over_the_finished_latent_and_its_n_re_noisings(double, scheduler):
    """The whole loss written out with autograd: x_1 = alpha_1 sg(x_0) + sigma_1 eps, in the sampler's own scale."""
    n = 2
    tuner = draft(double, 4, scheduler, K=1, n=n)
    ctx, sampler, last = tuner.ctx, tuner.sampler, 3
    texts = [p.text for p in ctx.prompts(0, 2)]
    cond, uncond = double.encode_prompts(texts), double.encode_prompts(["", ""])
    noise = Noise([ctx.seed("rollout", update=0, sample=k) for k in range(2)])
    reward = ctx.reward()

    def x0_hat(x):
        return sampler.x0_hat(last, predict_eps(double, sampler, last, x, cond, uncond), x)

    walk = sampler.walk()
    x = walk.start(noise.initial(double.latent_shape(), double.dtype, double.device))
    with torch.no_grad():
        for i in range(last):
            x = walk.step(i, predict_eps(double, sampler, i, x, cond, uncond), x, noise)
    x_0 = x0_hat(x)
    loss = -reward.score(double.decode(x_0), texts).mean()
    alpha, sigma = sampler.alpha[last], sampler.sigma[last]
    scale = (1 + (sigma / alpha) ** 2).sqrt() if scheduler == "euler" else 1.0
    for k in range(1, n + 1):
        rngs = [ctx.rng("draft-lv", update=0, sample=s, k=k) for s in range(2)]
        eps = torch.stack([torch.randn(4, 8, 8, generator=rng) for rng in rngs]).double()
        x_1 = scale * (alpha * x_0.detach() + sigma * eps)
        loss = loss - reward.score(double.decode(x0_hat(x_1)), texts).mean()
    (loss / (n + 1)).backward()
    by_hand = torch.cat([p.grad.flatten() for p in tuner.parameters])
    for p in tuner.parameters:
        p.grad = None
    assert relative(gradient(tuner), by_hand) <= 1e-12


def test_its_terms_coincide_as_the_last_noise_vanishes():
    """sigma_1 -> 0 leaves x_1 = x_0, whatever the noise: the mean is then DRaFT-1's term."""
    gaps = []
    for beta in (1e-4, 1e-5, 1e-6):
        model = random_pipeline(0, torch.float64, beta_start=beta)
        model.scheduler_config = {**model.scheduler_config, "steps_offset": 0}  # so that the last timestep is 0
        gaps.append(relative(gradient(draft(model, K=1, n=2)), gradient(draft(model, K=1))))
    assert gaps[2] < 1e-4
    # sigma_1 = sqrt(beta), and the terms differ by as much
    assert gaps[1] / gaps[2] == pytest.approx(10**0.5, rel=0.1)


def test_its_noise_is_named_by_sample_so_micro_batches_change_nothing(double):
    def once(micro_batch):
        ledger = Ledger(Budget(denoiser_u=1e12))
        ctx = context(model=double, meters=Meters(double, ledger.charge), ledger=ledger, micro_batch=micro_batch)
        return gradient(draft(ctx=ctx, K=1, n=2))

    assert relative(once(1), once(2)) <= 1e-12


def test_re_noising_lowers_the_variance_that_the_last_noise_brings(double):
    """Its name: over the noise of the last step alone, the mean of n + 1 terms varies less than one of them."""

    def spread(n):
        tuner = draft(double, K=1, n=n)
        seed, gradients = tuner.ctx.rng, []
        for draw in range(8):
            tuner.ctx.rng = lambda purpose, draw=draw, **axes: seed(purpose, draw=draw, **axes)
            for p in tuner.parameters:
                p.grad = None
            gradients.append(gradient(tuner))
        del tuner.ctx.rng
        return torch.stack(gradients).var(0).sum().item()

    assert spread(1) > 1.2 * spread(4) > 0


def test_the_logged_reward_is_the_finished_samples(double):
    assert draft(double, K=1, n=2).accumulate(draft(double, K=1).path(0))["reward"] == pytest.approx(
        draft(double, K=1).accumulate(draft(double, K=1).path(0))["reward"], abs=1e-15
    )


# -- DRaFT+


def test_draft_plus_logs_the_distance_and_starts_at_none():
    tuner = DRaFT(make_config(DRaFT, DRaFT.presets["draft+"]), context())
    assert tuner.unit().scalars["kl"] == 0
    assert tuner.unit().scalars["kl"] > 0
    assert "kl" not in DRaFT(make_config(DRaFT, {}), context()).unit().scalars
