"""What full size costs on a GPU, with random weights: ``python -m benchmarks.gpu``; ``--tiny`` tries it on a CPU.

For SD1.5 at 512x512 and SDXL at 1024x1024, frozen weights in bfloat16: an update of DRTune's kind with K trained steps,
by the engine and by the full graph with checkpointing (seconds, peak memory, cosine of the two gradients), and images a
second of our generation against a plain diffusers loop. A batch that the device does not hold is halved, and the one
that fitted is told.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.execution import Execution
from bench.diffusion.generate import generate
from bench.diffusion.memory import free, is_out_of_memory
from bench.diffusion.models import BaseModel, quiet
from bench.diffusion.random_tiny import random_pipeline
from bench.diffusion.reference import LiveBytes, full_graph_gradients
from bench.diffusion.rollout import Path, accumulate_gradients
from bench.diffusion.samplers import Noise, build_sampler
from benchmarks.engine import adapted, loss
from benchmarks.full_size import full_size

UPDATES: dict[str, Callable[..., Any]] = {
    "engine": accumulate_gradients, "checkpointed": functools.partial(full_graph_gradients, checkpointed=True),
}  # fmt: skip


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """(seconds, peak bytes) of ``work``; on a CPU bytes are of tensors made inside."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start, torch.cuda.max_memory_allocated(device)
    start = time.perf_counter()
    with LiveBytes() as live:
        work()
    return time.perf_counter() - start, live.peak


def fitting(batch: int, work: Callable[..., Any]) -> tuple[int, Any]:
    """(batch, result) of the biggest half, quarter .. of ``batch`` that memory holds."""
    while True:
        try:
            return batch, work(batch)
        except Exception as err:
            if not is_out_of_memory(err) or batch == 1:
                raise
        free()
        batch //= 2
        print(f"out of memory: batch {batch} from here on", file=sys.stderr, flush=True)


def measure_update(model: BaseModel, n_steps: int, K: int, batch: int, rounds: int) -> dict[str, Any]:
    """Both ways of one update with the last K of ``n_steps`` training, alternating after a warm-up of two steps: a step
    is the same work at each of them."""
    texts = [f"picture {k}" for k in range(batch)]
    gradients: dict[str, torch.Tensor] = {}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in UPDATES}

    def update(name: str, T: int, K: int) -> None:
        sampler = build_sampler(model, SamplerSpec("ddim", n_steps=T, guidance=7.5))
        path = Path(frozenset(range(T - K, T)))
        for p in model.adapter_parameters:
            p.grad = None
        UPDATES[name](model, sampler, path, texts, Noise(range(batch)), loss)
        gradients[name] = torch.cat([p.grad.flatten().cpu() for p in model.adapter_parameters if p.grad is not None])

    for name in UPDATES:
        update(name, 2, 1)
    for _ in range(rounds):
        for name in UPDATES:
            seen[name].append(timed(functools.partial(update, name, n_steps, K), model.device))
    row: dict[str, Any] = {"K": K, "batch": batch}
    for name, figures_of in seen.items():
        row[f"{name}_s"] = statistics.median(s for s, _ in figures_of)
        row[f"{name}_gb"] = max(b for _, b in figures_of) / 1e9
    row["cosine"] = torch.nn.functional.cosine_similarity(*(g.double() for g in gradients.values()), dim=0).item()
    return row


def measure_generation(model: BaseModel, n_steps: int, batch: int, rounds: int) -> dict[str, Any]:
    """Images a second: ours, and plain diffusers' with the autoencoder in float32 as ours, then with everything in the
    denoiser's precision, which is how the model is left."""
    import diffusers

    prompts = [Prompt(f"p{k}", f"picture {k}") for k in range(batch)]

    def ours(n_steps: int = n_steps) -> None:
        spec = SamplerSpec("ddim", n_steps=n_steps, guidance=7.5)
        assert len(list(generate(model, prompts, [0], spec, batch_size=batch))) == batch

    with quiet():
        parts: dict[str, Any] = {"unet": model.unet, "vae": model.vae}
        for k, (tokenizer, encoder) in enumerate(model.family.encoders):
            suffix = f"_{k + 1}" if k else ""
            parts |= {f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": encoder}
        if model.family.name == "sd":
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        config = {k: v for k, v in model.scheduler_config.items() if not k.startswith("_")}
        pipe = getattr(diffusers, model.family.pipeline)(**parts, scheduler=diffusers.DDIMScheduler.from_config(config))
        pipe.set_progress_bar_config(disable=True)

    def plain(n_steps: int = n_steps) -> None:
        side = model.latent_shape()[1] * model.vae_factor
        out = pipe([p.text for p in prompts], num_inference_steps=n_steps, guidance_scale=7.5, output_type="latent",
                   height=side, width=side)  # fmt: skip
        latents = out.images.to(model.vae.dtype) / model.vae.config.scaling_factor
        images = (model.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        assert len(images.float().cpu()) == batch

    seconds: dict[str, list[float]] = {}
    for name, work in (("ours", ours), ("plain", plain), ("halved", plain)):
        # what the pipeline hands from part to part is of the denoiser's precision, the text encoders' too
        halved = model.family.text_encoders if name == "plain" else [model.vae] if name == "halved" else []
        for part in halved:
            torch.nn.Module.to(part, dtype=model.network_dtype)
        with torch.no_grad():
            work(2)  # the first call chooses kernels
            seconds[name] = [timed(work, model.device)[0] for _ in range(rounds)]
    rates = {f"{name}_images_s": batch / statistics.median(s) for name, s in seconds.items()}
    ratios = {f"ratio_to_{name}": rates["ours_images_s"] / rates[f"{name}_images_s"] for name in ("plain", "halved")}
    return {"batch": batch, **rates, **ratios}


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model."""
    start = time.perf_counter()
    if args.tiny:
        model = random_pipeline(0, torch.bfloat16, base="sd" if name == "sd15" else name)
    else:
        model = full_size(name, args.device, torch.bfloat16)
    Execution(dtype="bf16", gradient_checkpointing=args.gradient_checkpointing,
              vae_slicing=args.vae_slicing).apply(model)  # fmt: skip
    model = adapted(model)
    print(f"{name}: made in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    batch, updates = args.batch, []
    for K in args.K:
        batch, row = fitting(batch, functools.partial(measure_update, model, args.steps, K, rounds=args.rounds))
        updates.append(row)
        print(json.dumps({name: row}), file=sys.stderr, flush=True)
    _, generation = fitting(
        args.batch, functools.partial(measure_generation, model, args.steps, rounds=args.rounds)
    )  # fmt: skip
    n = sum(p.numel() for key, p in model.unet.named_parameters() if "lora_" not in key)
    side = model.latent_shape()[1] * model.vae_factor
    return {"model": name, "parameters": n, "side": side, "updates": updates, "generation": generation}


def show(result: dict[str, Any]) -> None:
    """The table of ``RESULTS.md``."""
    print(
        f"\n{result['device']}, torch {torch.__version__}, T = {result['steps']}, guidance 7.5, bf16, random weights\n"
    )
    print("| model | K | batch | s/update engine | checkpointed | peak GB engine | checkpointed | cosine |")
    print("|---|---|---|---|---|---|---|---|")
    for m in result["models"]:
        for r in m["updates"]:
            print(f"| {m['model']} {m['side']}² ({m['parameters'] / 1e6:.0f} M) | {r['K']} | {r['batch']} | "
                  f"{r['engine_s']:.2f} | {r['checkpointed_s']:.2f} | {r['engine_gb']:.2f} | "
                  f"{r['checkpointed_gb']:.2f} | {r['cosine']:.5f} |")  # fmt: skip
    print("\n| model | batch | images/s ours | plain diffusers | ratio | plain, autoencoder halved | ratio |\n"
          "|---|---|---|---|---|---|---|")  # fmt: skip
    for m in result["models"]:
        g = m["generation"]
        print(f"| {m['model']} | {g['batch']} | {g['ours_images_s']:.3f} | {g['plain_images_s']:.3f} | "
              f"{g['ratio_to_plain']:.2f} | {g['halved_images_s']:.3f} | {g['ratio_to_halved']:.2f} |")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--tiny", action="store_true", help="random models of a few thousand weights, 4 steps")
    parser.add_argument("--models", default="sd15,sdxl")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--K", type=lambda text: [int(k) for k in text.split(",")], default=[1, 5, 10])
    parser.add_argument("--gradient-checkpointing", action="store_true", help="inside of the U-Net and the decoder too")
    parser.add_argument("--vae-slicing", action="store_true", help="the decoder's backward image by image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.tiny:
        args.device, args.batch, args.steps, args.K, args.rounds = "cpu", 2, 4, [1, 2], 1
    results = []
    for name in args.models.split(","):
        results.append(measure(name, args))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        free()  # nothing refers to the model any more
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    result = {"device": device, "steps": args.steps, "models": results}
    if args.json:
        json.dump(result, sys.stdout, indent=1)
    else:
        show(result)


if __name__ == "__main__":
    main()
