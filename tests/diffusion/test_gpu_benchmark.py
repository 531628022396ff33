"""The GPU's benchmark, on a CPU with tiny models: it runs through, and its two ways of an update agree."""

import json

import pytest
import torch

from benchmarks import full_size, gpu
from rewards.expression import load_reward


def test_the_script_runs_and_its_gradients_agree(capsys):
    gpu.main(["--tiny", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert [m["model"] for m in result["models"]] == ["sd15", "sdxl"]
    for model in result["models"]:
        assert [row["K"] for row in model["updates"]] == [1, 2]
        for row in model["updates"]:
            assert row["cosine"] > 0.9999
            assert row["engine_s"] > 0 and row["engine_gb"] > 0
        assert model["generation"]["ratio_to_plain"] > 0 and model["generation"]["ratio_to_halved"] > 0
    gpu.show(result)
    assert "| sdxl 16² (" in capsys.readouterr().out


def test_a_batch_that_does_not_fit_is_halved():
    def work(batch):
        if batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch * 10

    assert gpu.fitting(8, work) == (2, 20)
    with pytest.raises(torch.OutOfMemoryError):
        gpu.fitting(8, lambda batch: work(100))


def test_the_random_reward_is_read_as_the_published_one(tmp_path, monkeypatch):
    """In HPS v2.1's layout, with towers of two blocks."""
    full_size.save_hps(tmp_path, "cpu", vision=(160, 2), text=(128, 2))
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    monkeypatch.setenv("TUNEBENCH_OTHER_WEIGHTS", "hps-v2.1")
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)).requires_grad_()
    score = load_reward("hps-v2.1").score(images, ["a cat", "two dogs"])
    (gradient,) = torch.autograd.grad(score.sum(), images)
    assert (score.abs() <= 1).all() and score[0] != score[1]
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_the_random_models_have_the_published_size():
    """Counted without memory: 859.5 M parameters in SD1.5's U-Net, 2,567 M in SDXL's."""
    import diffusers

    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in diffusers.UNet2DConditionModel(**config).parameters())
            for config in (full_size.SD15_UNET, full_size.SDXL_UNET)
        ]
    assert sizes[0] == 859_520_964
    assert sizes[1] == pytest.approx(2_567.5e6, rel=1e-3)
