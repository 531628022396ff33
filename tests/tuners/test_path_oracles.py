"""What the path-gradient tuners owe each other and their papers (research/tuners.md section 5 and 7), on the real code:
equalities in float64, the first update, the reward map, and the U-Net evaluations of an update."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bench.core.budget import Budget, Ledger
from bench.core.contract import Setup, make_config
from bench.core.types import SamplerSpec
from bench.diffusion.meters import Meters
from bench.diffusion.random_tiny import random_pipeline
from bench.diffusion.reference import full_graph_gradients
from bench.diffusion.rollout import Path, rollout_cost
from bench.diffusion.samplers import Noise, build_sampler
from bench.engine.plan import tuner_problems
from tuners.alignprop import AlignProp
from tuners.draft import DRaFT
from tuners.drtune import DRTune, draw_t_train
from tuners.online import last_steps
from tuners.refl import ReFL

from .world import Red, context

SAMPLERS = ["ddim", "ddpm", "euler", "euler-a", "dpmpp-2m"]
PRESETS = [(cls, preset) for cls in (ReFL, DRTune, DRaFT, AlignProp) for preset in cls.presets]
IDS = [preset for _, preset in PRESETS]
T, GUIDANCE = 5, 3.0


class Curved(Red):
    """Neither linear nor symmetric in the image, and different for each prompt."""

    def measure(self, images, prompts):
        weights = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype).view_as(images[0])
        scale = torch.tensor([1.0 + len(p) % 3 for p in prompts], dtype=images.dtype)
        return scale * ((images * weights).mean((1, 2, 3)) + (images.square() * weights).mean((1, 2, 3)) ** 2)


@pytest.fixture(scope="module")
def double():
    return random_pipeline(0, torch.float64)


def make(cls, model, scheduler="ddim", n_steps=T, rewards=None, **settings):
    """A tuner in float64 with an adapter away from its start, where half of the gradients would vanish."""
    ledger = Ledger(Budget(denoiser_u=1e12))
    sampler = SamplerSpec(scheduler, n_steps=n_steps, guidance=GUIDANCE)
    ctx = context(
        model=model, ledger=ledger, meters=Meters(model, ledger.charge), sampler=sampler,
        rewards=rewards or (lambda _: Curved()),
    )  # fmt: skip
    tuner = cls(make_config(cls, settings), ctx)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in tuner.parameters:
            p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return tuner


def gradient(tuner, path=None):
    """Of one update's loss, as one vector; the default path is the tuner's own draw."""
    tuner.accumulate(path or tuner.path(tuner.update))
    return torch.cat([p.grad.flatten() for p in tuner.parameters])


def full_graph(tuner, path):
    """The same by one autograd graph over the whole rollout."""
    for p in tuner.parameters:
        p.grad = None
    ctx = tuner.ctx
    texts = [p.text for p in ctx.prompts(0, ctx.global_batch)]
    noise = Noise([ctx.seed("rollout", update=0, sample=k) for k in range(len(texts))])
    loss = tuner.loss(ctx.reward(), texts, [])
    full_graph_gradients(ctx.model, tuner.sampler, path, texts, noise, loss)
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in tuner.parameters])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


# -- 7, 8: one method is another's special case


@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_refl_is_drtune_with_that_step_alone_and_a_stop_there(double, scheduler):
    tuner = make(ReFL, double, scheduler)
    (i,) = tuner.path(0).train
    one = gradient(tuner)
    assert torch.equal(one, gradient(make(DRTune, double, scheduler), Path(frozenset({i}), i)))


@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_refl_at_the_last_step_is_draft_1(double, scheduler):
    refl = gradient(make(ReFL, double, scheduler, window=1))
    assert relative(gradient(make(DRaFT, double, scheduler, K=1)), refl) <= 1e-12


@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_draft_t_is_full_back_propagation(double, scheduler):
    tuner = make(DRaFT, double, scheduler, **DRaFT.presets["draft-t"])
    ours = gradient(tuner)
    everything = Path(frozenset(range(T)), T - 1, through_input=True)
    assert relative(ours, full_graph(tuner, everything)) <= 1e-12


def test_draft_t_is_the_derivative_of_the_reward_it_logs(double):
    tuner = make(DRaFT, double, "ddim", **DRaFT.presets["draft-t"])
    ours = gradient(tuner)
    g = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in tuner.parameters]
    h, rewards = 1e-5, []
    for sign in (1, -2):  # to +h, and from there to -h
        for p, d in zip(tuner.parameters, direction, strict=True):
            p.data.add_(d, alpha=sign * h)
        rewards.append(tuner.accumulate(tuner.path(0))["reward"])
    numeric = (rewards[0] - rewards[1]) / (2 * h)
    assert ours @ torch.cat([d.flatten() for d in direction]) == pytest.approx(-numeric, rel=1e-5)


@pytest.mark.parametrize("j", range(T))
def test_alignprop_with_a_fixed_first_step_is_draft(double, j):
    fixed = gradient(make(AlignProp, double, mode="fixed", j=j))
    assert torch.equal(fixed, gradient(make(DRaFT, double, K=T - j)))


@pytest.mark.parametrize("K", [1, 3, 5])
def test_alignprops_suffix_of_k_steps_is_draft_k(double, K):
    def at(tuner, update):
        tuner.update = update
        return gradient(tuner)

    suffix = make(AlignProp, double, mode="suffix")
    update = next(u for u in itertools.count() if len(suffix.path(u).train) == K)
    assert torch.equal(at(suffix, update), at(make(DRaFT, double, K=K), update))


@pytest.mark.parametrize("cls", [AlignProp, DRTune])
def test_stop_gradient_is_the_only_difference_of_its_presets(double, cls):
    other = {"stop_gradient": cls is AlignProp}
    for update in range(6):
        a, b = make(cls, double).path(update), make(cls, double, **other).path(update)
        assert replace(a, through_input=b.through_input) == b
        assert a.through_input != b.through_input


@pytest.mark.parametrize("scheduler", ["ddpm", "dpmpp-2m"])
@pytest.mark.parametrize(("cls", "preset"), PRESETS, ids=IDS)
def test_every_presets_update_is_the_full_graphs(double, cls, preset, scheduler):
    settings = {k: v for k, v in cls.presets[preset].items() if k not in ("n", "kl")}
    tuner = make(cls, double, scheduler, **settings)
    update = next(u for u in itertools.count() if tuner.path(u).n_trained(T))
    path = tuner.path(update)
    assert relative(gradient(tuner, path), full_graph(tuner, path)) <= 1e-12


# -- 17, 18: the first update, and the reward map


@pytest.mark.parametrize(("cls", "preset"), PRESETS, ids=IDS)
def test_the_first_gradient_reaches_b_and_not_a(cls, preset):
    """A tuner whose decoder or reward lost its graph would leave B without one too."""
    tuner = cls(make_config(cls, cls.presets[preset]), context(n_steps=10))
    update = next(u for u in itertools.count() if tuner.path(u).n_trained(10))
    tuner.accumulate(tuner.path(update))
    norms = {"A": 0.0, "B": 0.0}
    for name, p in tuner.ctx.model.unet.named_parameters():
        if "lora_" in name:
            norms["A" if "lora_A" in name else "B"] += p.grad.norm().item()
    assert norms["A"] == 0
    assert norms["B"] > 0


class Watched(Red):
    """Gives chosen rewards and notes the gradients that come back to them."""

    def __init__(self, values):
        self.values = values
        self.grads = []

    def measure(self, images, prompts):
        r = 0 * super().measure(images, prompts) + torch.tensor(self.values, dtype=images.dtype)
        r.register_hook(lambda g: self.grads.extend(g.tolist()))
        return r


@pytest.mark.parametrize(
    ("reward_map", "expected"),
    [("linear", [-0.5, -0.5]), ("hinge", [-0.5, 0.0]), ("distance", [-0.5, 0.5])],
)
def test_a_sample_below_and_one_above_c_get_the_maps_share_of_the_batch(double, reward_map, expected):
    reward = Watched([1.0, 3.0])
    gradient(make(DRTune, double, m=0, rewards=lambda _: reward, reward_map=reward_map, hinge_at=2.0))
    assert reward.grads[-2:] == expected  # before them came the FLOP count's own


def test_the_loss_scale_multiplies_the_reward_and_not_the_penalty(double):
    plain, scaled = (gradient(make(DRTune, double, m=0, loss_scale=g)) for g in (1.0, 0.01))
    assert relative(scaled, 0.01 * plain) <= 1e-12
    only_kl = gradient(make(DRTune, double, m=0, loss_scale=0.0, kl=2.0))
    both = gradient(make(DRTune, double, m=0, kl=2.0))
    assert relative(both, plain + only_kl) <= 1e-12
    assert only_kl.norm() > 0


def test_the_penalty_alone_pulls_the_adapter_back_to_the_base(double):
    tuner = make(DRTune, double, m=0, loss_scale=0.0, kl=1.0, lr=0.01, clip=100.0)
    distances = [tuner.unit().scalars["kl"] for _ in range(15)]
    assert sum(distances[-3:]) < 0.5 * sum(distances[:3])


# -- section 7: U-Net evaluations


COUNTED = ("denoiser_fwd", "denoiser_bwd", "denoiser_u", "images", "reward_calls", "steps")


@pytest.mark.parametrize(("cls", "preset"), PRESETS, ids=IDS)
def test_an_update_costs_what_was_said_and_what_the_formula_says(cls, preset):
    """2 B (executed + 3 trained + penalised + 3 n) U with guidance, counted by the meters on real updates."""
    n_steps, B = 6, 2
    ledger = Ledger(Budget(denoiser_u=1e12))
    model = context().model
    with Meters(model, ledger.charge) as meters:
        ctx = context(n_steps=n_steps, ledger=ledger, meters=meters, micro_batch=1, global_batch=B)
        tuner = cls(make_config(cls, cls.presets[preset]), ctx)
        for update in range(2):
            said, before, path = tuner.next_cost(), dict(ledger.spent), tuner.path(update)
            tuner.unit()
            spent = {kind: ledger.spent[kind] - before[kind] for kind in COUNTED}
            assert spent == {kind: said.get(kind) for kind in COUNTED}
            n, kl = getattr(tuner.config, "n", 0), tuner.config.kl > 0
            trained = path.n_trained(n_steps)
            rows = path.n_executed(n_steps) + 3 * trained + kl * trained + 3 * n
            assert spent["denoiser_u"] == tuner.sampler.branches * B * rows
            assert spent["images"] == spent["reward_calls"] == B * (1 + n)


def u_per_sample(weighted_paths, extra=0.0):
    """Expected U of a sample over (probability, path) pairs, T = 50 with guidance."""
    sampler = build_sampler(context().model, SamplerSpec("ddpm", n_steps=50, guidance=7.5))
    pairs = list(weighted_paths)
    assert sum(p for p, _ in pairs) == pytest.approx(1)
    return sum(p * rollout_cost(sampler, path, 1).get("denoiser_u") for p, path in pairs) + extra


def refl_law(window):
    return [(1 / window, Path(frozenset({i}), i)) for i in range(50 - window, 50)]


def drtune_law(m, executed=False):
    """10 starts of 5 steps, 10 apart, times m stops; spread over the executed steps the starts depend on the stop."""
    for t_min in range(1, m + 1) if m else (None,):
        stop = None if t_min is None else 50 - t_min
        length = stop + 1 if executed else 50
        d = length // 5
        starts = range(length - 4 * d)
        for start in starts:
            train = frozenset(start + d * k for k in range(5))
            yield 1 / (len(starts) * max(m, 1)), Path(train, stop)


def alignprop_subset_law():
    """By linearity only the number of trained steps matters; its law is that of 50 independent draws."""
    law = [1.0]
    for i in range(50):
        keep = (i + 1) / 51
        law = [
            (law[k] * (1 - keep) if k < len(law) else 0) + (law[k - 1] * keep if k else 0) for k in range(len(law) + 1)
        ]
    return [(p, Path(last_steps(50, K), 49, True)) for K, p in enumerate(law)]


def normal_cdf(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def alignprop_gaussian_law():
    mass = {j: normal_cdf((j + 1 - 42) / 5) - normal_cdf((j - 42) / 5) for j in range(1, 50)}
    total = sum(mass.values())
    return [(p / total, Path(frozenset(range(j, 50)), 49, True)) for j, p in mass.items()]


LAWS = {
    "refl-10": (refl_law(10), 97),
    "refl-20": (refl_law(20), 87),
    "draft-1": ([(1.0, Path(last_steps(50, 1), 49, True))], 106),
    "draft-10": ([(1.0, Path(last_steps(50, 10), 49, True))], 160),
    "draft-t": ([(1.0, Path(last_steps(50, 50), 49, True))], 400),
    "alignprop": (alignprop_subset_law(), 250),
    "alignprop-suffix": ([(1 / 51, Path(last_steps(50, K), 49, True)) for K in range(51)], 250),
    "alignprop-gaussian": (alignprop_gaussian_law(), 155),
    "alignprop-fixed": ([(1.0, Path(frozenset({49}), 49, True))], 106),
    "drtune": (list(drtune_law(20)), 105),
    "drtune-executed": (list(drtune_law(20, executed=True)), 111),
    "drtune-noes": (list(drtune_law(0)), 130),
}


@pytest.mark.parametrize("preset", LAWS)
def test_the_expected_evaluations_at_50_steps_are_the_tables(preset):
    """Over all draws, each with its probability; and the tuner's own draws have that law."""
    law, table = LAWS[preset]
    expected = u_per_sample(law)
    assert round(expected) == table
    cls = next(c for c, name in PRESETS if name == preset)
    tuner = cls(make_config(cls, cls.presets[preset]), context(n_steps=50))
    paths = [tuner.path(u) for u in range(800)]
    costs = torch.tensor([rollout_cost(tuner.sampler, p, 1).get("denoiser_u") for p in paths])
    assert abs(costs.mean().item() - expected) <= 4 * costs.std().item() / math.sqrt(len(paths)) + 1e-9
    if preset != "alignprop":  # whose law above stands for the number of steps alone
        assert set(paths) <= {path for _, path in law}


def test_draft_lv_costs_twelve_more_and_draft_plus_a_reference_more_than_draft_1():
    def u(preset):
        return DRaFT(make_config(DRaFT, DRaFT.presets[preset]), context(n_steps=50)).next_cost()

    assert {p: u(p).get("denoiser_u") / 2 for p in ("draft-1", "draft-lv", "draft+")} == {
        "draft-1": 106, "draft-lv": 118, "draft+": 108,
    }  # fmt: skip
    assert (u("draft-1").get("images"), u("draft-lv").get("images")) == (2, 6)


# -- what does not fit is refused before anything is loaded


def problems(cls, n_steps=10, scheduler="ddim", **settings):
    sampler = SamplerSpec(scheduler, n_steps=n_steps)
    setup = Setup(
        train_sampler=sampler, sampler=sampler, global_batch=2, budget=Budget(denoiser_u=1e6), n_train_prompts=6,
        reward="red", model="tiny-sd",
    )  # fmt: skip
    return tuner_problems(cls, make_config(cls, settings), setup)


@pytest.mark.parametrize(
    ("cls", "settings", "valid"),
    [
        (DRTune, {"K": 11}, "at most 10"),
        (DRTune, {"m": 10}, "at most 9"),
        (ReFL, {"window": 11}, "at most 10"),
        (DRaFT, {"K": 11}, "at most 10"),
        (AlignProp, {"mode": "fixed", "j": 10}, "at most 9"),
        (AlignProp, {"mode": "gaussian", "centre": 1.0, "spread": 0.0}, "0.84"),
    ],
)
def test_a_plan_refuses_steps_that_do_not_fit_and_so_does_the_tuner(cls, settings, valid):
    (problem,) = problems(cls, **settings)
    assert valid in problem
    with pytest.raises(Exception, match=valid):
        cls(make_config(cls, settings), context(n_steps=10))


@pytest.mark.parametrize(("cls", "preset"), PRESETS, ids=IDS)
@pytest.mark.parametrize("n_steps", [2, 20, 25, 50])
def test_every_preset_fits_every_number_of_steps(cls, preset, n_steps):
    assert problems(cls, n_steps, **cls.presets[preset]) == []


def test_a_pool_for_l_pre_that_leaves_no_update_is_refused():
    sampler = SamplerSpec("ddim", n_steps=50, guidance=7.5)
    setup = Setup(
        train_sampler=sampler, sampler=sampler, global_batch=8, budget=Budget(denoiser_u=5000), n_train_prompts=6,
        reward="red", model="tiny-sd",
    )  # fmt: skip
    (problem,) = tuner_problems(ReFL, make_config(ReFL, {"pretrain_weight": 1.0}), setup)
    assert "6,400 U" in problem
    assert tuner_problems(ReFL, make_config(ReFL, {}), setup) == []
    assert tuner_problems(ReFL, make_config(ReFL, {"pretrain_weight": 1.0, "pretrain_pool": 8}), setup) == []


def test_a_clip_of_zero_never_scales():
    tuner = DRTune(make_config(DRTune, {"clip": 0.0}), context())
    before = [p.detach().clone() for p in tuner.parameters]
    scalars = tuner.unit().scalars
    assert scalars["clipped"] == 0.0
    assert any(not torch.equal(a, b) for a, b in zip(before, tuner.parameters, strict=True))


def test_equally_spaced_steps_differ_from_any_steps():
    spaced, any_of = (
        DRTune(make_config(DRTune, {"steps": s, "m": 0}), context(n_steps=50)) for s in ("spaced", "random")
    )
    gaps = Counter(b - a for u in range(200) for a, b in itertools.pairwise(sorted(any_of.path(u).train)))
    assert {len(any_of.path(u).train) for u in range(200)} == {5}
    assert len(gaps) > 20
    assert set().union(*(any_of.path(u).train for u in range(200))) == set(range(50))
    starts = {min(draw_t_train(50, 5, torch.Generator().manual_seed(s))) for s in range(60)}
    assert {min(spaced.path(u).train) for u in range(200)} == starts == set(range(10))
