"""ImageReward: the published layout against a second forward pass, the folded head, gradients, foreign files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import published_imagereward as published
import pytest
import torch
import torch.nn.functional as F

from bench.core.errors import UserError
from rewards.expression import load_reward
from rewards.imagereward import MEAN, N_TOKENS, SD, ImageReward, folded_head, vision_weights

PROMPTS = ["a red circle", "blue squares and a circle", "a " * 50]


@pytest.fixture(scope="module")
def state() -> published.State:
    return published.random_state()


@pytest.fixture(scope="module")
def folder(state: published.State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.save(tmp_path_factory.mktemp("models") / "ImageReward", state)


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Path:
    return published.save_vocabulary(folder.parent / "bert-base-uncased")


@pytest.fixture(scope="module")
def reward(folder: Path, vocabulary: Path) -> ImageReward:
    return ImageReward(folder, vocabulary)


def pictures(n: int, height: int = published.SIDE, width: int = published.SIDE) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def oracle(state: published.State, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """The published score in float64: words by hand, CLIP's mean and deviation."""
    words = {word: i for i, word in enumerate(published.VOCABULARY)}
    ids = torch.zeros(len(prompts), N_TOKENS, dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        pieces = [p for word in prompt.split() for p in ([word] if word in words else [word.removesuffix("s"), "##s"])]
        said = [words["[CLS]"], *[words[p] for p in pieces][: N_TOKENS - 2], words["[SEP]"]]
        row[: len(said)] = torch.tensor(said)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64).view(3, 1, 1)
    exact = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    return published.forward(exact, (images.double() - mean) / std, ids, (ids > 0).long())


def test_the_published_layout_gives_the_published_score(reward: ImageReward, state: published.State) -> None:
    images = pictures(3)
    expected = oracle(state, images, PROMPTS)
    assert expected.std() > 0.1  # otherwise agreement would say little
    torch.testing.assert_close(reward.score(images, PROMPTS).double(), expected, rtol=0, atol=1e-5)
    # both inputs count, and the words' order
    swapped = oracle(state, images, [PROMPTS[1], PROMPTS[0], PROMPTS[2]])
    assert (expected[:2] - swapped[:2]).abs().min() > 1e-3


def test_images_of_other_sizes_are_resized_and_cut_to_the_middle(reward: ImageReward, state: published.State) -> None:
    """Resize(side) of the shorter edge, CenterCrop(side), as torchvision does it on tensors."""
    images = pictures(2, 48, 96)
    small = F.interpolate(images, size=(32, 64), mode="bicubic", antialias=True).clamp(0, 1)[..., 16:48]
    expected = oracle(state, small, PROMPTS[:2])
    torch.testing.assert_close(reward.score(images, PROMPTS[:2]).double(), expected, rtol=0, atol=1e-5)


def test_the_folded_head_is_the_chain(state: published.State) -> None:
    weight, bias = folded_head(state)
    h = torch.randn(50, published.TEXT_WIDTH, generator=torch.Generator().manual_seed(2))
    chain = h
    for place in published.HEAD_PLACES:
        chain = F.linear(chain, state[f"mlp.layers.{place}.weight"], state[f"mlp.layers.{place}.bias"])
    torch.testing.assert_close(h @ weight + bias, chain[:, 0], rtol=1e-6, atol=1e-5)
    exact = {k: v.double() for k, v in state.items()}
    w64 = exact[f"mlp.layers.{published.HEAD_PLACES[0]}.weight"]
    c64 = exact[f"mlp.layers.{published.HEAD_PLACES[0]}.bias"]
    for place in published.HEAD_PLACES[1:]:
        a, b = exact[f"mlp.layers.{place}.weight"], exact[f"mlp.layers.{place}.bias"]
        w64, c64 = a @ w64, a @ c64 + b
    torch.testing.assert_close(weight.double(), w64[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bias.double(), c64[0], rtol=1e-6, atol=1e-6)


def test_the_head_of_the_published_size_folds_too() -> None:
    rng = torch.Generator().manual_seed(3)
    state = {}
    for place, n_in, n_out in ((0, 768, 1024), (2, 1024, 128), (4, 128, 64), (6, 64, 16), (7, 16, 1)):
        state[f"mlp.layers.{place}.weight"] = torch.randn(n_out, n_in, generator=rng) / n_in**0.5
        state[f"mlp.layers.{place}.bias"] = torch.randn(n_out, generator=rng)
    weight, bias = folded_head(state)
    h = torch.randn(9, 768, generator=rng)
    chain = h.double()
    for place in (0, 2, 4, 6, 7):
        chain = F.linear(chain, *(state[f"mlp.layers.{place}.{part}"].double() for part in ("weight", "bias")))
    torch.testing.assert_close((h.double() @ weight.double() + bias.double()), chain[:, 0], rtol=0, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences(folder: Path, vocabulary: Path) -> None:
    reward = ImageReward(folder, vocabulary)
    reward.model.double()
    image = pictures(1, 40, 40).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(image, PROMPTS[:1]).sum(), image)
    way = torch.randn(image.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        up, down = (reward.score(image + s * step * way, PROMPTS[:1]).item() for s in (1, -1))
    assert (gradient * way).sum().item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_a_score_does_not_depend_on_its_batch(reward: ImageReward) -> None:
    images = pictures(3)
    alone = torch.cat([reward.score(images[k : k + 1], PROMPTS[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(reward.score(images, PROMPTS), alone, rtol=0, atol=1e-5)


def test_long_prompts_are_cut_at_35_tokens_and_counted(reward: ImageReward) -> None:
    images = pictures(1)
    short, long = " ".join(["a"] * 33), " ".join(["a"] * 34)
    assert reward.n_truncated([short, long, long, "a"]) == 1
    assert torch.equal(reward.score(images, [short]), reward.score(images, [long]))


def test_it_is_found_by_name(folder: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(folder.parent))
    named = load_reward("imagereward")
    assert (named.name, named.family, named.minimise) == ("imagereward", "BLIP", False)
    assert len(named.weights_sha256) == 64
    assert (MEAN, SD) == (0.16717362830052426, 1.0333394966054072)


# -- files that are not it


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("/tmp/imagereward-was-run"),))


def damaged(folder: Path, state: published.State, what: str) -> None:
    weights = folder / "ImageReward.pt"
    match what:
        case "no weights":
            weights.unlink()
        case "no config":
            (folder / "med_config.json").unlink()
        case "no vocabulary":
            (folder.parent / "bert/vocab.txt").unlink()
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:5000])
        case "pickle":
            weights.write_bytes(pickle.dumps({"blip": Evil()}))
        case "other model":
            torch.save({"visual.weight": torch.zeros(2)}, weights)
        case "unknown weight":
            torch.save({**state, "blip.visual_encoder.blocks.0.gamma": torch.zeros(2)}, weights)
        case "missing weight":
            torch.save({k: v for k, v in state.items() if "blocks.1.norm1" not in k}, weights)
        case "wrong shape":
            torch.save({**state, "blip.text_encoder.encoder.layer.0.output.dense.bias": torch.zeros(3)}, weights)
        case "no head":
            torch.save({k: v for k, v in state.items() if not k.startswith("mlp")}, weights)
        case "bad config":
            (folder / "med_config.json").write_text("{")
        case "other config":
            (folder / "med_config.json").write_text(json.dumps({"num_attention_heads": 3}))
        case "big vocabulary":
            (folder.parent / "bert/vocab.txt").write_text("\n".join([*published.VOCABULARY, *"bcdefghi"]))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no weights", "no ImageReward.pt"),
        ("no config", "no med_config.json"),
        ("no vocabulary", "holds no tokenizer"),
        ("truncated", r"ImageReward\.pt is cut off"),
        ("pickle", "would run code that it names"),
        ("other model", "holds no ImageReward"),
        ("unknown weight", r"blocks\.0\.gamma"),
        ("missing weight", "Missing key|cannot be read"),
        ("wrong shape", "cannot be read"),
        ("no head", "no weights mlp"),
        ("bad config", "med_config.json cannot be read"),
        ("other config", "lacks"),
        ("big vocabulary", "has 20 words"),
    ],
)
def test_what_is_wrong_with_the_files_is_said(state: published.State, tmp_path: Path, what: str, says: str) -> None:
    folder, vocabulary = published.save(tmp_path / "ImageReward", state), published.save_vocabulary(tmp_path / "bert")
    damaged(folder, state, what)
    with pytest.raises(UserError, match=says):
        ImageReward(folder, vocabulary).prepare()
    assert not Path("/tmp/imagereward-was-run").exists()


def test_every_vision_weight_has_a_place(state: published.State) -> None:
    names = {k for k in state if k.startswith("blip.visual_encoder.")}
    assert len(vision_weights(state)) == len(names)
