"""How a model is computed: the same pictures and gradients sliced, tiled and compiled, and honest meters meanwhile."""

import time

import pytest
import torch

from bench.core.errors import UserError
from bench.core.types import SamplerSpec
from bench.diffusion.execution import Execution
from bench.diffusion.meters import Meters, Tally
from bench.diffusion.random_tiny import random_pipeline, save_random_pipeline
from bench.diffusion.reference import LiveBytes
from bench.diffusion.rollout import Path, accumulate_gradients
from bench.diffusion.samplers import Noise, build_sampler
from bench.diffusion.sources import find_source

from .toys import curved_loss, gradient, real_model, relative


def update(model, charge=None):
    sampler = build_sampler(model, SamplerSpec("ddim", n_steps=3, guidance=3.0))
    args = (model, sampler, Path(frozenset({1, 2}), None, True), ["a cat", "two"], Noise([0, 1]), curved_loss)
    if charge is None:
        return gradient(model.adapter_parameters, accumulate_gradients, *args)
    meters = Meters(model, charge)
    with meters, meters.clock():
        return gradient(model.adapter_parameters, accumulate_gradients, *args)


@pytest.mark.parametrize("how", [{"attention_slicing": True}, {"vae_slicing": True}, {"gradient_checkpointing": True}])
def test_slices_and_checkpoints_change_neither_gradient_nor_counts(how):
    plain, sliced = Tally(), Tally()
    expected = update(real_model(), plain.charge)
    model = Execution(dtype="fp32", **how).apply(real_model())
    assert relative(update(model, sliced.charge), expected) < 1e-10
    counts, wanted = sliced.take(), plain.take()
    for kind in ("denoiser_fwd", "denoiser_bwd", "images"):
        assert counts[kind] == wanted[kind]
    assert model.computed == how


def test_with_slices_one_images_decoder_graph_is_alive_at_a_time():
    """A batch then needs about what one image needs; the repetition is work and no further image."""
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {}
    for how in ({}, {"vae_slicing": True}):
        model, tally = Execution(**how).apply(random_pipeline(0)), Tally()
        latents = x.clone().requires_grad_()
        with Meters(model, tally.charge), LiveBytes() as live:
            (cotangent,) = torch.autograd.grad(curved_loss(model.decode(latents)), latents)
        found[bool(how)] = (live.peak, tally.take(), cotangent)
    (whole, once, expected), (one, twice, got) = found[False], found[True]
    assert one < whole / 3
    assert relative(got, expected) < 1e-6
    assert once["images"] == twice["images"] == 6
    assert twice["flops"] > once["flops"]  # decoded twice
    assert not model.repeating


def test_a_sliced_decoding_may_be_gone_back_through_twice():
    model = Execution(vae_slicing=True).apply(random_pipeline(0))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = curved_loss(model.decode(x))
    first, second = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_an_image_decoded_in_tiles_is_one_image():
    model = Execution(vae_tiling=True).apply(random_pipeline(0))
    model.vae.tile_sample_min_size, model.vae.tile_latent_min_size = 8, 4
    tally = Tally()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Meters(model, tally.charge):
        tiled = model.decode(x)
    spent = tally.take()
    assert spent["images"] == 2
    assert tiled.shape == (2, 3, 16, 16)
    assert model.vae.tiled_decode.__func__ is type(model.vae).tiled_decode  # the wrapper is gone
    whole = Tally()
    model.vae.disable_tiling()
    with torch.no_grad(), Meters(model, whole.charge):
        model.decode(x)
    assert spent["flops"] > whole.take()["flops"]  # tiles overlap


# torch's compiler looks at .grad of what is no leaf, and says so
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiling_is_off_the_clock_and_the_gradient_stays():
    """The compiler here only sleeps, once for each graph: a second update finds them all made."""
    slept = []

    def sleepy(module, inputs):
        slept.append(0.3)
        time.sleep(0.3)
        return module.forward

    expected, plain = update(real_model()), Tally()
    update(real_model(), plain.charge)
    model = Execution(compile=True).apply(real_model(), backend=sleepy)
    torch._dynamo.reset()
    first, second = Tally(), Tally()
    start = time.perf_counter()
    got = update(model, first.charge)
    wall_s = time.perf_counter() - start
    n_graphs = len(slept)
    assert relative(got, expected) < 1e-10
    update(model, second.charge)
    assert n_graphs >= 2  # with gradient and without
    assert len(slept) == n_graphs
    a, b, wanted = first.take(), second.take(), plain.take()
    assert a["device_s"] < wall_s - sum(slept)
    for kind in ("denoiser_fwd", "denoiser_bwd", "images", "flops"):
        assert a[kind] == b[kind] == wanted[kind]
    torch._dynamo.reset()


def test_what_is_asked_for_is_settled_by_the_device():
    assert Execution.of({}, "cpu").dtype == "fp32"
    assert Execution.of({}, "cuda:1").dtype == "bf16"
    assert Execution.of({"execution": {"dtype": "fp16"}}, "cuda").dtype == "fp16"
    assert Execution.of({}, "cpu").to_json() == {}
    assert Execution("bf16", vae_tiling=True).to_json() == {"dtype": "bf16", "vae_tiling": True}


def test_a_model_is_loaded_in_the_precision_asked_for(tmp_path):
    save_random_pipeline(tmp_path / "m", base="sd3", t5=True)
    model = Execution("fp16").load(str(tmp_path / "m"), "cpu")
    assert {p.dtype for p in model.unet.parameters()} == {torch.float16}
    assert {p.dtype for p in model.family.t5.parameters()} == {torch.bfloat16}  # it overflows in float16
    for part in (model.vae, model.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}


def test_a_transformers_attention_is_not_sliced(tmp_path):
    save_random_pipeline(tmp_path / "m", base="sd3")
    asked = Execution(attention_slicing=True)
    assert "transformer" in asked.problems(find_source(str(tmp_path / "m")))[0]
    with pytest.raises(UserError, match="transformer"):
        asked.apply(random_pipeline(0, base="sd3"))
    save_random_pipeline(tmp_path / "u")
    assert asked.problems(find_source(str(tmp_path / "u"))) == []
