"""SDXL and SD3 through the interface of Stable Diffusion: the same images and adapters as plain diffusers, the engine's
gradient, what is refused."""

import json
import shutil

import pytest
import torch

from bench.core import registry
from bench.core.errors import UserError
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.check import check_tuner
from bench.diffusion.families import FAMILIES
from bench.diffusion.generate import generate, image_seed
from bench.diffusion.meters import Meters, Tally
from bench.diffusion.models import load_model, quiet
from bench.diffusion.random_tiny import BASES, random_pipeline, save_random_pipeline
from bench.diffusion.reference import full_graph_gradients
from bench.diffusion.rollout import Path, accumulate_gradients, rollout_cost
from bench.diffusion.samplers import Noise, build_sampler
from bench.diffusion.sources import PIPELINES, find_source

from .toys import curved_loss, gradient, real_model, relative

OTHERS = [("sdxl", False), ("sd3", False), ("sd3", True)]
SAMPLER = {"sd": "ddim", "sdxl": "euler", "sd3": "flow-euler"}
PROMPT = Prompt("p", "a red cat")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    for base, t5 in [("sd", False), *OTHERS]:
        save_random_pipeline(root / f"{base}-{t5}", base=base, t5=t5)
    return root


def tuned(base, t5=False, **kwargs):
    return with_adapter(random_pipeline(0, base=base, t5=t5, **kwargs))


def with_adapter(model):
    for p in model.attach_adapter(rank=2, alpha=6, generator=torch.Generator().manual_seed(0)):
        p.data += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return model


# NumPy's deprecation inside diffusers, which Sampler._scheduler ignores for the same reason
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("base", "t5"), OTHERS)
def test_a_saved_adapter_makes_the_same_image_in_plain_diffusers(base, t5, folders, tmp_path):
    """Prompts, negative prompts, sizes, schedule and decoding are the pipeline's own; only the noise is given to it."""
    import diffusers

    model = with_adapter(load_model(str(folders / f"{base}-{t5}")))
    adapters.save_adapter(model.unet, tmp_path)
    (ours,) = generate(model, [PROMPT], [0], SamplerSpec(SAMPLER[base], n_steps=4, guidance=3.0))
    with quiet():
        pipe = getattr(diffusers, model.family.pipeline).from_pretrained(
            folders / f"{base}-{t5}", **dict.fromkeys(find_source(str(folders / f"{base}-{t5}")).absent_parts())
        )
        if base == "sdxl":
            pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        noise = Noise([image_seed(PROMPT, 0)]).initial((4, 8, 8), torch.float32, torch.device("cpu"))

        def plain():
            out = pipe(PROMPT.text, latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="pt",
                       height=16, width=16)  # fmt: skip
            return out.images[0]

        base_image = plain()
        pipe.load_lora_weights(str(tmp_path))
        assert torch.allclose(plain(), ours.image, atol=1e-5)
        assert not torch.allclose(base_image, ours.image, atol=1e-3)


@pytest.mark.parametrize(("base", "t5"), OTHERS)
def test_a_saved_pipeline_loads_from_its_folder_as_it_was(base, t5, folders):
    loaded, model = load_model(str(folders / f"{base}-{t5}")), random_pipeline(0, base=base, t5=t5)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (m.denoiser(x, torch.tensor(400.0), m.encode_prompts(["a", "b"])) for m in (loaded, model))
    assert torch.equal(a, b)


@pytest.mark.parametrize("stop", [None, 3])
@pytest.mark.parametrize("through_input", [False, True])
@pytest.mark.parametrize("base", ["sdxl", "sd3"])
def test_the_engines_update_equals_the_full_graph(base, through_input, stop):
    model = real_model(base=base)
    sampler = build_sampler(model, SamplerSpec(SAMPLER[base], n_steps=5, guidance=4.0))
    args = (model, sampler, Path(frozenset({1, 3}), stop, through_input), ["a cat", ""], Noise([0, 1]), curved_loss)
    ours = gradient(model.adapter_parameters, accumulate_gradients, *args)
    assert relative(ours, gradient(model.adapter_parameters, full_graph_gradients, *args)) <= 1e-12
    assert ours.norm() > 0


@pytest.mark.parametrize("base", ["sdxl", "sd3"])
def test_the_meters_count_what_is_forecast(base):
    model, tally = tuned(base), Tally()
    sampler = build_sampler(model, SamplerSpec(SAMPLER[base], n_steps=3, guidance=4.0))
    path = Path(frozenset({1, 2}))
    with Meters(model, tally.charge):
        accumulate_gradients(model, sampler, path, ["a", "b"], Noise([0, 1]), curved_loss)
    spent, cost = tally.take(), rollout_cost(sampler, path, 2)
    assert {k: spent[k] for k in ("denoiser_fwd", "denoiser_bwd", "images")} == {
        k: cost.get(k) for k in ("denoiser_fwd", "denoiser_bwd", "images")
    }
    assert spent["flops"] > 0


@pytest.mark.parametrize(("base", "t5"), OTHERS)
def test_a_condition_holds_text_and_pooled_embedding(base, t5):
    model = random_pipeline(0, base=base, t5=t5)
    cond = model.encode_prompts(["a cat", "two dogs"])
    text, pooled = model.split(cond)
    assert text.shape[1] == (16 if base == "sdxl" else 16 + 256)
    assert pooled.shape == (2, model.family.pooled_dim)
    alone, alone_pooled = model.split(model.encode_prompts(["two dogs"]))
    assert torch.equal(text[1:], alone)
    assert torch.equal(pooled[1:], alone_pooled)


def test_sdxls_unconditional_branch_is_zero_where_its_config_says_so(folders, tmp_path):
    assert not random_pipeline(0, base="sdxl").encode_prompts([""]).any()
    shutil.copytree(folders / "sdxl-False", tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "force_zeros_for_empty_prompt": False}))
    assert load_model(str(tmp_path / "model")).encode_prompts([""]).any()


def test_a_prompt_too_long_for_clip_is_counted_where_t5_reads_all_of_it():
    model = random_pipeline(0, base="sd3", t5=True)
    model.encode_prompts(["a cat", "many words " * 5])
    assert model.truncated == {"many words " * 5}


def test_a_transformers_adapter_is_on_image_and_text(tmp_path):
    model = tuned("sd3")
    names = {name.rsplit(".lora_A", 1)[0] for name, _ in model.unet.named_parameters() if "lora_A" in name}
    assert {"transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj",
            "transformer_blocks.0.attn2.to_v", "transformer_blocks.0.attn.to_add_out"} <= names  # fmt: skip
    adapters.save_adapter(model.unet, tmp_path)
    again = random_pipeline(0, base="sd3")
    adapters.load_adapter(again.unet, tmp_path)
    mine, theirs = adapters.adapter_state(model.unet), adapters.adapter_state(again.unet)
    assert all(torch.equal(v, theirs[k]) for k, v in mine.items())
    with pytest.raises(UserError, match="pytorch_lora_weights"):
        adapters.load_adapter(random_pipeline(0, base="sdxl").unet, tmp_path)


# -- which code for which folder


def test_families_and_their_names_belong_together():
    assert {name: family.denoiser for name, family in FAMILIES.items()} == PIPELINES
    assert {family.name for family in FAMILIES.values()} == BASES.keys()


@pytest.mark.parametrize("name", ["sdxl", "sd35-medium", "sd35-medium-no-t5"])
def test_a_registered_model_names_its_class_and_is_read_from_a_folder_of_it_only(name, folders):
    source = find_source(name)
    assert source.pipeline in PIPELINES
    own = folders / ("sdxl-False" if name == "sdxl" else "sd3-True")
    assert load_model(f"{name}={own}").source.name == name
    with pytest.raises(UserError, match=rf"holds a StableDiffusionPipeline, and {name} is a {source.pipeline}"):
        find_source(f"{name}={folders / 'sd-False'}")


def test_sd35_without_t5_encodes_as_a_folder_without_it(folders):
    dropped = load_model(f"sd35-medium-no-t5={folders / 'sd3-True'}")
    assert dropped.family.t5 is None
    assert load_model(f"sd35-medium={folders / 'sd3-True'}").family.t5 is not None
    text, _ = dropped.split(dropped.encode_prompts(["a cat"]))
    assert not text[:, 16:].any()


def test_a_class_that_we_cannot_tune_is_refused_with_those_that_we_can(folders, tmp_path):
    shutil.copytree(folders / "sd-False", tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="FluxPipeline") as err:
        find_source(str(tmp_path / "model"))
    assert "StableDiffusionXLPipeline" in err.value.valid


def test_a_hub_id_is_a_model_and_its_revision_the_commit_that_is_cached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = find_source("some-lab/portraits")
    assert (source.name, source.location, source.revision()) == ("portraits", "some-lab/portraits", "")
    assert find_source("some-lab/portraits@abc").revision() == "abc"
    commit = "0123456789abcdef0123456789abcdef01234567"
    stored = tmp_path / "models--some-lab--portraits"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text(commit)
    save_random_pipeline(stored / "snapshots" / commit, base="sdxl")
    assert source.revision() == commit
    assert source.pipeline_class() == "StableDiffusionXLPipeline"


def test_a_refiner_is_refused(folders, tmp_path):
    shutil.copytree(folders / "sdxl-False", tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "text_encoder": [None, None],
                                 "tokenizer": [None, None]}))  # fmt: skip
    with pytest.raises(UserError, match="refines"):
        load_model(str(tmp_path / "model"))


# -- precision


@pytest.mark.parametrize("base", ["sd", "sdxl", "sd3"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_half_precision_leaves_the_gradients_direction(size, half, base):
    """Frozen weights in half; adapter, latents, scheduler and autoencoder in float32. Also where the loss is small:
    then float16 without its scale loses the gradient, and bfloat16 does not."""
    grads = {}
    for dtype in (torch.float32, half):
        model = tuned(base, dtype=dtype)
        sampler = build_sampler(model, SamplerSpec(SAMPLER[base], n_steps=5, guidance=4.0))
        path = Path(frozenset({1, 3}), through_input=True)
        args = (model, sampler, path, ["a cat", "two"], Noise([0, 1]), lambda x: size * curved_loss(x))
        grads[dtype] = gradient(model.adapter_parameters, accumulate_gradients, *args)
        frozen = [p for name, p in model.unet.named_parameters() if "lora_" not in name]
        assert {p.dtype for p in frozen} == {dtype}
        assert {p.dtype for p in model.adapter_parameters} == {torch.float32}
        assert {p.dtype for p in model.vae.parameters()} == {torch.float32}
    a, b = grads.values()
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) >= 0.99
    assert not torch.equal(a, b)


# -- tuners


@pytest.mark.parametrize(("name", "base"), [("drtune", "sdxl"), ("hgdpo", "sd3")])
def test_tuners_keep_their_promises_on_other_bases(name, base):
    """One that goes through the sampler and one that trains on the forward process; by hand, all presets on both."""
    results = check_tuner(registry.load("tuners", name), base=base)
    assert {r.name: r.detail for r in results if not r.ok} == {}
    assert len(results) == 12
