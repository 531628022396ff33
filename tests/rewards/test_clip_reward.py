"""The CLIP reward on a random model: formulas, traps of libraries, gradients; also the stored weights if there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_clip import MAX_TOKENS, SIDE

from bench.core.errors import UserError
from bench.tiny import weights_dir
from rewards.clip import ClipReward, Preprocess
from rewards.expression import load_reward


@pytest.fixture(scope="module")
def cosine(clip_folder: Path) -> ClipReward:
    return ClipReward(clip_folder, "clip", "cosine", family="random")


def pictures(n: int, side: int = SIDE, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_cosine_is_transformers_own(cosine: ClipReward, clip_folder: Path) -> None:
    """Against CLIPModel's forward with the library's own image processor, 8-bit images of the network's size."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    pixels = (pictures(3) * 255).round().to(torch.uint8)
    prompts = ["ab", "c d", "xyz"]
    model = CLIPModel.from_pretrained(clip_folder).eval()
    text = CLIPTokenizer.from_pretrained(clip_folder)(prompts, padding=True, return_tensors="pt")
    files = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels]
    images = CLIPImageProcessorPil.from_pretrained(clip_folder)(files, return_tensors="pt")
    with torch.no_grad():
        expected = model(**text, **images).logits_per_image.diagonal()
    measured = cosine.measure(pixels.float() / 255, prompts)
    torch.testing.assert_close(measured * model.logit_scale.detach().exp(), expected, atol=1e-4, rtol=1e-5)
    pick = ClipReward(clip_folder, "pick", "pickscore", family="random")
    torch.testing.assert_close(pick.measure(pixels.float() / 255, prompts), expected, atol=1e-4, rtol=1e-5)
    assert measured.dtype == torch.float32


def test_resizing_is_pils_up_to_its_rounding(clip_folder: Path) -> None:
    from transformers import CLIPImageProcessorPil

    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 48 x 64: resize and crop
    theirs = CLIPImageProcessorPil.from_pretrained(clip_folder)([Image.fromarray(smooth)], return_tensors="pt")
    ours = Preprocess.read(clip_folder)(torch.from_numpy(smooth).permute(2, 0, 1)[None].float() / 255)
    assert ours.shape == (1, 3, SIDE, SIDE)
    levels = (ours - theirs["pixel_values"]).abs() * torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1) * 255
    assert levels.max() < 5
    assert levels.mean() < 0.6


def test_gradient_reaches_the_image_and_not_the_weights(cosine: ClipReward) -> None:
    images = pictures(2, side=24).requires_grad_()
    cosine.score(images, ["ab", "cd"]).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in cosine.model.parameters())


def test_climbing_the_gradient_raises_the_score(cosine: ClipReward) -> None:
    images = pictures(2)
    before = cosine.score(images, ["ab", "cd"])
    for _ in range(10):
        images.requires_grad_()
        (gradient,) = torch.autograd.grad(cosine.score(images, ["ab", "cd"]).sum(), images)
        images = (images + 0.02 * gradient.sign()).clamp(0, 1).detach()
    assert (cosine.score(images, ["ab", "cd"]) > before).all()


def test_long_prompts_keep_their_end_token_and_differ(cosine: ClipReward) -> None:
    """The trap of torchmetrics' CLIPScore: cut without the end token, all long prompts get one embedding."""
    long = ["abcdefghijklmnop", "zyxwvutsrqponmlk"]
    features = cosine.text_features(long)
    assert (features[0] - features[1]).abs().max() > 1e-3
    ids = cosine.tokenizer(long[0], truncation=True, max_length=MAX_TOKENS)["input_ids"]
    assert ids[-1] == cosine.tokenizer.eos_token_id
    assert cosine.n_truncated([*long, long[0], "ab"]) == 2


def test_scores_do_not_depend_on_the_batch(clip_folder: Path) -> None:
    images, prompts = pictures(5), ["ab", "abcdef", "c", "d e", "abcdefghijklmnop"]
    together = ClipReward(clip_folder, "clip", "cosine", family="random").measure(images, prompts)
    alone = ClipReward(clip_folder, "clip", "cosine", family="random")
    one_by_one = torch.cat([alone.measure(images[i : i + 1], [prompts[i]]) for i in reversed(range(5))]).flip(0)
    torch.testing.assert_close(together, one_by_one, atol=1e-6, rtol=0)
    backwards = ClipReward(clip_folder, "clip", "cosine", family="random").text_features(prompts[::-1]).flip(0)
    assert torch.equal(alone.text_features(prompts), backwards)


def test_a_prompt_is_encoded_once(cosine: ClipReward, monkeypatch: pytest.MonkeyPatch) -> None:
    cosine.text_features(["once"])
    monkeypatch.setattr(cosine.model, "get_text_features", lambda **_: pytest.fail("encoded again"))
    cosine.text_features(["once", "once"])


def test_cached_features_give_the_same_score(cosine: ClipReward) -> None:
    images, prompts = pictures(3), ["ab", "cd", "ef"]
    assert torch.equal(cosine.compare(cosine.image_features(images), prompts), cosine.measure(images, prompts))


def test_identity_follows_the_weights(clip_folder: Path, tmp_path: Path) -> None:
    from random_clip import save_random_clip

    other = save_random_clip(tmp_path / "other", seed=1)
    a, b = (ClipReward(folder, "clip", "cosine", family="random") for folder in (clip_folder, other))
    assert a.identity() != b.identity()
    assert a.network != b.network


def test_missing_weights_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights of reward 'clip' are missing"):
        ClipReward(tmp_path, "clip", "cosine", family="random")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        '{"size": 16, "image_mean": [0], "image_std": [1]}',
        '{"size": null}',
        '{"size": 8, "crop_size": 16, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}',
    ],
)
def test_bad_preprocessing_is_a_user_error(clip_folder: Path, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(clip_folder, folder)
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match="preprocess"):
        ClipReward(folder, "clip", "cosine", family="random")


def test_a_plain_number_as_size_is_read(clip_folder: Path, tmp_path: Path) -> None:
    config = {"size": 20, "crop_size": 16, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert Preprocess.read(tmp_path)(pictures(1, side=40)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "family"), [("tiny-clip", "tiny-pairs"), ("tiny-pick", "tiny-pairs"), ("tiny-judge", "tiny-judge")]
)
def test_the_stored_rewards_load(name: str, family: str) -> None:
    if not (weights_dir() / name / "model.safetensors").is_file():
        pytest.skip(f"{name} is not trained yet")
    reward = load_reward(name)
    images = pictures(2, side=64).requires_grad_()
    score = reward.score(images, ["a red circle", "a blue square"])
    score.sum().backward()
    assert (reward.name, reward.family, reward.minimise) == (name, family, False)
    assert score.shape == (2,)
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
