"""No memory left: the micro-batch is halved, the global batch stays, and the result is that of the small one."""

import json

import pytest
import torch
from safetensors.torch import load_file

from bench.core.contract import Patch
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.generate import generate
from bench.diffusion.meters import denoiser_rows
from bench.diffusion.random_tiny import random_pipeline
from tests.engine.conftest import World

NEEDED = "CUDA out of memory. Tried to allocate 20.00 GiB."


@pytest.mark.slow
def test_a_run_that_does_not_fit_ends_as_one_with_a_small_micro_batch(world: World) -> None:
    done = world.alone(tuner="micro-crowded")
    assert done.returncode == 0, done.stderr
    assert f"out of memory ({NEEDED}): going on with micro-batches of 1; the global batch stays 2" in done.stderr
    assert "from now on 1 are sampled at once" in done.stderr
    found, folder = world.record("micro-crowded"), world.folder("micro-crowded")
    events = [json.loads(line) for line in (folder / "attempts" / "001" / "events.jsonl").read_text().splitlines()]
    assert any("micro-batches of 1" in event.get("text", "") for event in events)
    (entry,) = found["attempts"]
    assert found["provenance"]["micro_batch"] == 1
    # the rollout of the unit that did not fit: two samples, all its steps up to the first that trains, nothing else
    assert 0 < found["ledger"]["lost"]["denoiser_fwd"] <= 2 * 2 * 4
    assert found["ledger"]["lost"]["denoiser_bwd"] == 0
    assert entry["lost"]["denoiser_fwd"] == found["ledger"]["lost"]["denoiser_fwd"]
    assert found["ledger"]["spent"]["denoiser_u"] <= 600

    moved = folder.rename(folder.parent.parent / "first")
    again = world.alone("--micro-batch", "1", tuner="micro-crowded")
    assert again.returncode == 0, again.stderr
    assert "going on with" not in again.stderr
    small = world.record("micro-crowded")
    assert small["ledger"]["lost"]["denoiser_fwd"] == 0
    for kind in ("denoiser_fwd", "denoiser_bwd", "steps", "images"):
        assert small["ledger"]["spent"][kind] == found["ledger"]["spent"][kind]
    one, two = (load_file(root / "snapshots/f100/adapter/pytorch_lora_weights.safetensors")
                for root in (moved, world.folder("micro-crowded")))  # fmt: skip
    assert all(torch.equal(v, two[k]) for k, v in one.items())


@pytest.mark.slow
def test_processes_halve_together(world: World) -> None:
    """Only the second one's device is too small."""
    done = world.bench("run", "--suite", "micro.wide", "--tuner", "micro-hungry", "--set", "only_rank=1", "--model",
                       str(world.model), "--runs", str(world.runs), "--processes", "2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"out of memory (in process 2: {NEEDED}): going on with micro-batches of 1" in done.stderr
    (path,) = world.runs.glob("micro*/micro-hungry/*/record.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["provenance"]["micro_batch"], record["provenance"]["world_size"]) == ("done", 1, 2)


def test_one_sample_that_does_not_fit_ends_the_run_with_what_to_do(world: World) -> None:
    done = world.alone(tuner="micro-starving")
    assert done.returncode == 2
    assert f"out of memory on cpu with micro-batches of 1, the smallest: {NEEDED}" in done.stderr
    assert "--dtype bf16" in done.stderr
    assert "Traceback" not in done.stderr


def refuse_more_than(module, n):
    def check(module, args):
        if len(args[0]) > n:
            raise torch.OutOfMemoryError(NEEDED)

    return module.register_forward_pre_hook(check)


@pytest.mark.parametrize(("part", "rows"), [("unet", 4), ("decoder", 2)])
def test_generation_goes_on_with_as_many_images_as_fit(part, rows):
    """The images are those of a batch of that size, and an image's cost does not count what was in vain."""
    prompts, spec = [Prompt(f"p{k}", f"a thing {k}") for k in range(5)], SamplerSpec("ddim", n_steps=2, guidance=3.0)
    model, said = random_pipeline(0), []
    refuse_more_than(model.unet if part == "unet" else model.vae.decoder, rows)
    with denoiser_rows(model) as tally:
        made = list(generate(model, prompts, [0], spec, Patch(), batch_size=5, say=said.append))
    rows_run = tally.take()["denoiser_fwd"]
    small = list(generate(random_pipeline(0), prompts, [0], spec, Patch(), batch_size=2))
    assert [g.prompt.id for g in made] == [p.id for p in prompts]
    if part == "unet":
        assert all(torch.equal(a.image, b.image) for a, b in zip(made, small, strict=True))
        assert said == ["out of memory with 5 images at once: from now on 2 are sampled at once"]
    else:
        assert all(torch.allclose(a.image, b.image, atol=1e-6) for a, b in zip(made, small, strict=True))
        assert said == ["out of memory with 5 images at once: from now on 2 are decoded at once"]
        assert rows_run == 5 * 2 * 2  # nothing was sampled twice


def test_an_image_that_does_not_fit_alone_is_the_devices_own_error():
    model = random_pipeline(0)
    refuse_more_than(model.unet, 0)
    with pytest.raises(torch.OutOfMemoryError):
        list(generate(model, [Prompt("p", "a")], [0], SamplerSpec("ddim", n_steps=2), Patch()))
