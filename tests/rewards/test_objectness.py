"""Objectness against transformers' own detector and preprocessing, gradients, classes, files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_owlvit import N_TOKENS, PATCH, SIDE, save_random_owlvit

from bench.core.errors import UserError
from rewards.expression import canonical, load_reward
from rewards.objectness import Objectness


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_owlvit(tmp_path_factory.mktemp("models") / "owlvit-base-patch32")


def images(n: int = 3, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("class_", ["book", "cat"])
def test_it_is_the_highest_score_of_transformers_own_detector(folder: Path, class_: str) -> None:
    reward = Objectness(folder, class_)
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)([class_] * 3, padding="max_length", max_length=N_TOKENS,
                                                   return_tensors="pt")  # fmt: skip
    x = images()
    logits = reward.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
                          pixel_values=reward.preprocess(x)).logits  # fmt: skip
    assert logits.shape == (3, (SIDE // PATCH) ** 2, 1)
    expected = logits[..., 0].sigmoid().amax(1)
    torch.testing.assert_close(reward.measure(x, [""] * 3), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(reward.score(x, [""] * 3), -expected, rtol=0, atol=1e-6)
    assert expected.std() > 1e-4


def test_preprocessing_is_the_published_one_to_rounding(folder: Path) -> None:
    """PIL rounds to 8 bits after each of its two passes, a differentiable path does not: 1.2 grey levels at most here,
    0.3 on average."""
    from transformers import OwlViTImageProcessorPil

    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((60, 45), Image.Resampling.BICUBIC)
    theirs = OwlViTImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt").pixel_values
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    reward = Objectness(folder)
    ours = reward.preprocess(x)
    assert ours.shape == theirs.shape == (1, 3, SIDE, SIDE)
    levels = (ours - theirs).abs() * torch.tensor(reward.preprocess.std).view(3, 1, 1) * 255
    assert levels.max() < 2
    assert levels.mean() < 0.4


def test_the_gradient_is_that_of_finite_differences(folder: Path) -> None:
    reward = Objectness(folder)
    reward.model.double()  # before the query is embedded
    x = images(1, 24, 40).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(x, [""]).sum(), x)
    assert gradient.abs().max() > 0
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    step = 1e-7
    with torch.no_grad():
        up, down = (reward.score(x + s * step * way, [""]).item() for s in (1, -1))
    assert (gradient * way).sum().item() == pytest.approx((up - down) / (2 * step), rel=1e-5)


def test_climbing_it_takes_the_object_away(folder: Path) -> None:
    reward = Objectness(folder)
    x = images(2)
    first = reward.measure(x, ["", ""])
    for _ in range(20):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(x, ["", ""]).sum(), x)
        x = (x + 0.02 * gradient.sign()).clamp(0, 1).detach()
    assert (reward.measure(x, ["", ""]) < first - 0.01).all()


def test_a_score_does_not_depend_on_its_batch_or_its_prompt(folder: Path) -> None:
    reward = Objectness(folder)
    x = images()
    alone = torch.cat([reward.score(x[k : k + 1], ["a dog, and books"]) for k in range(3)])
    torch.testing.assert_close(reward.score(x, ["", "a", "b"]), alone, rtol=0, atol=1e-6)


def test_the_class_is_an_argument_and_part_of_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(folder.parent))
    book, cat, rack = (load_reward(text) for text in
                       ("objectness", "objectness(class=cat)", "objectness( class = tie rack )"))  # fmt: skip
    assert [r.name for r in (book, cat, rack)] == ["objectness-book", "objectness-cat", "objectness-tie-rack"]
    assert book.identity() != cat.identity()
    assert canonical("0.5*objectness( class = cat )+symmetry") == "0.5*objectness(class=cat) + symmetry"
    with pytest.raises(UserError, match="no argument 'klass'") as err:
        load_reward("objectness(klass=cat)")
    assert err.value.valid == "class"
    with pytest.raises(UserError, match="longer than 10 tokens"):
        load_reward("objectness(class=bookcases and shelves)").score(images(1), [""])


@pytest.mark.parametrize("what", ["truncated", "no weights", "no preprocessor", "no tokenizer"])
def test_damaged_folders_are_user_errors(folder: Path, tmp_path: Path, what: str) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    weights = bad / "model.safetensors"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:2000])
    elif what == "no weights":
        weights.unlink()
    elif what == "no preprocessor":
        (bad / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5]}))
    else:
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
            (bad / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=str(bad)):
        Objectness(bad).prepare()
