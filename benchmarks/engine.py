"""The rollout engine against the naive full graph: equality, memory, time. ``python -m benchmarks.engine``

Both run in this process, alternating, on the embedded model where its weights are present, else on a random one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.core.types import SamplerSpec
from bench.diffusion.models import BaseModel, load_model
from bench.diffusion.random_tiny import random_pipeline
from bench.diffusion.reference import SavedBytes, full_graph_gradients
from bench.diffusion.rollout import Path, accumulate_gradients
from bench.diffusion.samplers import SCHEDULERS, Noise, Sampler, build_sampler
from bench.tiny import weights_dir

Update = Callable[..., Any]
TEXTS = ["a red circle", "two blue squares on a table"]


def loss(images: torch.Tensor) -> torch.Tensor:
    """A smooth stand-in for a reward: neither linear nor symmetric."""
    weights = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype, device=images.device).view_as(images[0])
    first = (images * weights).mean((1, 2, 3))
    return (first + (images.square() * weights).mean((1, 2, 3)) ** 2).mean()


def adapted(model: BaseModel) -> BaseModel:
    """With an adapter away from its start, where half of the gradients would vanish."""
    rank = int(model.source.tuning_defaults["rank"])
    parameters = model.attach_adapter(rank=rank, alpha=rank, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.05 * torch.randn(p.shape, generator=g).to(p))
    return model


def gradient(update: Update, model: BaseModel, sampler: Sampler, path: Path) -> torch.Tensor:
    for p in model.adapter_parameters:
        p.grad = None
    update(model, sampler, path, TEXTS, Noise(range(len(TEXTS))), loss)
    return torch.cat([p.grad.flatten() for p in model.adapter_parameters if p.grad is not None])


def worst_error() -> float:
    """Worst relative gradient error in float64 over samplers, guidance, early stop and both switches."""
    model = adapted(random_pipeline(0, torch.float64))
    worst = 0.0
    for name in SCHEDULERS:
        for guidance in (1.0, 7.5):
            sampler = build_sampler(model, SamplerSpec(name, n_steps=5, guidance=guidance))
            for path in (
                Path(frozenset({1, 3})),
                Path(frozenset({1, 3}), 3),
                Path(frozenset({1, 2, 4}), None, through_input=True),
            ):
                ours = gradient(accumulate_gradients, model, sampler, path)
                naive = gradient(full_graph_gradients, model, sampler, path)
                worst = max(worst, float((ours - naive).norm() / naive.norm()))
    return worst


def measure(model: BaseModel, n_steps: int, trained: tuple[int, ...], rounds: int) -> list[dict[str, float]]:
    """Peak saved bytes and seconds of an update for each number of trained steps, engine and naive."""
    sampler = build_sampler(model, SamplerSpec("ddim", n_steps=n_steps, guidance=3.0))
    rows = []
    for K in trained:
        path = Path(frozenset(range(n_steps - K, n_steps)))
        row: dict[str, float] = {"K": K}
        seconds: dict[str, list[float]] = {"engine": [], "naive": []}
        for name, update in (("engine", accumulate_gradients), ("naive", full_graph_gradients)):
            with SavedBytes() as saved:
                gradient(update, model, sampler, path)
            row[f"{name}_bytes"] = saved.peak
        for _ in range(rounds):  # alternating, so that a busy machine slows both
            for name, update in (("engine", accumulate_gradients), ("naive", full_graph_gradients)):
                start = time.perf_counter()
                gradient(update, model, sampler, path)
                if model.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - start)
        for name, values in seconds.items():
            row[f"{name}_s"] = statistics.median(values)
        row["time_ratio"] = row["engine_s"] / row["naive_s"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="", help="name or folder; default tiny-sd if present")
    parser.add_argument("--steps", type=int, default=20, help="sampler steps T")
    parser.add_argument("--threads", type=int, default=1, help="1 keeps a shared machine from timing its own waits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = args.model or ("tiny-sd" if (weights_dir() / "tiny-sd").is_dir() else "")
    model = adapted(load_model(name, device=args.device) if name else random_pipeline(0))
    trained = tuple(k for k in (1, 5, 10, 20) if k <= args.steps)
    rows = measure(model, args.steps, trained, args.rounds)
    result = {
        "model": model.source.name, "T": args.steps, "batch": len(TEXTS), "threads": torch.get_num_threads(),
        "worst_relative_error_float64": worst_error(), "updates": rows,
    }  # fmt: skip
    if args.json:
        json.dump(result, sys.stdout, indent=1)
        return
    print(f"model {result['model']}, T = {args.steps}, batch {len(TEXTS)}, guidance 3, {result['threads']} threads")
    print(
        f"worst relative gradient error against the full graph, float64: {result['worst_relative_error_float64']:.1e}"
    )
    print(f"{'K':>3} {'saved MB engine':>16} {'naive':>8} {'s/update engine':>16} {'naive':>8} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['K']:>3} {row['engine_bytes'] / 1e6:>16.2f} {row['naive_bytes'] / 1e6:>8.2f} "
            f"{row['engine_s']:>16.3f} {row['naive_s']:>8.3f} {row['time_ratio']:>6.2f}"
        )


if __name__ == "__main__":
    main()
