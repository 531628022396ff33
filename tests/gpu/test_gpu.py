"""What a GPU does differently, on one: precision, memory that runs out, a clock that has to wait, a real compiler.

Everything else of the suite runs there too: ``--device auto`` takes the GPU.
"""

from __future__ import annotations

import json
import time
from pathlib import Path as File

import pytest
import torch

from bench.core.contract import ImageRef
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.execution import Execution
from bench.diffusion.generate import generate
from bench.diffusion.memory import free
from bench.diffusion.meters import Meters, Tally
from bench.diffusion.models import BaseModel, load_model
from bench.diffusion.random_tiny import save_random_pipeline
from bench.diffusion.reference import full_graph_gradients
from bench.diffusion.rollout import Path, accumulate_gradients
from bench.diffusion.samplers import Noise, build_sampler
from bench.metrics.images import ImagesOnDisk, write_index
from tests.engine.conftest import World

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")

BASES = ("sd", "sdxl", "sd3")
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("a cat", "two dogs", "red", "a very long walk"))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, File]:
    root = tmp_path_factory.mktemp("models")
    for base in BASES:
        save_random_pipeline(root / base, base=base)
    return {base: root / base for base in BASES}


def loaded(folder: File, device: str, how: Execution) -> BaseModel:
    model = how.load(str(folder), device)
    parameters = model.attach_adapter(rank=2, alpha=2, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1 * torch.randn(p.shape, generator=g).to(p))
    return model


def smooth(images: torch.Tensor) -> torch.Tensor:
    weights = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype, device=images.device).view_as(images[0])
    return (images * weights).mean((1, 2, 3)).sum() + (images.square() * weights).mean()


def gradient(model: BaseModel, accumulate=accumulate_gradients) -> torch.Tensor:
    name = "flow-euler" if model.family.flow else "ddim"
    sampler = build_sampler(model, SamplerSpec(name, n_steps=4, guidance=3.0))
    for p in model.adapter_parameters:
        p.grad = None
    accumulate(model, sampler, Path(frozenset({1, 3})), ["a cat", "two"], Noise([0, 1]), smooth)
    return torch.cat([p.grad.flatten().double().cpu() for p in model.adapter_parameters if p.grad is not None])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 1e-4), ("bf16", 0.05), ("fp16", 0.05)])
def test_gradients_are_those_of_the_full_graph(folders, base, dtype, bound):
    model = loaded(folders[base], "cuda", Execution(dtype))
    engine, naive = gradient(model), gradient(model, full_graph_gradients)
    assert torch.isfinite(engine).all() and engine.norm() > 0
    assert relative(engine, naive) < bound
    assert {p.dtype for p in model.adapter_parameters} == {torch.float32}


@pytest.mark.parametrize("base", BASES)
def test_a_gpu_computes_what_a_cpu_computes(folders, base):
    here, there = (loaded(folders[base], device, Execution("fp32")) for device in ("cpu", "cuda"))
    spec = SamplerSpec("flow-euler" if base == "sd3" else "ddim", n_steps=4, guidance=3.0)
    for a, b in zip(*(generate(model, PROMPTS, [0, 1], spec) for model in (here, there)), strict=True):
        assert (a.prompt.id, a.seed) == (b.prompt.id, b.seed)
        assert b.image.device.type == "cpu" and b.image.dtype == torch.float32
        assert (a.image - b.image).abs().max() < 0.02  # the decoder's convolutions are TF32's
    assert relative(gradient(there), gradient(here)) < 0.02


def test_an_image_does_not_depend_on_its_batch(folders):
    model = loaded(folders["sd"], "cuda", Execution("fp32"))
    spec = SamplerSpec("ddpm", n_steps=6, guidance=3.0)
    alone, together = (list(generate(model, PROMPTS, [0], spec, batch_size=n)) for n in (1, 4))
    for a, b in zip(alone, together, strict=True):
        assert (a.image - b.image).abs().max() < 0.01


def test_memory_that_runs_out_is_halved_and_the_images_stay(folders):
    model = loaded(folders["sd"], "cuda", Execution("fp32"))
    spec = SamplerSpec("ddim", n_steps=2, guidance=3.0, resolution=128)
    many = [Prompt(f"p{i}", "a cat") for i in range(32)]
    expected = [made.image for made in generate(model, many, [0], spec, batch_size=4)]
    free()
    said: list[str] = []
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64e6) / total)
    try:
        got = [made.image for made in generate(model, many, [0], spec, batch_size=32, say=said.append)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert said and all("out of memory with" in line for line in said)
    assert len(got) == len(many)
    for a, b in zip(expected, got, strict=True):
        assert (a - b).abs().max() < 0.02


@pytest.mark.parametrize("how", [{"attention_slicing": True}, {"vae_slicing": True}, {"gradient_checkpointing": True}])
def test_slices_change_no_gradient(folders, how):
    plain, sliced = (loaded(folders["sd"], "cuda", Execution("fp32", **more)) for more in ({}, how))
    assert relative(gradient(sliced), gradient(plain)) < 1e-3


# torch's compiler looks at .grad of what is no leaf, and says so
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning", "ignore::DeprecationWarning",
                            "ignore::FutureWarning", "ignore:.*TensorFloat32:UserWarning")  # fmt: skip
def test_the_real_compiler_is_off_the_clock_and_changes_rounding_only(folders):
    expected = gradient(loaded(folders["sd"], "cuda", Execution("fp32")))
    model = loaded(folders["sd"], "cuda", Execution("fp32", compile=True))
    first, second = Tally(), Tally()
    walls = []
    for tally in (first, second):
        start = time.perf_counter()
        meters = Meters(model, tally.charge)
        with meters, meters.clock():
            got = gradient(model)
        walls.append(time.perf_counter() - start)
        assert relative(got, expected) < 0.01
    a, b = first.take(), second.take()
    assert walls[0] > 3 * walls[1]  # it did compile
    assert a["device_s"] < 0.5 * walls[0]
    assert a["denoiser_fwd"] == b["denoiser_fwd"] and a["denoiser_bwd"] == b["denoiser_bwd"]


def test_the_clock_waits_for_the_gpu():
    """Work that is only queued is charged all the same."""
    from bench.diffusion.random_tiny import random_pipeline

    model = random_pipeline(0)
    model.device = torch.device("cuda")
    x = torch.randn(8192, 8192, device="cuda")
    tally = Tally()
    meters = Meters(model, tally.charge)
    torch.cuda.synchronize()
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    with meters, meters.clock():
        start.record()
        for _ in range(20):
            x = (x @ x).clamp(-1, 1)
        end.record()
    assert tally.take()["device_s"] > 0.95 * start.elapsed_time(end) / 1000 > 0.01


def test_features_are_a_cpus(tmp_path):
    """FID's network reads in whole float32: with TF32 its features would move by some 1e-3."""
    from PIL import Image

    from bench.core.errors import UserError
    from bench.core.identity import file_sha256
    from bench.metrics.extractors import Extractor
    from bench.metrics.requirements import inception_file

    try:
        inception_file()
    except UserError as err:
        pytest.skip(str(err))

    g = torch.Generator().manual_seed(0)
    refs = []
    for i in range(8):
        pixels = torch.rand(3, 8, 8, generator=g)
        wide = torch.nn.functional.interpolate(pixels[None], size=128, mode="bicubic")[0].clamp(0, 1)
        Image.fromarray((255 * wide).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
        refs.append(ImageRef(f"p{i}", 0, f"{i}.png", file_sha256(tmp_path / f"{i}.png")))
    folder = write_index(tmp_path, refs)
    found = {}
    for device in ("cpu", "cuda"):
        network = Extractor("pytorch-fid", device)
        found[device] = torch.from_numpy(ImagesOnDisk(folder, tmp_path / device).features(network.name, network))
    assert relative(found["cuda"], found["cpu"]) < 1e-4


def test_every_tuner_runs_to_its_record_on_the_gpu(tmp_path):
    world = World(File("unused"), tmp_path / "runs")
    done = world.bench("run", "--suite", "coco", "--tuner", "all", "--limit", "8", "--budget", "denoiser_u=6000",
                       "--fractions", "0,1", "--device", "cuda", "--metrics", "rewards,colour",
                       "--runs", str(world.runs))  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    records = [json.loads(path.read_text()) for path in world.runs.glob("coco*/*/*/record.json")]
    assert {record["spec"]["tuner"] for record in records} == {
        "alignprop", "draft", "drtune", "hgdpo", "raft", "realigndiff", "refl", "treereward",
    }  # fmt: skip
    for record in records:
        assert record["status"] == "done"
        assert record["ledger"]["spent"]["device_s"] > 0
        assert not [entry for entry in record["metrics"] if entry["error"]]


def test_a_model_loads_onto_the_gpu_in_each_precision(folders):
    for dtype, wanted in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        model = load_model(str(folders["sdxl"]), device="cuda", dtype=wanted)
        assert {p.dtype for p in model.unet.parameters()} == {wanted}, dtype
        assert {p.device.type for p in model.unet.parameters()} == {"cuda"}
        assert {p.dtype for p in model.vae.parameters()} == {torch.float32}
