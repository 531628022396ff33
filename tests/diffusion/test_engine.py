"""The rollout engine against the full graph, closed forms and finite differences (research/tuners.md section 5)."""

import pytest
import torch

from bench.core.budget import Budget, Ledger
from bench.core.errors import Diverged
from bench.core.types import SamplerSpec
from bench.diffusion import rollout
from bench.diffusion.meters import Meters
from bench.diffusion.reference import LiveBytes, SavedBytes, full_graph_gradients
from bench.diffusion.rollout import Path, accumulate_at, accumulate_gradients, noised, rollout_cost
from bench.diffusion.samplers import Noise, build_sampler, predict_eps

from .toys import constant_toy, curved_loss, gradient, linear_loss, real_model, relative, smooth_toy

SAMPLERS = [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0), ("euler", 0.0), ("euler-a", 0.0), ("dpmpp-2m", 0.0)]
ATOL = 1e-12


def spec(name="ddim", n_steps=50, guidance=1.0, eta=0.0):
    return SamplerSpec(name, n_steps=n_steps, guidance=guidance, eta=eta)


@pytest.fixture(scope="module")
def real():
    return real_model()


def compare(model, parameters, sampler_spec, path, texts=("a cat",)):
    sampler = build_sampler(model, sampler_spec)
    args = (model, sampler, path, list(texts), Noise(range(len(texts))), curved_loss)
    return relative(
        gradient(parameters, accumulate_gradients, *args), gradient(parameters, full_graph_gradients, *args)
    )


# -- 1, 4: equality with the full graph


@pytest.mark.parametrize("stop", [None, 3])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize(("name", "eta"), SAMPLERS)
def test_stop_gradient_update_equals_the_full_graph(real, name, eta, guidance, stop):
    path = Path(frozenset({1, 3}), stop)
    assert compare(real, real.adapter_parameters, spec(name, 5, guidance, eta), path) <= ATOL


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m"])
def test_pass_through_update_equals_the_full_graph_on_a_unet(real, name):
    path = Path(frozenset({1, 2, 4}), None, through_input=True)
    assert compare(real, real.adapter_parameters, spec(name, 5, 3.0), path) <= ATOL


@pytest.mark.parametrize(
    "train", [{7, 8, 9}, set(range(10)), {1, 2, 5, 9}, {0}], ids=["draft-3", "draft-T", "gaps", "first"]
)
@pytest.mark.parametrize("stop", [None, 9])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize(("name", "eta"), SAMPLERS)
def test_adjoint_sweep_equals_the_full_graph(name, eta, guidance, stop, train):
    toy, weight = smooth_toy()
    path = Path(frozenset(train), stop, through_input=True)
    assert compare(toy, [weight], spec(name, 10, guidance, eta), path, ("a", "longer")) <= ATOL


def test_the_two_switches_matter():
    toy, weight = smooth_toy()
    sampler = build_sampler(toy, spec(n_steps=10))
    args = (["a"], Noise([0]), curved_loss)
    paths = [Path(frozenset({3, 6})), Path(frozenset({3, 6}), through_input=True), Path(frozenset({3}))]
    a, b, c = (gradient([weight], accumulate_gradients, toy, sampler, path, *args) for path in paths)
    assert relative(a, b) > 1e-3
    assert relative(a, c) > 1e-3


def test_micro_batches_add_up_to_the_batch(real):
    sampler = build_sampler(real, spec(n_steps=4, guidance=3.0))
    path = Path(frozenset({1, 3}), 3)
    texts, seeds = ["a cat", "two dogs"], [5, 6]

    def halves():
        for text, seed in zip(texts, seeds, strict=True):
            accumulate_gradients(real, sampler, path, [text], Noise([seed]), lambda x: curved_loss(x) / 2)

    whole = gradient(
        real.adapter_parameters, accumulate_gradients, real, sampler, path, texts, Noise(seeds), curved_loss
    )
    assert relative(gradient(real.adapter_parameters, halves), whole) <= ATOL


# -- 2, 3, 11: the scalars kappa


def kappa(name, eta, T, stop=None, **scheduler):
    """(measured, closed form of section 1.3), each a list over the executed steps."""
    toy, _theta, _phi = constant_toy(**scheduler)
    sampler = build_sampler(toy, spec(name, T, eta=eta))
    c, loss = linear_loss()
    n = T if stop is None else stop + 1
    out = accumulate_gradients(toy, sampler, Path(frozenset(range(T)), stop), ["a"], Noise([0]), loss)
    measured = [(out.eps_grads[i][0] / c).mean().item() for i in range(n)]
    for i in range(n):
        assert torch.allclose(out.eps_grads[i][0], measured[i] * c, rtol=1e-6)
    return measured, closed_form(sampler, name, eta, stop, scheduler)


def closed_form(sampler, name, eta, stop, scheduler):
    alpha, sigma = sampler.alpha, sampler.sigma
    lam = sigma / alpha
    T = len(lam)
    # the target of the last step: alpha_fin, which is 1 but for DDIM without set_alpha_to_one
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    fin = (1 - betas[0]).sqrt() if name == "ddim" and not scheduler.get("set_alpha_to_one") else torch.tensor(1.0)
    alpha_to = torch.cat([alpha[1:], fin.view(1)])
    sigma_to = (1 - alpha_to**2).clamp_min(0).sqrt()
    lam_to = sigma_to / alpha_to
    s2 = eta**2 * (sigma_to**2 / sigma**2) * (1 - alpha**2 / alpha_to**2)
    if name == "ddim":
        k = ((sigma_to**2 - s2).sqrt() / alpha_to - lam) * (1.0 if stop is not None else fin)
    elif name == "ddpm":
        k = -(1 - alpha**2 / alpha_to**2) / (alpha * sigma)
    elif name == "euler":
        k = lam_to - lam
    elif name == "euler-a":
        k = (lam_to**2 - lam_to**2 * (lam**2 - lam_to**2) / lam**2).sqrt() - lam
    else:
        return [
            dpmpp_kappa(lam, lam_to, q, T - 1 if stop is None else stop, stop is not None)
            for q in range(T if stop is None else stop + 1)
        ]
    if stop is None:
        return k.tolist()
    return [*k[:stop].tolist(), -lam[stop].item()]


def dpmpp_kappa(lam, lam_to, q, last, stopped):
    """The recurrence of section 1.3 for eps_hat_q, in y = x / alpha."""
    h = -torch.log(lam_to / lam)
    dy, dx0, before = 0.0, 0.0, 0.0
    for i in range(q, last + 1):
        before, dx0 = dx0, (-lam[q].item() if i == q else dy)
        if stopped and i == last:
            return dx0
        w = 0.0 if i in (0, len(lam) - 1) else (h[i] / (2 * h[i - 1])).item()
        ratio = (lam_to[i] / lam[i]).item()
        dy = ratio * dy + (1 - ratio) * ((1 + w) * dx0 - w * before)
    return dy


@pytest.mark.parametrize("stop", [None, 13])
@pytest.mark.parametrize(("name", "eta"), [*SAMPLERS, ("ddim", 0.5)])
def test_leaf_gradients_are_kappa_times_the_reward_gradient(name, eta, stop):
    measured, expected = kappa(name, eta, 20, stop)
    assert measured == pytest.approx(expected, rel=5e-5)  # the schedulers' tables are float32


def test_kappa_of_fifty_steps_is_what_the_research_notes_say():
    ddpm, _ = kappa("ddpm", 0.0, 50)
    ddim, _ = kappa("ddim", 0.0, 50)
    at = [0, 9, 19, 29, 39, 49]
    assert [ddpm[i] for i in at] == pytest.approx([-2.730, -0.847, -0.304, -0.144, -0.090, -0.041], abs=6e-4)
    assert [ddim[i] for i in at] == pytest.approx([-1.444, -0.443, -0.157, -0.074, -0.047, -0.012], abs=6e-4)
    assert sum(map(abs, ddpm[:10])) / sum(map(abs, ddpm)) == pytest.approx(0.64, abs=0.01)


def test_kappas_of_a_deterministic_sampler_sum_to_the_first_noise_level():
    # the sum telescopes to alpha_fin (lambda_fin - lambda_0); DDIM that does not end at alpha = 1 keeps lambda_fin
    alpha_fin = (1 - 0.00085) ** 0.5
    lambda_fin = 0.00085**0.5 / alpha_fin
    assert sum(kappa("ddim", 0.0, 50)[0]) == pytest.approx(alpha_fin * (lambda_fin - 13.1204), rel=1e-5)
    assert sum(kappa("ddim", 0.0, 50, set_alpha_to_one=True)[0]) == pytest.approx(-13.1204, rel=1e-5)
    assert sum(kappa("euler", 0.0, 50)[0]) == pytest.approx(-13.1204, rel=1e-5)
    toy, *_ = constant_toy()
    sampler = build_sampler(toy, spec("dpmpp-2m", 50))
    lam_0 = (sampler.sigma[0] / sampler.alpha[0]).item()
    assert sum(kappa("dpmpp-2m", 0.0, 50)[0]) == pytest.approx(-lam_0, rel=1e-5)


def test_noise_that_is_added_again_breaks_the_sum_rule():
    assert sum(kappa("ddpm", 0.0, 50)[0]) == pytest.approx(-24.92, abs=0.01)


def test_a_constant_net_gathers_all_kappas():
    for name, stop, total in (("ddim", 40, -13.1204), ("ddpm", 40, -24.5621)):
        toy, theta, _ = constant_toy()
        c, loss = linear_loss()
        sampler = build_sampler(toy, spec(name, 50))
        g = gradient(
            [theta], accumulate_gradients, toy, sampler, Path(frozenset(range(50)), stop), ["a"], Noise([0]), loss
        )
        assert torch.allclose(g, total * c.flatten(), rtol=1e-5)


def test_guidance_splits_the_gradient_into_w_and_one_minus_w():
    w = 7.5
    toy, theta, phi = constant_toy()
    c, loss = linear_loss()
    sampler = build_sampler(toy, spec("ddpm", 20, guidance=w))
    out = accumulate_gradients(toy, sampler, Path(frozenset({4})), ["a"], Noise([0]), loss)
    k = (out.eps_grads[4][0] / c).mean()
    assert torch.allclose(theta.grad, w * k * c, rtol=1e-6)
    assert torch.allclose(phi.grad, (1 - w) * k * c, rtol=1e-6)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_stop_gradient_means_the_same_in_every_parametrisation(kind):
    """A model that predicts v or x0 for the same eps has the same kappas, as all step in eps."""
    reference, _ = kappa("ddpm", 0.0, 20)
    toy, *_ = constant_toy(prediction_type=kind)
    sampler = build_sampler(toy, spec("ddpm", 20))
    c, loss = linear_loss()
    out = accumulate_gradients(toy, sampler, Path(frozenset(range(20))), ["a"], Noise([0]), loss)
    assert [(out.eps_grads[i][0] / c).mean().item() for i in range(20)] == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("through_input", [False, True])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_converted_predictions_equal_the_full_graph(kind, through_input):
    toy, weight = smooth_toy(prediction_type=kind)
    path = Path(frozenset({2, 5, 8}), 8, through_input)
    assert compare(toy, [weight], spec("ddim", 10, 3.0), path) <= ATOL


# -- 5: memory and calls


def test_memory_does_not_grow_with_the_trained_steps_and_each_is_run_again_once(real):
    T = 20
    sampler = build_sampler(real, spec(n_steps=T))
    peaks = {}
    for K in (1, 5, 10, 20):
        with_grad = []
        handle = real.unet.register_forward_hook(
            lambda m, a, out, seen=with_grad: seen.append(out.sample.requires_grad)
        )
        with SavedBytes() as saved:
            accumulate_gradients(real, sampler, Path(frozenset(range(T - K, T))), ["a"], Noise([0]), curved_loss)
        handle.remove()
        peaks[K] = saved.peak
        assert sum(with_grad) == K
        assert len(with_grad) == T + K
    assert max(peaks.values()) - min(peaks.values()) <= 0.02 * peaks[1]
    with SavedBytes() as naive:
        full_graph_gradients(real, sampler, Path(frozenset(range(10, 20))), ["a"], Noise([0]), curved_loss)
    assert naive.peak > 5 * peaks[10]


def test_the_cost_that_is_forecast_is_what_the_meters_count(real):
    for path in (
        Path(frozenset({0, 2}), 2),
        Path(frozenset({1, 3}), 1),
        Path(frozenset({3}), None, through_input=True),
    ):
        sampler = build_sampler(real, spec(n_steps=4, guidance=2.0))
        ledger = Ledger(Budget(denoiser_u=1e12))
        with Meters(real, ledger.charge):
            accumulate_gradients(real, sampler, path, ["a", "b"], Noise([0, 1]), curved_loss)
        cost = rollout_cost(sampler, path, 2)
        for kind in ("denoiser_fwd", "denoiser_bwd", "denoiser_u", "images"):
            assert ledger.spent[kind] == cost.get(kind), kind


# -- 6: finite differences


def derivative(f, weight, direction, h=1e-5):
    """Central difference of f along ``direction``."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign * h)
            values.append(f())
            weight.add_(direction, alpha=-sign * h)
    return (values[0] - values[1]) / (2 * h)


def test_finite_differences_of_the_frozen_input_surrogate_and_of_the_true_objective():
    toy, weight = smooth_toy(timestep_spacing="leading")
    T, S = 10, frozenset({2, 5, 8})
    sampler = build_sampler(toy, spec(n_steps=T))
    direction = torch.randn(2, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    texts, noise = ["a"], Noise([3])
    cond = toy.encode_prompts(texts)

    def objective(input_of=None, eps_of=None):
        walk = sampler.walk()
        x = walk.start(noise.initial(toy.latent_shape(), toy.dtype, toy.device))
        for i in range(T):
            eps = predict_eps(toy, sampler, i, x if input_of is None else input_of[i], cond, None)
            if eps_of is not None and i not in S:
                eps = eps_of[i]
            x = walk.step(i, eps, x, noise)
        return curved_loss(x).item()

    with torch.no_grad():
        toy.inputs.clear()
        objective()
        inputs = list(toy.inputs)
        eps = [predict_eps(toy, sampler, i, inputs[i], cond, None) for i in range(T)]

    def along(path):
        return (
            gradient([weight], accumulate_gradients, toy, sampler, path, texts, noise, curved_loss)
            @ direction.flatten()
        ).item()

    surrogate = derivative(lambda: objective(inputs, eps), weight, direction)
    true = derivative(objective, weight, direction)
    assert along(Path(S)) == pytest.approx(surrogate, rel=1e-6)
    assert along(Path(frozenset(range(T)), through_input=True)) == pytest.approx(true, rel=1e-6)
    assert abs(surrogate - true) > 1e-3 * abs(true)


# -- 7: relations between the methods


def test_refl_written_by_hand_is_drtune_with_one_step_and_a_stop_there(real):
    i = 3
    sampler = build_sampler(real, spec("ddpm", 5, 7.5))
    noise, texts = Noise([4]), ["a cat"]

    def by_hand():
        cond, uncond = real.encode_prompts(texts), real.encode_prompts([""])
        walk = sampler.walk()
        x = walk.start(noise.initial(real.latent_shape(), real.dtype, real.device))
        with torch.no_grad():
            for j in range(i):
                x = walk.step(j, predict_eps(real, sampler, j, x, cond, uncond), x, noise)
        x0 = sampler.x0_hat(i, predict_eps(real, sampler, i, x, cond, uncond), x)
        curved_loss(real.decode(x0)).backward()

    engine = gradient(
        real.adapter_parameters, accumulate_gradients, real, sampler, Path(frozenset({i}), i), texts, noise, curved_loss
    )
    assert relative(engine, gradient(real.adapter_parameters, by_hand)) <= ATOL


def last_step_gradients(name, loss=curved_loss):
    """(ReFL at the last step, DRaFT-1)."""
    toy, weight = smooth_toy()
    sampler = build_sampler(toy, spec(name, 50))
    args = (["a"], Noise([0]), loss)
    refl = gradient([weight], accumulate_gradients, toy, sampler, Path(frozenset({49}), 49), *args)
    draft = gradient(
        [weight], accumulate_gradients, toy, sampler, Path(frozenset({49}), None, through_input=True), *args
    )
    return refl, draft


def test_with_ddpm_refl_at_the_last_step_is_draft_1():
    refl, draft = last_step_gradients("ddpm")
    assert relative(draft, refl) < 1e-6


def test_with_ddim_that_keeps_its_last_noise_draft_1_is_71_percent_off():
    refl, draft = last_step_gradients("ddim", linear_loss()[1])
    assert relative(draft, refl) == pytest.approx(0.71, abs=0.01)


# -- guards


def test_what_is_not_finite_is_named():
    toy, _weight = smooth_toy()
    sampler = build_sampler(toy, spec(n_steps=4))
    with pytest.raises(Diverged, match="loss"):
        accumulate_gradients(toy, sampler, Path(frozenset({3})), ["a"], Noise([0]), lambda x: (x * float("inf")).sum())
    toy.net = lambda x, t, cond: x * float("nan")
    with pytest.raises(Diverged, match="latent"):
        accumulate_gradients(toy, sampler, Path(frozenset({3})), ["a"], Noise([0]), curved_loss)


# -- the penalty on the distance to the base model


@pytest.mark.parametrize("through_input", [False, True])
@pytest.mark.parametrize("stop", [None, 3])
@pytest.mark.parametrize(("name", "eta"), SAMPLERS)
def test_the_penalty_joins_the_update_as_in_the_full_graph(real, name, eta, stop, through_input):
    sampler = build_sampler(real, spec(name, 5, 3.0, eta))
    args = (real, sampler, Path(frozenset({1, 2, 4}), stop, through_input), ["a cat"], Noise([0]), curved_loss)
    with_kl = gradient(real.adapter_parameters, accumulate_gradients, *args, None, 0.7)
    assert relative(with_kl, gradient(real.adapter_parameters, full_graph_gradients, *args, None, 0.7)) <= ATOL
    assert relative(with_kl, gradient(real.adapter_parameters, accumulate_gradients, *args)) > 1e-3


def test_at_the_start_the_penalty_and_its_gradient_are_zero():
    model = real_model()
    parameters = model.attach_adapter(rank=2, alpha=2, generator=torch.Generator().manual_seed(1))
    sampler = build_sampler(model, spec(n_steps=4, guidance=3.0))
    args = (model, sampler, Path(frozenset({1, 3})), ["a cat"], Noise([0]), curved_loss)
    assert accumulate_gradients(*args, kl=5.0).kl == 0
    assert torch.equal(
        gradient(parameters, accumulate_gradients, *args, None, 5.0), gradient(parameters, accumulate_gradients, *args)
    )


# -- one prediction at a given latent


@pytest.mark.parametrize(("name", "eta"), SAMPLERS)
def test_one_prediction_at_a_given_latent_equals_autograd(real, name, eta):
    sampler = build_sampler(real, spec(name, 5, 7.5, eta))
    g = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(2, 4, 8, 8, generator=g, dtype=torch.float64) for _ in range(2))
    x, texts = noised(sampler, 4, x0, eps), ["a cat", "two dogs"]

    def by_hand():
        cond = real.encode_prompts(texts)
        eps_hat = predict_eps(real, sampler, 4, x, cond, real.encode_prompts(["", ""]))
        curved_loss(real.decode(sampler.x0_hat(4, eps_hat, x))).backward()

    ours = gradient(real.adapter_parameters, accumulate_at, real, sampler, 4, x, texts, curved_loss)
    assert relative(ours, gradient(real.adapter_parameters, by_hand)) <= ATOL


@pytest.mark.parametrize(("name", "eta"), SAMPLERS)
def test_noising_and_predicting_with_the_same_noise_give_the_latent_back(real, name, eta):
    sampler = build_sampler(real, spec(name, 5, eta=eta))
    g = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(1, 4, 8, 8, generator=g, dtype=torch.float64) for _ in range(2))
    for i in range(5):
        assert torch.allclose(sampler.x0_hat(i, eps, noised(sampler, i, x0, eps)), x0, atol=1e-12)


# -- multistep samplers with gradient through the U-Net's input


def test_with_dpmpp_full_back_propagation_is_the_derivative_of_the_true_objective():
    toy, weight = smooth_toy()
    sampler = build_sampler(toy, spec("dpmpp-2m", 10, 3.0))
    direction = torch.randn(2, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    path = Path(frozenset(range(10)), through_input=True)
    args = (toy, sampler, path, ["a"], Noise([3]), curved_loss)
    ours = gradient([weight], accumulate_gradients, *args) @ direction.flatten()
    # diffusers' DPM++ steps in float32 whatever it is given, so a small difference would measure its rounding
    numeric = derivative(lambda: accumulate_gradients(*args).loss, weight, direction, h=3e-3)
    assert ours.item() == pytest.approx(numeric, rel=1e-3)


def test_the_swept_memory_is_what_makes_dpmpp_exact(monkeypatch):
    """Without the cotangent of the remembered x0_hat the sweep treats DPM++ 2M as a one-step method, and is wrong."""
    toy, weight = smooth_toy()
    sampler = build_sampler(toy, spec("dpmpp-2m", 10))
    path = Path(frozenset({2, 3, 6, 9}), through_input=True)
    args = (toy, sampler, path, ["a"], Noise([3]), curved_loss)
    full = gradient([weight], full_graph_gradients, *args)
    assert relative(gradient([weight], accumulate_gradients, *args), full) <= ATOL
    exact = rollout._vjp
    monkeypatch.setattr(rollout, "_vjp", lambda step, l_x, _: (*exact(step, l_x, None)[:2], None))
    assert relative(gradient([weight], accumulate_gradients, *args), full) > 0.01


# -- the yardsticks


@pytest.mark.parametrize("through_input", [False, True])
def test_the_checkpointed_full_graph_equals_the_plain_one_and_calls_the_u_net_as_often_as_the_engine(
    real, through_input
):
    sampler = build_sampler(real, spec(n_steps=5, guidance=3.0))
    args = (real, sampler, Path(frozenset({1, 2, 4}), None, through_input), ["a cat"], Noise([0]), curved_loss)
    plain = gradient(real.adapter_parameters, full_graph_gradients, *args)
    calls = {}
    for update, extra in ((full_graph_gradients, (None, 0.0, True)), (accumulate_gradients, ())):
        seen = []
        handle = real.unet.register_forward_pre_hook(lambda m, a, seen=seen: seen.append(1))
        assert relative(gradient(real.adapter_parameters, update, *args, *extra), plain) <= ATOL
        handle.remove()
        calls[update] = len(seen)
    assert set(calls.values()) == {5 + 3}


def test_live_bytes_sees_what_a_checkpoint_recomputes_and_ends_at_nothing(real):
    """The full graph grows with K; engine and checkpointing hold one U-Net's graph at a time."""
    sampler = build_sampler(real, spec(n_steps=10))
    peaks = {}
    for K in (1, 10):
        path = Path(frozenset(range(10 - K, 10)), None, through_input=True)
        args = (real, sampler, path, ["a cat"], Noise([0]), curved_loss)
        for name, update, extra in (
            ("engine", accumulate_gradients, ()),
            ("full", full_graph_gradients, ()),
            ("checkpointed", full_graph_gradients, (None, 0.0, True)),
        ):
            gradient(real.adapter_parameters, update, *args, *extra)  # so that no gradient is new inside
            with LiveBytes() as live:
                gradient(real.adapter_parameters, update, *args, *extra)
            peaks[name, K] = live.peak
    assert peaks["full", 10] > 5 * peaks["full", 1]
    assert peaks["engine", 10] < 1.1 * peaks["engine", 1]
    assert peaks["checkpointed", 10] == pytest.approx(peaks["engine", 10], rel=0.1)


def test_live_bytes_counts_a_storage_once_and_drops_it_with_its_last_view():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a.view(10, 100)
        del a
        assert (b + 1).shape == b.shape
        del b
        torch.zeros(10)
    assert live.peak == 8000
