"""The training loop: killed and resumed equals uninterrupted; losses are finite; near misses are misses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.tiny import scorers, sd, train, vae, vqa
from bench.tiny.data import damage, labels, near_miss, spoil
from bench.tiny.language import caption_matches, describe_for_training
from bench.tiny.loop import Plan, draw, finished, fit
from bench.tiny.world import BACKGROUNDS, COLOURS, SHAPES, sample_split

TOY = Plan("toy", steps=4, batch=2, lr=1e-3, warmup=2, ema=0.9)


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_killed_stage_resumes_to_the_same_weights(tmp_path: Path) -> None:
    def run(folder: Path, stop_at: int | None = None) -> torch.Tensor:
        model = vqa.build()
        fit(TOY, model, lambda d: vqa.loss_of(model, None, d, 8), folder, stop_at=stop_at)
        return parameters(model)

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", stop_at=2)
    assert not finished(TOY, tmp_path / "cut")
    resumed = run(tmp_path / "cut")
    assert finished(TOY, tmp_path / "cut")
    assert torch.equal(whole, resumed)
    assert torch.equal(run(tmp_path / "cut"), whole)  # a finished stage is only loaded
    assert not torch.equal(whole, parameters(vqa.build()))


def test_draws_depend_on_stage_and_step_alone() -> None:
    a, b, c = draw("vae", 3), draw("vae", 3), draw("vae", 4)
    assert a.np.integers(1 << 30) == b.np.integers(1 << 30) != c.np.integers(1 << 30)
    assert torch.equal(torch.rand(3, generator=a.torch), torch.rand(3, generator=b.torch))


def test_code_inverts_what_it_keeps() -> None:
    code = vae.code()
    x = vae.pictures(draw("test", 0), 8) * 2 - 1
    z = code.encode(x)
    assert z.shape == (8, vae.LATENT_CHANNELS, 8, 8)
    assert 0.8 < float(z.std() / code.scale) < 1.2
    inverse = torch.linalg.pinv(code.basis)
    patches = z.permute(0, 2, 3, 1) @ inverse + code.mean
    x_hat = nn.functional.pixel_shuffle(patches.permute(0, 3, 1, 2), vae.PATCH)
    assert float((x_hat - x).square().mean() / x.var()) < 0.12


def test_losses_have_finite_gradients() -> None:
    model = scorers.Taught(scorers.build(scorers.JUDGE_TOWER))
    denoiser = sd.Denoiser()
    alpha_bar = sd.scheduler().alphas_cumprod
    autoencoder = vae.build()
    for loss, module in (
        (scorers.clip_loss(model, draw("test", 1), 4), model),
        (scorers.preference_loss(model, None, draw("test", 2), 4), model),
        (sd.loss_of(denoiser, alpha_bar, draw("test", 3), 2), denoiser),
        (vae.loss_of(autoencoder, draw("test", 3), 1), autoencoder),
    ):
        torch.autograd.backward(loss)
        assert torch.isfinite(loss)
        assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in module.parameters())


def test_near_misses_make_the_caption_false() -> None:
    rng = np.random.default_rng(1)
    same = 0
    for _ in range(300):
        scene = sample_split(rng, held=False)
        facts = describe_for_training(scene, rng, detail=0.7).facts
        same += caption_matches(near_miss(scene, facts, rng), facts)
    assert same <= 6  # an open attribute of another group may happen to make up for the change


def test_labels_name_what_is_there() -> None:
    rng = np.random.default_rng(2)
    scenes = [sample_split(rng, held=False) for _ in range(40)]
    truth = labels(scenes)
    for i, scene in enumerate(scenes):
        assert int(truth["there"][i].sum()) == len(scene.objects)
        assert BACKGROUNDS[int(truth["background"][i])] == scene.background
        for item in scene.objects:
            row, column = item.y // 8, item.x // 8
            assert SHAPES[int(truth["shape"][i, row, column])] == item.shape
            assert COLOURS[int(truth["colour"][i, row, column])] == item.colour
            assert 8 * (column + float(truth["dx"][i, row, column])) == pytest.approx(item.x)


def test_damage_is_mild_and_spoiling_is_not() -> None:
    images = vae.pictures(draw("test", 5), 20)
    mild, bad = damage(images, draw("test", 6)), spoil(images, draw("test", 7))
    for changed in (mild, bad):
        assert changed.shape == images.shape and float(changed.min()) >= 0 and float(changed.max()) <= 1
    assert float((mild - images).abs().mean()) < 0.6 * float((bad - images).abs().mean())


def test_command_line_refuses_unknown_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--stage", "gan"])
    assert "valid: vae, sd, clip, vqa, pick, judge, export" in capsys.readouterr().err
    assert replace(train.PLANS["sd"], steps=1).name == "sd"


def test_the_world_does_not_import_torch() -> None:
    import subprocess

    modules = "bench.tiny.world, bench.tiny.render, bench.tiny.questions, bench.tiny.reference"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
