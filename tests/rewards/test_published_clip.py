"""hps-v2, hps-v2.1, pickscore, clip-h14, clip-l14, aesthetic by name, on random models in their published layouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from random_published import JOINT, MAX_TOKENS, head_state, open_clip_state, vocabulary
from test_open_clip import encode_image, encode_text

from bench.core.errors import UserError
from rewards.aesthetic import AestheticReward, folded
from rewards.clip import ClipReward
from rewards.expression import load_reward
from rewards.hps import hps_v21
from rewards.preprocess import CLIP_MEAN, CLIP_STD

NAMES = ("hps-v2", "hps-v2.1", "pickscore", "clip-h14", "clip-l14", "aesthetic")
READ_THE_PROMPT = NAMES[:-1]
PROMPTS = ["a red circle", "a blue square, in the style of x"]


def pictures(n: int = 2, side: int = 256, seed: int = 0) -> torch.Tensor:
    """Smooth ones: noise has nothing that a resize keeps."""
    rng = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.rand(n, 3, 12, 12, generator=rng), size=(side, side), mode="bilinear")


@pytest.mark.parametrize("name", NAMES)
def test_scores_gradient_and_batches(name: str, published: Path) -> None:
    reward = load_reward(name)
    images = pictures().requires_grad_()
    score = reward.score(images, PROMPTS)
    (gradient,) = torch.autograd.grad(score.sum(), images)
    assert score.shape == (2,) and score.dtype == torch.float32
    assert torch.isfinite(gradient).all() and (gradient.abs().amax((1, 2, 3)) > 0).all()
    alone = torch.cat([reward.score(images[k : k + 1], PROMPTS[k : k + 1]) for k in range(2)])
    torch.testing.assert_close(score, alone, atol=1e-4, rtol=0)
    low, high = reward.value_range or (-torch.inf, torch.inf)
    assert ((score >= low) & (score <= high)).all()
    assert (reward.input_px, reward.licence != "", reward.cost_gmac > 0) == (224, True, True)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name: str, published: Path) -> None:
    """In float64, through the resize from another size."""
    reward = load_reward(name)
    assert isinstance(reward, ClipReward)
    reward.model.double()
    x = pictures(1, 240).double().mul(0.8).add(0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.measure(x, PROMPTS[:1]).sum(), x)
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = 1e-6
    with torch.no_grad():
        up, down = (reward.measure(x + s * h * way, PROMPTS[:1]).sum() for s in (1, -1))
    assert (gradient * way).sum().item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-5)


@pytest.mark.parametrize("name", READ_THE_PROMPT)
def test_the_feature_of_a_prompt_is_that_of_the_prompt_padded(name: str, published: Path) -> None:
    """The published ways fill up to 77 tokens; nothing behind the end token reaches it."""
    reward = load_reward(name)
    assert isinstance(reward, ClipReward)
    texts = [*PROMPTS, "", "a " * 100]
    padded = reward.tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    with torch.no_grad():
        out = reward.model.get_text_features(**padded)
        expected = F.normalize(out if isinstance(out, torch.Tensor) else out.pooler_output, dim=-1)
    torch.testing.assert_close(reward.text_features(texts), expected, atol=1e-6, rtol=0)


def test_a_tokeniser_that_ends_no_prompt_is_refused(published: Path) -> None:
    """transformers would take every prompt's feature at the same first token."""
    reward = load_reward("clip-h14")
    assert isinstance(reward, ClipReward)
    reward.prepare()
    end = reward.model.config.text_config.eos_token_id
    whole = reward.tokenizer(PROMPTS[:1], return_tensors="pt")
    assert int(whole.input_ids[0, -1]) == end
    cut = type(whole)({key: value[:, :-1] for key, value in whole.items()})
    reward.__dict__["tokenizer"] = lambda *args, **kwargs: cut
    with pytest.raises(UserError, match="without the model's end token"):
        reward.text_features(PROMPTS[:1])


@pytest.mark.parametrize("name", READ_THE_PROMPT)
def test_prompts_longer_than_the_tower_keep_their_end_token_and_differ(name: str, published: Path) -> None:
    reward = load_reward(name)
    assert isinstance(reward, ClipReward)
    long = [" ".join(letter for _ in range(100)) for letter in "ab"]
    a, b = reward.text_features(long)
    assert (a - b).abs().max() > 1e-3
    ids = reward.tokenizer(long[0], truncation=True, max_length=MAX_TOKENS).input_ids
    assert len(ids) == MAX_TOKENS and ids[-1] == vocabulary()["<|endoftext|>"]
    assert reward.n_truncated(long) == 2


def test_hps_is_its_checkpoint_in_open_clips_own_operations(published: Path) -> None:
    """From file to score, against the forward pass of tests/rewards/test_open_clip.py; image at the network's size."""
    state = {name: tensor.half().float() for name, tensor in open_clip_state(5).items()}
    images = pictures(2, 224)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    letters = vocabulary()
    ids = torch.zeros(2, MAX_TOKENS, dtype=torch.long)
    for row, prompt in zip(ids, ("ab", "cde f"), strict=True):
        words = [[*word[:-1], f"{word[-1]}</w>"] for word in prompt.split()]
        said = ["<|startoftext|>", *(token for word in words for token in word), "<|endoftext|>"]
        row[: len(said)] = torch.tensor([letters[token] for token in said])
    image, text = encode_image((images - mean) / std, state), encode_text(ids, state)
    expected = (F.normalize(image, dim=-1) * F.normalize(text, dim=-1)).sum(-1)
    torch.testing.assert_close(load_reward("hps-v2.1").measure(images, ["ab", "cde f"]), expected, atol=1e-5, rtol=0)


def test_hps_versions_are_two_networks_of_one_family(published: Path) -> None:
    old, new, pick = (load_reward(name, prepare=False) for name in ("hps-v2", "hps-v2.1", "pickscore"))
    assert old.family == new.family == pick.family == load_reward("clip-h14", prepare=False).family
    assert old.weights_sha256 != new.weights_sha256
    assert (old.score(pictures(), PROMPTS) - new.score(pictures(), PROMPTS)).abs().max() > 1e-3
    assert load_reward("aesthetic", prepare=False).family == load_reward("clip-l14", prepare=False).family != new.family


def test_pickscore_is_the_scaled_cosine(published: Path) -> None:
    reward = load_reward("pickscore")
    assert isinstance(reward, ClipReward)
    cosine = (reward.image_features(pictures()) * reward.text_features(PROMPTS)).sum(-1)
    expected = cosine * reward.model.logit_scale.exp()
    torch.testing.assert_close(reward.measure(pictures(), PROMPTS), expected, atol=1e-6, rtol=1e-6)


def test_aesthetic_is_its_layers_one_after_the_other_on_clip_l14s_embedding(published: Path) -> None:
    reward, backbone = load_reward("aesthetic"), load_reward("clip-l14")
    assert isinstance(reward, AestheticReward) and isinstance(backbone, ClipReward)
    x = backbone.image_features(pictures())
    state = head_state(6)
    for number in (0, 2, 4, 6, 7):
        x = x @ state[f"layers.{number}.weight"].T + state[f"layers.{number}.bias"]
    torch.testing.assert_close(reward.measure(pictures(), PROMPTS), x[:, 0], atol=2e-4, rtol=1e-5)
    assert torch.equal(reward.measure(pictures(), PROMPTS), reward.measure(pictures(), PROMPTS[::-1]))
    assert reward.tower == backbone.tower and reward.identity() != backbone.identity()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("layers.2.bias"),
        lambda s: s.update({"layers.2.weight": torch.zeros(3, 3)}),
        lambda s: s.update({"other": torch.zeros(1)}),
        lambda s: s.clear(),
        lambda s: [s.pop(f"layers.7.{kind}") for kind in ("weight", "bias")],
    ],
)
def test_another_head_is_refused(change) -> None:  # type: ignore[no-untyped-def]
    state = head_state(0)
    change(state)
    with pytest.raises(UserError, match="no aesthetic head"):
        folded(state, Path("head.pth"))


def test_a_head_of_another_tower_is_refused(published: Path, tmp_path: Path) -> None:
    torch.save(head_state(0, JOINT + 1), tmp_path / "head.pth")
    reward = AestheticReward(published / "clip-vit-large-patch14", tmp_path / "head.pth")
    with pytest.raises(UserError, match=f"reads {JOINT + 1} numbers and this CLIP gives {JOINT}"):
        reward.score(pictures(), PROMPTS)


def test_asking_what_a_reward_is_loads_no_weights(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.Module.__init__", lambda *_: pytest.fail("a network was built"))
    for name in NAMES:
        assert load_reward(name, prepare=False).identity()["weights_sha256"]


def test_the_shift_is_in_the_name_and_leaves_small_images_alone(published: Path) -> None:
    plain, shifted = hps_v21(), hps_v21(shift="random")
    assert (plain.name, shifted.name) == ("hps-v2.1", "hps-v2.1-shift")
    assert plain.identity() != shifted.identity() and plain.tower != shifted.tower
    assert torch.equal(plain.measure(pictures(2, 224), PROMPTS), shifted.measure(pictures(2, 224), PROMPTS))
    assert not torch.equal(plain.measure(pictures(2, 512), PROMPTS), shifted.measure(pictures(2, 512), PROMPTS))
    for wrong in ({"shift": "yes"}, {"resize": "nearest"}):
        with pytest.raises(UserError, match="valid: "):
            hps_v21(**wrong)


# -- bad files


def test_weights_that_are_not_the_published_ones_are_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNEBENCH_OTHER_WEIGHTS")
    with pytest.raises(
        UserError, match=r"HPS_v2.1_compressed.pt is not the file of xswu/HPSv2.*published one"
    ) as caught:
        load_reward("hps-v2.1")
    assert "TUNEBENCH_OTHER_WEIGHTS=hps-v2.1" in str(caught.value)
    assert "bench assets fetch hps-v2.1" in str(caught.value)
    load_reward("hps-v2")  # no digest of this one is known


@pytest.fixture
def broken(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to damage."""
    root = tmp_path / "broken"
    shutil.copytree(published, root)
    monkeypatch.setenv("TUNEBENCH_MODELS", str(root))
    return root


@pytest.mark.parametrize(
    ("name", "file"),
    [("hps-v2.1", "HPSv2/HPS_v2.1_compressed.pt"), ("pickscore", "PickScore_v1/model.safetensors"),
     ("clip-l14", "clip-vit-large-patch14/model.safetensors")],
)  # fmt: skip
def test_a_file_that_was_cut_off_is_named_before_anything_loads(name: str, file: str, broken: Path) -> None:
    path = broken / file
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=f"{path.name} is cut off"):
        load_reward(name, prepare=False)


class Code:
    """What a pickle could do to whoever loads it."""

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (exec, ("import builtins; builtins.ran_code_from_a_pickle = True",))


def test_a_checkpoint_that_runs_code_is_refused_unless_its_name_is_trusted(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    file = broken / "HPSv2" / "HPS_v2.1_compressed.pt"
    state = torch.load(file, weights_only=True)["state_dict"]
    torch.save({"state_dict": state, "extra": Code()}, file)
    with pytest.raises(UserError, match="would run code") as caught:
        load_reward("hps-v2.1")
    assert "TUNEBENCH_UNSAFE_PICKLE=hps-v2.1" in str(caught.value)
    assert not hasattr(builtins, "ran_code_from_a_pickle")
    monkeypatch.setenv("TUNEBENCH_UNSAFE_PICKLE", "pickscore, hps-v2.1")
    assert torch.isfinite(load_reward("hps-v2.1").score(pictures(), PROMPTS)).all()
    assert builtins.ran_code_from_a_pickle  # type: ignore[attr-defined]
    del builtins.ran_code_from_a_pickle  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", [{"model": {}}, {"state_dict": {"a": torch.zeros(1)}}])
def test_another_checkpoint_is_refused(content: dict[str, object], broken: Path) -> None:
    torch.save(content, broken / "HPSv2" / "HPS_v2.1_compressed.pt")
    with pytest.raises(UserError, match=r"no state_dict|no CLIP of open_clip's layout"):
        load_reward("hps-v2.1")


def test_weights_that_are_absent_are_not_drawn_at_random(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = broken / "PickScore_v1" / "model.safetensors"
    state = load_file(path)
    del state["visual_projection.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no weights for 1 tensors .* visual_projection.weight"):
        load_reward("pickscore")
