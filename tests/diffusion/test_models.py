"""Base models and adapters: loading, what is refused and how, LoRA's properties, plain diffusers reads what we save."""

import shutil

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.generate import generate, image_seed
from bench.diffusion.models import load_model, quiet
from bench.diffusion.random_tiny import random_pipeline, save_random_pipeline
from bench.diffusion.samplers import Noise
from bench.diffusion.sources import find_source, folder_digest

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor(400)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "random"
    save_random_pipeline(path)
    return path


@pytest.fixture
def model():
    return random_pipeline(0)


@pytest.fixture
def tuned(model):
    for p in model.attach_adapter(rank=2, alpha=6, generator=rng()):
        p.data += 0.2 * torch.randn(p.shape, generator=rng(1))
    return model


def predict(model):
    with torch.no_grad():
        return model.denoiser(X, T, model.encode_prompts(["a", "b"]))


def test_a_saved_pipeline_loads_from_its_folder_as_it_was(folder, model):
    loaded = load_model(str(folder))
    assert torch.equal(predict(loaded), predict(model))
    assert loaded.source.revision() == f"sha256:{folder_digest(folder)}"
    assert loaded.latent_shape() == (4, 8, 8)
    assert loaded.latent_shape(32) == (4, 16, 16)


def test_the_revision_of_a_folder_is_its_weights_and_configs_and_not_its_card(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("a card")
    assert folder_digest(copy) == folder_digest(folder)
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    config = changed / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    assert folder_digest(changed) != folder_digest(folder)


@pytest.mark.parametrize("broken", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "model_index.json"])
def test_a_truncated_file_is_named(folder, tmp_path, broken):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / broken
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError) as err:
        load_model(str(copy))
    assert str(path) in str(err.value)


def test_a_folder_that_is_no_pipeline_and_a_name_nobody_has_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no diffusion pipeline"):
        load_model(str(tmp_path))
    with pytest.raises(UserError, match="no model named 'sd16'"):
        load_model("sd16")
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/none"):
        load_model(str(tmp_path / "none"))


def test_of_name_and_folder_the_wrong_one_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="there is no folder /none") as err:
        find_source("sd15=/none")
    assert "sd15" not in err.value.problem
    with pytest.raises(UserError, match="no diffusion pipeline"):
        find_source(f"sd15={tmp_path}")
    with pytest.raises(UserError, match="no model named 'sd16', and NAME=FOLDER is for a registered") as err:
        find_source(f"sd16={folder}")
    assert err.value.hint.startswith(f"--model {folder}") and "nor does" not in err.value.problem
    with pytest.raises(UserError, match=r"no model named 'x', .*; nor does /none hold a diffusion pipeline"):
        find_source("x=/none")
    with pytest.raises(UserError, match="there is no folder /none"):
        find_source("org/name=/none")
    assert find_source(f"org/name={folder}").location == str(folder)
    signed = tmp_path / "steps=8"
    signed.symlink_to(folder)
    assert find_source(str(signed)).location == str(signed)
    with pytest.raises(UserError, match="names no folder"):
        find_source("sd15=")


@pytest.mark.parametrize("name", ["sd15", "segmind/tiny-sd", "org/name@0123abc"])
def test_what_an_absent_model_advises_to_type_is_taken(name, folder):
    assert find_source(f"{find_source(name).named_copy}={folder}").location == str(folder)


def test_a_registered_model_can_be_read_from_a_local_folder_and_keeps_its_tuning_defaults(folder):
    source = find_source(f"sd15={folder}")
    assert (source.name, source.location) == ("sd15", str(folder))
    assert source.tuning_defaults == find_source("sd15").tuning_defaults == {"lr": 2e-5, "rank": 128}
    assert source.revision().startswith("sha256:")


def test_a_model_that_is_neither_here_nor_reachable_says_what_to_type(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, said in (("sd15", "--model sd15=FOLDER"), ("org/name@0123abc", "--model org/name=FOLDER")):
        with pytest.raises(UserError, match="neither cached here nor reachable") as err:
            load_model(name)
        assert err.value.hint == said


def test_a_prompt_that_is_too_long_is_counted_and_keeps_its_end_of_text_token(model):
    short, long = "a cat", "many words " * 10
    model.encode_prompts([short, long])
    assert model.truncated == {long}
    ids = model.tokenizer(long, truncation=True, max_length=model.tokenizer.model_max_length).input_ids
    assert ids[-1] == model.tokenizer.eos_token_id


def test_a_text_condition_does_not_depend_on_its_batch(model):
    together = model.encode_prompts(["a cat", "two dogs"])
    assert torch.equal(together[1], random_pipeline(0).encode_prompts(["two dogs"])[0])


def test_a_fresh_adapter_equals_the_base_and_disabling_restores_it(model):
    base = predict(model)
    parameters = model.attach_adapter(rank=2, alpha=2, generator=rng())
    assert {p.dtype for p in parameters} == {torch.float32}
    assert torch.equal(predict(model), base)
    for p in parameters:
        p.data += 0.1
    assert not torch.equal(predict(model), base)
    with adapters.disabled(model.unet):
        assert torch.equal(predict(model), base)
    assert all(p.requires_grad for p in parameters)


def test_the_first_gradient_reaches_b_and_not_a(model):
    model.attach_adapter(rank=2, alpha=2, generator=rng())
    model.denoiser(X, T, model.encode_prompts(["a", "b"])).square().sum().backward()
    for name, p in model.unet.named_parameters():
        if "lora_A" in name:
            assert not p.grad.any()
        elif "lora_B" in name:
            assert p.grad.any()
        else:
            assert p.grad is None


def test_an_adapter_goes_on_the_feed_forward_layers_too_where_asked_and_comes_back_so(model, tmp_path):
    attention = {name for name, _ in adapters_named(model, "attention")}
    for _, p in adapters_named(model, "attention+feed-forward"):
        p.data += 0.1
    both = {name for name, p in model.unet.named_parameters() if "lora_" in name}
    assert attention < both
    assert {name.split(".lora_")[0].rsplit(".ff.", 1)[-1] for name in both - attention} == {"net.0.proj", "net.2"}
    tuned = predict(model)
    adapters.save_adapter(model.unet, tmp_path)
    adapters.detach(model.unet)
    assert not torch.equal(predict(model), tuned)
    adapters.load_adapter(model.unet, tmp_path)
    assert torch.allclose(predict(model), tuned, atol=1e-6)


def adapters_named(model, targets):
    model.attach_adapter(rank=2, alpha=2, generator=rng(), targets=targets)
    return [(name, p) for name, p in model.unet.named_parameters() if "lora_" in name]


def test_an_adapters_start_comes_from_its_generator_alone(model):
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    torch.manual_seed(1)
    model.attach_adapter(rank=2, alpha=2, generator=rng(7))
    first = adapters.adapter_state(model.unet)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    model.attach_adapter(rank=2, alpha=2, generator=rng(7))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, first[k]) for k, v in adapters.adapter_state(model.unet).items())
    torch.set_rng_state(before[0])


def test_a_second_adapter_takes_the_place_of_the_first(model):
    model.attach_adapter(rank=2, alpha=2, generator=rng())
    n = len(model.adapter_parameters)
    assert len(model.attach_adapter(rank=4, alpha=2, generator=rng())) == n
    assert {p.shape[0] for name, p in model.unet.named_parameters() if "lora_A" in name} == {4}


def test_scale_multiplies_the_adapters_part_and_ends_with_its_block(tuned):
    full = predict(tuned)
    with adapters.scaled(tuned.unet, 0.0):
        none = predict(tuned)
    with adapters.disabled(tuned.unet):
        assert torch.allclose(predict(tuned), none, atol=1e-7)
    assert torch.equal(predict(tuned), full)


def test_state_goes_round_and_another_rank_is_refused(tuned):
    state = adapters.adapter_state(tuned.unet)
    after = predict(tuned)
    tuned.attach_adapter(rank=2, alpha=6, generator=rng(3))
    adapters.load_adapter_state(tuned.unet, state)
    assert torch.equal(predict(tuned), after)
    tuned.attach_adapter(rank=3, alpha=6, generator=rng(3))
    with pytest.raises(UserError, match="other rank"):
        adapters.load_adapter_state(tuned.unet, state)


def test_a_saved_adapter_makes_the_same_image_in_plain_diffusers(tuned, folder, tmp_path):
    """Loaded with ``pipe.load_lora_weights`` only: alpha is three times the rank, so a lost alpha would show."""
    adapters.save_adapter(tuned.unet, tmp_path)
    prompt = Prompt("p", "a red cat")
    (ours,) = generate(tuned, [prompt], [0], SamplerSpec("ddim", n_steps=4, guidance=3.0))
    with quiet():
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        noise = Noise([image_seed(prompt, 0)]).initial((4, 8, 8), torch.float32, torch.device("cpu"))

        def plain():
            out = pipe(prompt.text, latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="pt")
            return out.images[0]

        base = plain()
        pipe.load_lora_weights(str(tmp_path))
        assert torch.allclose(plain(), ours.image, atol=1e-5)
        assert not torch.allclose(base, ours.image, atol=1e-3)


def test_a_saved_adapter_loads_back_and_a_broken_file_is_named(tuned, tmp_path):
    adapters.save_adapter(tuned.unet, tmp_path)
    other = random_pipeline(0)
    adapters.load_adapter(other.unet, tmp_path)
    assert torch.equal(predict(other), predict(tuned))
    path = tmp_path / "pytorch_lora_weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="pytorch_lora_weights"):
        adapters.load_adapter(other.unet, tmp_path)


def test_building_models_leaves_the_global_generators_alone(folder):
    before = torch.get_rng_state()
    random_pipeline(3)
    load_model(str(folder))
    assert torch.equal(torch.get_rng_state(), before)
