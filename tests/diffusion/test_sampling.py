"""Samplers and generation: what is refused, per-image noise, and the same images as plain diffusers."""

import json

import pytest
import torch

from bench.core.contract import Patch
from bench.core.errors import UserError
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.generate import generate, image_seed
from bench.diffusion.models import quiet
from bench.diffusion.random_tiny import random_pipeline, save_random_pipeline
from bench.diffusion.samplers import Noise, build_sampler, check_sampler
from bench.engine.options import Options
from bench.engine.plan import make_plan

from .toys import constant_toy

PROMPTS = [Prompt("p0", "a red cat"), Prompt("p1", "two dogs"), Prompt("p2", "a green car")]


@pytest.fixture(scope="module")
def model():
    return random_pipeline(0)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler-a", "dpmpp-2m"])
def test_an_image_depends_neither_on_its_batch_nor_on_the_order(model, name):
    spec = SamplerSpec(name, n_steps=4, guidance=3.0, eta=0.5 if name == "ddim" else 0.0)
    one = {(g.prompt.id, g.seed): g.image for g in generate(model, PROMPTS, [0, 1], spec, batch_size=4)}
    two = {(g.prompt.id, g.seed): g.image for g in generate(model, PROMPTS[::-1], [1, 0], spec, batch_size=1)}
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[k], two[k], atol=2e-6) for k in one)
    assert not torch.allclose(one["p0", 0], one["p0", 1], atol=1e-2)


def test_images_come_in_suite_order_within_the_contract(model):
    images = list(generate(model, PROMPTS, [0, 5], SamplerSpec("euler", n_steps=2), batch_size=5))
    assert [(g.prompt.id, g.seed) for g in images] == [(p.id, s) for p in PROMPTS for s in (0, 5)]
    for g in images:
        assert g.image.shape == (3, 16, 16)
        assert g.image.dtype == torch.float32
        assert 0 <= g.image.min() <= g.image.max() <= 1


def test_whole_batches_that_exist_are_skipped_and_the_rest_is_bit_equal(model):
    spec = SamplerSpec("ddim", n_steps=2)
    full = list(generate(model, PROMPTS, [0], spec, batch_size=2))
    rest = list(generate(model, PROMPTS, [0], spec, batch_size=2, done={("p0", 0), ("p1", 0)}))
    assert [g.prompt.id for g in rest] == ["p2"]
    assert torch.equal(rest[0].image, full[2].image)
    half = list(generate(model, PROMPTS, [0], spec, batch_size=2, done={("p0", 0)}))
    assert all(torch.equal(a.image, b.image) for a, b in zip(half, full, strict=True))


# NumPy's deprecation inside diffusers, which Sampler._scheduler ignores for the same reason
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp-2m"])
def test_plain_diffusers_draws_the_same_image_from_the_same_noise(model, name):
    import diffusers

    schedulers = {
        "ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler,
        "dpmpp-2m": diffusers.DPMSolverMultistepScheduler,
    }  # fmt: skip
    (ours,) = generate(model, PROMPTS[:1], [0], SamplerSpec(name, n_steps=5, guidance=3.0))
    with quiet():
        pipe = diffusers.StableDiffusionPipeline(
            vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer, unet=model.unet,
            scheduler=schedulers[name].from_config(model.scheduler_config), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        noise = Noise([image_seed(PROMPTS[0], 0)]).initial((4, 8, 8), torch.float32, torch.device("cpu"))
        theirs = pipe(
            PROMPTS[0].text, latents=noise, num_inference_steps=5, guidance_scale=3.0, output_type="pt"
        ).images
    assert torch.allclose(theirs[0], ours.image, atol=1e-5)


def test_a_hook_sees_every_step_and_is_ended(model):
    class Hook:
        def __init__(self):
            self.seen = []

        def begin(self, batch):
            self.seen.append(("begin", tuple(batch.texts), batch.spec.n_steps))

        def before_step(self, i):
            self.seen.append(f"before {i}")

        def after_step(self, i, x):
            self.seen.append(i)
            return x * 0.5

        def end(self):
            self.seen.append("end")

    hook = Hook()
    spec = SamplerSpec("ddim", n_steps=2)
    (plain,) = generate(model, PROMPTS[:1], [0], spec)
    (hooked,) = generate(model, PROMPTS[:1], [0], spec, Patch(hooks=(hook,)))
    assert hook.seen == [("begin", ("a red cat",), 2), "before 0", 0, "before 1", 1, "end"]
    assert not torch.equal(plain.image, hooked.image)


def test_a_resolution_the_autoencoder_cannot_draw_is_refused(model):
    with pytest.raises(UserError, match="multiple of 2"):
        list(generate(model, PROMPTS[:1], [0], SamplerSpec("ddim", n_steps=2, resolution=17)))


@pytest.mark.parametrize("key", ["clip_sample", "thresholding"])
def test_clipping_is_refused_for_latents(key):
    toy, *_ = constant_toy(**{key: True})
    with pytest.raises(UserError, match=key):
        build_sampler(toy, SamplerSpec("ddim"))


def test_a_config_that_does_not_mention_clipping_is_sampled_without():
    """Freshly built DDIM and DDPM schedulers clip by default; Stable Diffusion's PNDM config does not know the word."""
    toy, *_ = constant_toy()
    del toy.scheduler_config["clip_sample"]
    walk = build_sampler(toy, SamplerSpec("ddpm")).walk()
    x = torch.full((1, 2, 2, 2), 50.0)
    assert walk.step(0, torch.zeros_like(x), x, Noise([0])).abs().mean() > 40


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SamplerSpec("ddim", n_steps=30), "divides 1000"),
        (SamplerSpec("plms"), "dpmpp-2m"),
        (SamplerSpec("euler", eta=0.5), "eta belongs to ddim"),
        (SamplerSpec("ddim", eta=1.5), "0 .deterministic"),
        (SamplerSpec("ddim", n_steps=0), "1 to 999"),
    ],
)
def test_settings_that_would_sample_something_else_are_refused(spec, message):
    toy, *_ = constant_toy(timestep_spacing="trailing")
    with pytest.raises(UserError, match=message):
        build_sampler(toy, spec)
    with pytest.raises(UserError, match=message):  # what a plan asks, from the config file alone
        check_sampler(spec, toy.scheduler_config)


@pytest.mark.parametrize("key", ["clip_sample", "thresholding"])
def test_a_plan_refuses_a_model_that_clips(key, tmp_path):
    save_random_pipeline(tmp_path / "model")
    path = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: True}))
    plan = make_plan(Options(suite="coco", tuner="drtune,hgdpo", model=str(tmp_path / "model"), runs=tmp_path))
    assert len([p for p in plan.problems if key in p]) == 1


def test_each_walk_has_a_scheduler_of_its_own():
    toy, *_ = constant_toy()
    sampler = build_sampler(toy, SamplerSpec("euler", n_steps=3))
    x = torch.ones(1, 2, 2, 2)
    for _ in range(2):
        walk = sampler.walk()
        for i in range(3):
            walk.step(i, x, x, Noise([0]))


def test_step_noise_is_named_by_sample_and_step():
    toy, *_ = constant_toy()
    sampler = build_sampler(toy, SamplerSpec("ddpm", n_steps=10))
    x = torch.zeros(2, 2, 2, 2)
    both = sampler.walk().step(4, x, x, Noise([1, 2]))
    assert torch.equal(sampler.walk().step(4, x[:1], x[:1], Noise([2]))[0], both[1])
    assert not torch.equal(sampler.walk().step(4, x[:1], x[:1], Noise([3]))[0], both[1])
