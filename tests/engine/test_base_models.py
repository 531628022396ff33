"""Whole runs on SDXL's and SD3's classes: to the page, with what the record says of them; what a plan refuses."""

import json
import os
import subprocess
import sys

import pytest

from bench.core.errors import UserError
from bench.diffusion.random_tiny import save_random_pipeline
from bench.engine.devices import hardware
from bench.engine.options import Options
from bench.engine.plan import make_plan


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for base in ("sdxl", "sd3"):
        save_random_pipeline(root / base, base=base)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("name", "base"), [("sdxl", "sdxl"), ("sd35-medium", "sd3")])
def test_a_run_goes_to_the_page(name, base, folders, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "--suite", "coco", "--tuner", "drtune", "--model",
         f"{name}={folders / base}", "--limit", "2", "--budget", "denoiser_u=900", "--set", "lr=1e-3", "--set",
         "rank=2", "--fractions", "0,1", "--runs", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=580, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("coco-sample@*/drtune/*/record.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["spec"]["model"]) == ("done", name)
    assert record["ledger"]["spent"]["steps"] >= 1
    expected = "flow-euler" if base == "sd3" else "ddim"
    assert record["spec"]["sampler"]["scheduler"] == record["spec"]["train_sampler"]["scheduler"] == expected
    assert any("flow-euler instead of ddim" in note for note in record["notes"]) == (base == "sd3")
    # these encoders read 16 letters
    assert [s["n_truncated"] for s in record["snapshots"]] == [2, 2]
    assert any("2 of 2 prompts are longer" in note for note in record["notes"])
    assert [s["u_per_image"] for s in record["snapshots"]] == [40, 40]
    assert (tmp_path / "leaderboard" / "index.html").is_file()
    adapter = path.parent / "snapshots" / "f100" / "adapter" / "pytorch_lora_weights.safetensors"
    assert adapter.is_file()


def test_half_precision_is_in_the_provenance_and_not_in_the_id(world):
    done = world.alone("--dtype", "bf16", "--vae-slicing", "--budget", "steps=1")
    assert done.returncode == 0, done.stderr
    record = world.record()
    assert record["provenance"]["execution"] == {"dtype": "bf16", "vae_slicing": True}
    assert record["provenance"]["hardware"] == record["attempts"][0]["hardware"] == hardware("cpu") != ""
    plain = world.run("--budget", "steps=1")
    assert "already done" in plain.stderr
    assert record["run_id"] in plain.stderr


def plan(tuner, model, **more):
    return make_plan(Options(suite="coco", tuner=tuner, model=str(model), **more))


def test_attention_is_not_led_in_a_transformer(folders):
    found = plan("realigndiff-fine", folders / "sd3")
    assert any("realigndiff-fine leads the attention of a U-Net" in p for p in found.problems)
    with pytest.raises(UserError):
        found.to_start()
    assert not any("attention" in p for p in plan("realigndiff-coarse,drtune", folders / "sd3").problems)
    assert not any("attention" in p for p in plan("realigndiff-fine", folders / "sdxl").problems)


def test_a_model_whose_files_are_not_here_is_told_with_what_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = plan("drtune,realigndiff-fine", "sd35-medium")
    at = "stable-diffusion-3.5-medium at revision b940f670"
    assert any(at in p and "sd35-medium=FOLDER" in p for p in found.problems)
    assert any("leads the attention" in p for p in found.problems)
    assert {run.spec.sampler.scheduler for run in found.runs} == {"flow-euler"}


def test_slicing_a_transformers_attention_is_refused_before_anything_starts(folders, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "--suite", "coco", "--tuner", "drtune", "--model", str(folders / "sd3"),
         "--attention-slicing", "--dry-run", "--runs", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=580,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--vae-slicing" in done.stderr
