"""Caption rewards: the tiny world's likelihood and cosine, BLIP and BLIP-2 on random weights."""

import math

import numpy as np
import pytest
import torch
from random_blip import save_random_blip, save_random_blip2, save_random_blip2_texts

from bench.core.errors import UserError
from bench.tiny import weights_dir
from bench.tiny.language import describe
from bench.tiny.reader import Reader, ReaderConfig
from bench.tiny.render import render
from bench.tiny.world import Obj, Scene, relation, sample_scene
from rewards.caption import (
    Blip2Caption,
    Blip2CaptionCosine,
    BlipCosine,
    TinyCaption,
    TinyCaptionCosine,
    _stands,
    blip,
    log_count,
)
from rewards.expression import load_reward


def pictures(scenes):
    return torch.stack([torch.from_numpy(render(s)).permute(2, 0, 1).float() / 255 for s in scenes])


@pytest.fixture(scope="module")
def described():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(24)]
    return pictures(scenes), [describe(s, rng).text for s in scenes]


# -- the likelihood


@pytest.mark.parametrize("n_cells", [1, 2, 5, 8])
def test_the_count_is_the_poisson_binomial(n_cells):
    """Against the sum over all subsets."""
    rng = torch.Generator().manual_seed(0)
    q = torch.rand(2, n_cells, generator=rng, dtype=torch.float64)
    brute = torch.zeros(2, 5, dtype=torch.float64)
    for bits in range(2**n_cells):
        held = torch.tensor([(bits >> k) & 1 for k in range(n_cells)], dtype=torch.bool)
        if held.sum() <= 4:
            brute[:, held.sum()] += torch.where(held, q, 1 - q).prod(1)
    assert torch.allclose(log_count(q.log(), 4)[:, : n_cells + 1].exp(), brute[:, : n_cells + 1], rtol=1e-9)


def test_the_count_of_improbable_and_of_certain_cells_is_exact_and_has_a_gradient():
    log_q = torch.tensor([[-40.0, -50.0, -60.0], [0.0, 0.0, -50.0]], dtype=torch.float64, requires_grad=True)
    out = log_count(log_q, 2)
    assert out[0, 1].item() == pytest.approx(math.log(math.exp(-40) + math.exp(-50) + math.exp(-60)))
    assert out[1, 2].item() == pytest.approx(0, abs=1e-9)
    (grad,) = torch.autograd.grad(out[0, 1] + out[1, 1], log_q)
    assert torch.isfinite(grad).all()
    assert grad[0, 0] > 0.99


def test_relations_are_the_worlds():
    for dx in range(-9, 10):
        for dy in range(-9, 10):
            a, b = Obj("circle", "red", "small", "plain", dx, dy), Obj("star", "red", "small", "plain", 0, 0)
            d = torch.tensor([float(dx)]), torch.tensor([float(dy)])
            says = [name for name in ("left of", "right of", "above", "below") if _stands(name, *d)[0]]
            assert says == ([relation(a, b)] if relation(a, b) else [])


def test_true_captions_are_likely_and_others_are_not(described):
    images, prompts = described
    reward = load_reward("tiny-caption")
    own, other = reward.score(images, prompts), reward.score(images, prompts[1:] + prompts[:1])
    assert (own > -0.2).all()
    assert (own - other > 1).float().mean() > 0.9
    assert reward.differentiable and reward.family == "tiny-vqa"


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("a red circle to the left of a blue square", "a red circle to the right of a blue square"),
        ("a red circle and a blue square", "a blue circle and a red square"),
        ("a red circle and a blue square", "two red circles and a blue square"),
        ("a red circle and a blue square on the grass", "a red circle and a blue square on the sand"),
        ("a large red circle", "a small red circle"),
    ],
)
def test_each_kind_of_fact_counts(true, false):
    scene = Scene((Obj("circle", "red", "large", "plain", 16, 32), Obj("square", "blue", "large", "plain", 48, 30)),
                  "grass")  # fmt: skip
    reward = load_reward("tiny-caption")
    a, b = reward.score(pictures([scene, scene]), [true, false])
    assert a > b + 1


def test_the_gradient_is_that_of_finite_differences():
    """In float64 on a random reader, whose heads are soft; images of another size, so resizing counts too."""
    reward = TinyCaption(weights_dir() / "tiny-vqa")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reward.reader = Reader(ReaderConfig(width=16)).double().eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(5)
    x = torch.rand(2, 3, 40, 40, generator=rng, dtype=torch.float64, requires_grad=True)
    prompts = ["two red circles and a small striped star at night", "a blue ring above a green cross, anime style"]
    (grad,) = torch.autograd.grad(reward.measure(x, prompts).sum(), x)
    way = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    h = 1e-5
    with torch.no_grad():
        up, down = (reward.measure(x + s * h * way, prompts).sum() for s in (1, -1))
    assert (grad * way).sum().item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-6)
    assert grad.abs().max() > 0


def test_climbing_it_turns_a_picture_into_what_the_caption_says():
    """A few steps on pixels raise the likelihood of a false caption: the gradient leads somewhere."""
    scene = Scene((Obj("circle", "red", "large", "plain", 32, 32),), "grass")
    reward = load_reward("tiny-caption")
    x = pictures([scene]).requires_grad_()
    first = reward.score(x, ["a blue circle on the grass"])
    for _ in range(10):
        (grad,) = torch.autograd.grad(reward.score(x, ["a blue circle on the grass"]).sum(), x)
        x = (x + 0.02 * grad.sign()).clamp(0, 1).detach().requires_grad_()
    assert reward.score(x, ["a blue circle on the grass"]) > first + 2


def test_a_score_does_not_depend_on_its_batch(described):
    images, prompts = described
    reward = load_reward("tiny-caption")
    together = reward.score(images[:4], prompts[:4])
    alone = torch.cat([reward.score(images[k : k + 1], prompts[k : k + 1]) for k in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_a_prompt_of_another_world_is_refused(described):
    with pytest.raises(UserError, match="a cat on a sofa"):
        load_reward("tiny-caption").score(described[0][:1], ["a cat on a sofa"])


# -- the cosine


def test_the_literal_reward_is_a_black_box_that_prefers_the_own_prompt(described):
    images, prompts = described
    reward = load_reward("tiny-caption-cosine")
    own, other = reward.score(images, prompts), reward.score(images, prompts[1:] + prompts[:1])
    assert isinstance(reward, TinyCaptionCosine) and not reward.differentiable
    assert (own > other).float().mean() > 0.9
    assert (own.abs() <= 1 + 1e-6).all()


def test_the_caption_says_what_is_seen():
    scene = Scene((Obj("star", "red", "large", "plain", 32, 32),), "sand", "night", "anime")
    reward = load_reward("tiny-caption-cosine")
    seen = pictures([scene])
    assert reward.captions(seen) == ["an anime drawing of one large plain red star on the sand at night"]
    assert reward.captions(torch.full((1, 3, 64, 64), 0.5)) == ["a picture"]
    assert reward.score(seen, reward.captions(seen)).item() == pytest.approx(1, abs=1e-5)


# -- published models


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_random_blip2(root / "blip2-opt-2.7b")
    save_random_blip2_texts(root / "blip2-itm-vit-g")
    save_random_blip(root / "blip-itm-base-coco")
    return root


PROMPTS = ["a red circle", "the blue square and a red cat"]


def images(n=2, side=24):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3))


def test_blip2s_likelihood_is_its_own_loss(folders):
    """With the labels on the prompt's tokens, transformers' loss is minus ours."""
    reward = Blip2Caption(folders / "blip2-opt-2.7b")
    x = images().requires_grad_()
    score = reward.score(x, PROMPTS)
    pixels = reward.preprocess(x)
    for k, prompt in enumerate(PROMPTS):
        ids = torch.tensor([[3, 3, 3, *reward.tokenizer(prompt).input_ids]])
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < 4, -100)
        loss = reward.model(pixel_values=pixels[k : k + 1], input_ids=ids, labels=labels).loss
        assert score[k].item() == pytest.approx(-loss.item(), rel=1e-5)
    score.sum().backward()
    assert x.grad.abs().amax((1, 2, 3)).min() > 0


def test_blip2s_captions_are_text_and_their_cosine_is_a_black_box(folders):
    reward = Blip2CaptionCosine(folders / "blip2-opt-2.7b", folders / "blip2-itm-vit-g")
    said = reward.captioner.captions(images())
    assert len(said) == 2 and not any("<image>" in text for text in said)
    assert not reward.differentiable
    assert reward.score(images(), said) == pytest.approx(torch.ones(2), abs=1e-5)
    assert (reward.score(images(), PROMPTS).abs() <= 1 + 1e-6).all()


def test_blips_cosine_is_its_own_contrastive_score(folders):
    reward = BlipCosine(folders / "blip-itm-base-coco")
    x = images().requires_grad_()
    score = reward.score(x, PROMPTS)
    for k, prompt in enumerate(PROMPTS):
        tokens = reward.tokenizer([prompt], return_tensors="pt")
        out = reward.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
                           pixel_values=reward.preprocess(x)[k : k + 1], use_itm_head=False)  # fmt: skip
        assert score[k].item() == pytest.approx(out.itm_score.item(), rel=1e-5)
    score.sum().backward()
    assert x.grad.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("name", ["blip-itm-base-coco", "blip2-opt-2.7b"])
def test_files_that_lack_weights_or_a_tokenizer_are_user_errors(folders, tmp_path, name):
    """transformers draws absent weights at random, and makes an empty tokenizer, without an error."""
    import shutil

    from safetensors.torch import load_file, save_file

    make = {"blip-itm-base-coco": BlipCosine, "blip2-opt-2.7b": Blip2Caption}[name]
    lacking, dumb = tmp_path / "lacking", tmp_path / "dumb"
    shutil.copytree(folders / name, lacking)
    shutil.copytree(folders / name, dumb)
    weights = load_file(lacking / "model.safetensors")
    gone = next(key for key in weights if key.endswith("layer_norm1.weight"))
    save_file({k: v for k, v in weights.items() if k != gone}, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="has no weights for 1 tensors"):
        make(lacking)
    (dumb / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        make(dumb)


def test_published_models_are_found_by_the_environment_or_refused_with_what_is_missing(folders, monkeypatch):
    monkeypatch.delenv("TUNEBENCH_MODELS", raising=False)
    with pytest.raises(UserError, match=r"blip-itm-base-coco.*not on this machine"):
        blip()
    monkeypatch.setenv("TUNEBENCH_MODELS", str(folders))
    for name in ("blip", "blip2-caption", "blip2-caption-cosine"):
        assert torch.isfinite(load_reward(name).score(images(), PROMPTS)).all()
