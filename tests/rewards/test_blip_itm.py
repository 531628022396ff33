"""BLIP's matching head against transformers' own forward pass, gradients, batches, files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from random_blip import save_random_blip

from bench.core.errors import UserError
from rewards.blip import BlipItm
from rewards.expression import load_reward

PROMPTS = ["a red circle", "the blue square and a red cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_blip(tmp_path_factory.mktemp("models") / "blip-itm-base-coco")


def images(n: int = 2, side: int = 24) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3))


def test_it_is_transformers_own_matching_score(folder: Path) -> None:
    odds, probability = BlipItm(folder, "logit"), BlipItm(folder, "probability")
    x = images()
    for k, prompt in enumerate(PROMPTS):
        tokens = odds.tokenizer([prompt], return_tensors="pt")
        z = odds.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
                       pixel_values=odds.preprocess(x)[k : k + 1]).itm_score[0]  # fmt: skip
        one, text = x[k : k + 1], [prompt]
        assert odds.score(one, text).item() == pytest.approx((z[1] - z[0]).item(), abs=1e-5)
        assert probability.score(one, text).item() == pytest.approx(z.softmax(-1)[1].item(), abs=1e-6)
    assert odds.score(x, PROMPTS).std() > 1e-3


def test_the_gradient_is_that_of_finite_differences(folder: Path) -> None:
    reward = BlipItm(folder, "logit")
    reward.model.double()
    x = images(1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(x, PROMPTS[:1]).sum(), x)
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        up, down = (reward.score(x + s * step * way, PROMPTS[:1]).item() for s in (1, -1))
    assert (gradient * way).sum().item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_an_image_of_another_shape_is_seen_whole(folder: Path) -> None:
    """BLIP's processor squashes; CLIP's would cut the sides off."""
    from transformers import BlipImageProcessorPil

    wide = torch.zeros(1, 3, 24, 48)
    wide[..., :8] = 1  # what a crop to the middle would not see
    reward = BlipItm(folder)
    picture = Image.fromarray((wide[0] * 255).byte().permute(1, 2, 0).numpy())
    theirs = BlipImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt").pixel_values
    assert (reward.preprocess(wide) - theirs).abs().max() < 0.03  # 2 of 255 grey levels
    assert theirs.std() > 0.1


@pytest.mark.parametrize(
    "config", ["{", "{}", '{"size": {"shortest_edge": 16}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}',
               '{"size": 16, "image_mean": [0], "image_std": [1]}',
               '{"size": 16, "do_center_crop": true, "crop_size": 8, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}'],
)  # fmt: skip
def test_another_preprocessing_is_refused(folder: Path, tmp_path: Path, config: str) -> None:
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad/preprocessor_config.json").write_text(config)
    with pytest.raises(UserError, match="preprocess"):
        BlipItm(tmp_path / "bad")


@pytest.mark.parametrize("size", ["16", "[16, 16]", '{"height": 16, "width": 16}'])
def test_every_published_form_of_a_size_is_read(folder: Path, tmp_path: Path, size: str) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/preprocessor_config.json").write_text(
        f'{{"size": {size}, "crop_size": {size}, "do_center_crop": true, "image_mean": [0, 0, 0], '
        '"image_std": [1, 1, 1]}'
    )
    assert BlipItm(tmp_path / "copy").preprocess(images()).shape == (2, 3, 16, 16)


def test_batches_change_nothing_and_long_prompts_are_counted(folder: Path) -> None:
    reward = BlipItm(folder, "logit")
    x = images()
    alone = torch.cat([reward.score(x[k : k + 1], PROMPTS[k : k + 1]) for k in range(2)])
    torch.testing.assert_close(reward.score(x, PROMPTS), alone, rtol=0, atol=1e-5)
    assert reward.n_tokens == 12  # the random model has no more places
    assert reward.n_truncated(["a " * 11, "a " * 12, "a " * 12]) == 1


def test_both_are_found_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(folder.parent))
    plain, odds = load_reward("blip-itm"), load_reward("blip-itm(form=logit)")
    assert (plain.name, plain.family, odds.name) == ("blip-itm", "BLIP", "blip-itm-logit")
    assert plain.identity() != odds.identity()
    with pytest.raises(UserError, match="form = 'odds'"):
        load_reward("blip-itm(form=odds)")


@pytest.mark.parametrize("what", ["truncated", "no head", "no tokenizer", "no weights"])
def test_damaged_folders_are_user_errors(folder: Path, tmp_path: Path, what: str) -> None:
    from safetensors.torch import load_file, save_file

    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    weights = bad / "model.safetensors"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:2000])
    elif what == "no head":  # transformers would draw a random one and warn
        save_file({k: v for k, v in load_file(weights).items() if "itm_head" not in k}, weights, {"format": "pt"})
    elif what == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (bad / name).unlink()
    else:
        weights.unlink()
    with pytest.raises(UserError, match=str(bad)):
        BlipItm(bad, "probability").prepare()
