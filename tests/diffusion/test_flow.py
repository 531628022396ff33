"""Flow matching: the sampler's scalars kappa, the engine against the full graph, the forward process and its loss."""

import pytest
import torch

from bench.core.errors import UserError
from bench.core.types import SamplerSpec
from bench.diffusion.denoising import ancestral_coefficients, denoising_loss, diffuse, noise_levels, predict, target
from bench.diffusion.random_tiny import random_pipeline
from bench.diffusion.reference import full_graph_gradients
from bench.diffusion.rollout import Path, accumulate_at, accumulate_gradients, noised
from bench.diffusion.samplers import Noise, build_sampler, check_sampler, predict_eps

from .toys import FLOW, SD, constant_toy, curved_loss, gradient, linear_loss, real_model, relative, smooth_toy


def spec(n_steps=50, guidance=1.0):
    return SamplerSpec("flow-euler", n_steps=n_steps, guidance=guidance)


@pytest.mark.parametrize("train", [{7, 8, 9}, set(range(10)), {1, 2, 5, 9}, {0}])
@pytest.mark.parametrize("through_input", [False, True])
@pytest.mark.parametrize("stop", [None, 9])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_the_update_equals_the_full_graph(guidance, stop, through_input, train):
    toy, weight = smooth_toy(prediction_type="flow_prediction")
    path = Path(frozenset(train), stop, through_input)
    args = (toy, build_sampler(toy, spec(10, guidance)), path, ["a", "longer"], Noise([0, 1]), curved_loss)
    ours = gradient([weight], accumulate_gradients, *args)
    assert relative(ours, gradient([weight], full_graph_gradients, *args)) <= 1e-12


@pytest.mark.parametrize("stop", [None, 13])
def test_kappa_is_the_step_of_s(stop):
    toy, *_ = constant_toy(prediction_type="flow_prediction")
    sampler = build_sampler(toy, spec(20))
    c, loss = linear_loss()
    out = accumulate_gradients(toy, sampler, Path(frozenset(range(20)), stop), ["a"], Noise([0]), loss)
    n = 20 if stop is None else stop + 1
    s = [*sampler.sigma.tolist(), 0.0]
    expected = [s[i + 1] - s[i] for i in range(n)]
    if stop is not None:
        expected[-1] = -s[stop]
    measured = [(out.eps_grads[i][0] / c).mean().item() for i in range(n)]
    assert measured == pytest.approx(expected, rel=1e-5)
    assert sum(measured) == pytest.approx(-s[0], rel=1e-5)  # nothing is lost on the way: s_0 is 1


def test_one_prediction_at_a_given_latent_equals_autograd():
    model = real_model(base="sd3")
    sampler = build_sampler(model, spec(5, 4.0))
    g = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(1, 4, 8, 8, generator=g, dtype=torch.float64) for _ in range(2))
    x = noised(sampler, 4, x0, eps)
    assert torch.allclose(sampler.x0_hat(4, eps - x0, x), x0, atol=1e-12)

    def by_hand():
        v = predict_eps(model, sampler, 4, x, model.encode_prompts(["a cat"]), model.encode_prompts([""]))
        curved_loss(model.decode(x - sampler.sigma[4] * v)).backward()

    ours = gradient(model.adapter_parameters, accumulate_at, model, sampler, 4, x, ["a cat"], curved_loss)
    assert relative(ours, gradient(model.adapter_parameters, by_hand)) <= 1e-12


def test_the_forward_process_is_the_schedulers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    model = random_pipeline(0, torch.float64, base="sd3")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    g = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(3, 4, 8, 8, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0, 400, 999])
    at = scheduler.timesteps.flip(0)[t]
    assert torch.allclose(diffuse(model, x0, t, eps), scheduler.scale_noise(x0, at, eps), atol=1e-6)
    seen = []
    handle = model.unet.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True
    )
    predict(model, diffuse(model, x0, t, eps), t, model.encode_prompts(["a", "b", "c"]))
    handle.remove()
    assert torch.allclose(seen[0], at.double())


def test_the_loss_is_the_velocitys_error():
    """A network that always says ``v`` is wrong by its distance to eps - x0, whatever the time."""
    toy, theta, _ = constant_toy(prediction_type="flow_prediction")
    g = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(2, 2, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    loss = denoising_loss(toy, x0, ["a", "b"], torch.tensor([3, 700]), eps)
    assert torch.allclose(loss, (eps - x0 - theta).square().mean((1, 2, 3)))
    assert torch.equal(target(toy, x0, eps), eps - x0)


def test_two_predictions_part_by_b_t_in_a_step_on_the_training_grid():
    toy, *_ = constant_toy(prediction_type="flow_prediction")
    b, (alpha, sigma) = ancestral_coefficients(toy), noise_levels(toy)
    assert torch.allclose(b[1:], sigma[:-1] - sigma[1:])
    assert b[0] == -sigma[0]
    assert torch.allclose(alpha + sigma, torch.ones(1000, dtype=torch.float64))
    assert (sigma[0].item(), sigma[-1].item()) == pytest.approx((3 * 0.001 / 1.002, 1.0))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("ddim", FLOW, "ddim on a flow model"),
        ("flow-euler", SD, "flow-euler on a diffusion model"),
        ("plms", FLOW, "no sampler named 'plms'"),
        ("flow-euler", {**FLOW, "use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ("flow-euler", {**FLOW, "stochastic_sampling": True}, "stochastic_sampling"),
        ("euler", {**SD, "_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
    ],
)
def test_a_sampler_for_the_other_kind_of_model_is_refused(name, config, message):
    with pytest.raises(UserError, match=message):
        check_sampler(SamplerSpec(name, n_steps=20), config)
