"""Time and memory of an update of every path-gradient tuner: ``python -m benchmarks.tuners``

The tuner's own update with three ways to its gradient: the rollout engine, one full autograd graph, and the full graph
with each U-Net call checkpointed. All run in this process, in turn, on the same draws, so a ratio is of one round and a
busy machine slows all three. Memory is the peak of live tensors that the update made (on a GPU: allocated bytes).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import tuners.online
from bench.core.budget import Budget, Ledger
from bench.core.contract import make_config
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.context import TuningContext
from bench.diffusion.meters import Meters
from bench.diffusion.models import BaseModel, load_model
from bench.diffusion.reference import LiveBytes, full_graph_gradients
from bench.diffusion.rollout import accumulate_gradients
from rewards.expression import load_reward
from tuners.alignprop import AlignProp
from tuners.draft import DRaFT
from tuners.drtune import DRTune
from tuners.online import OnlineTuner
from tuners.refl import ReFL

WAYS: Mapping[str, Callable[..., Any]] = {
    "engine": accumulate_gradients,
    "full": full_graph_gradients,
    "checkpointed": functools.partial(full_graph_gradients, checkpointed=True),
}
PRESETS = {preset: cls for cls in (ReFL, DRTune, DRaFT, AlignProp) for preset in cls.presets}
TEXTS = ["a red circle", "two blue squares on a table", "a green triangle left of a yellow circle", "three small cats"]


def make_tuner(
    cls: type[OnlineTuner], settings: Mapping[str, Any], model: BaseModel, args: argparse.Namespace, **sampler: Any
) -> OnlineTuner:
    spec = SamplerSpec("ddim", **{"n_steps": args.steps, "guidance": 4.0, **sampler})
    ledger = Ledger(Budget(denoiser_u=1e15))
    ctx = TuningContext(
        model=model, train_prompts=[Prompt(str(k), text) for k, text in enumerate(TEXTS)], sampler=spec,
        global_batch=args.batch, micro_batch=args.batch, rewards=lambda name: load_reward(name, str(model.device)),
        default_reward=args.reward, meters=Meters(model, ledger.charge), ledger=ledger, seed=0,
        work_dir=Path(tempfile.gettempdir()),
    )  # fmt: skip
    tuner = cls(make_config(cls, settings), ctx)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():  # away from B = 0, where half of the gradients vanish
        for p in tuner.parameters:
            p.add_(0.02 * torch.randn(p.shape, generator=g).to(p))
    return tuner


@contextmanager
def gradients_by(way: str) -> Iterator[None]:
    with patch.object(tuners.online, "accumulate_gradients", WAYS[way]):
        yield


def gradient(tuner: OnlineTuner, way: str, update: int) -> torch.Tensor:
    for p in tuner.parameters:
        p.grad = None
    tuner.update = update
    with gradients_by(way):
        tuner.accumulate(tuner.path(update))
    return torch.cat([p.grad.flatten() for p in tuner.parameters if p.grad is not None])


def peak_bytes(tuner: OnlineTuner, way: str, update: int) -> int:
    """Of an update that was made before: its gradients, encoded texts and FLOP counts are there."""
    tuner.update = update
    with gradients_by(way):
        if tuner.ctx.model.device.type != "cuda":
            with LiveBytes() as live:
                tuner.accumulate(tuner.path(update))
            return live.peak
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        tuner.accumulate(tuner.path(update))
        return torch.cuda.max_memory_allocated() - before


def seconds(tuner: OnlineTuner, way: str, update: int) -> float:
    """Of a whole update, optimiser step and all."""
    tuner.update = update
    start = time.perf_counter()
    with gradients_by(way):
        tuner.unit()
    if tuner.ctx.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(preset: str, model: BaseModel, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one preset; the updates are its first whose draw trains a step, the same for each way."""
    cls = PRESETS[preset]
    tuner = make_tuner(cls, cls.presets[preset], model, args)
    T = tuner.sampler.n_steps
    updates = list(itertools.islice((u for u in itertools.count() if tuner.path(u).n_trained(T)), args.rounds))
    largest = max(updates, key=lambda u: tuner.path(u).n_trained(T))
    ours = gradient(tuner, "engine", largest)
    # a hinge that the reward has passed leaves nothing to compare
    norm = float(ours.norm()) or None
    row: dict[str, Any] = {"preset": preset, "trained": tuner.path(largest).n_trained(T)}
    for way in WAYS:
        row[f"{way}_error"] = norm and float((gradient(tuner, way, largest) - ours).norm()) / norm
        row[f"{way}_bytes"] = peak_bytes(tuner, way, largest)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for k, update in enumerate(updates):
        order = list(WAYS)[k % 3 :] + list(WAYS)[: k % 3]  # none always follows the same one
        for way in order:
            times[way].append(seconds(tuner, way, update))
    row |= {f"{way}_s": statistics.median(values) for way, values in times.items()}
    for way in ("full", "checkpointed"):
        ratios = [a / b for a, b in zip(times["engine"], times[way], strict=True)]
        row[f"ratio_{way}"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return row


def growth(model: BaseModel, args: argparse.Namespace) -> list[dict[str, int]]:
    """The engine's peak against trained steps K and sampler steps T, and the full graph's."""
    rows = []
    for T, K in [*((20, K) for K in (1, 5, 10, 20)), (10, 5), (50, 5)]:
        tuner = make_tuner(DRaFT, {"K": K}, model, args, n_steps=T)
        gradient(tuner, "engine", 0)
        rows.append({"T": T, "K": K, **{way: peak_bytes(tuner, way, 0) for way in WAYS}})
    return rows


def report(result: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"Model {result['model']}, reward {result['reward']}, T = {result['T']}, batch {result['batch']}, "
        f"guidance 4, {result['device']}, {result['threads']} threads, torch {torch.__version__}; "
        f"{result['rounds']} rounds, median [least, most].",
        "",
        "| preset | trained | s/update engine | full | checkpointed | engine ÷ full | engine ÷ checkpointed "
        "| peak MB engine | full | checkpointed | largest relative difference of gradients |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["presets"]:
        ratios = ["{:.2f} [{:.2f}, {:.2f}]".format(*row[f"ratio_{way}"]) for way in ("full", "checkpointed")]
        times = [f"{row[f'{way}_s']:.2f}" for way in WAYS]
        sizes = [f"{row[f'{way}_bytes'] / 1e6:.1f}" for way in WAYS]
        errors = [row[f"{way}_error"] for way in WAYS]
        error = "no gradient" if None in errors else f"{max(errors):.0e}"
        cells = [f"`{row['preset']}`", str(row["trained"]), *times, *ratios, *sizes, error]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Peak MB of DRaFT-K against K and T:",
        "",
        "| T | K | engine | full | checkpointed |",
        "|---|---|---|---|---|",
    ]
    for row in result["growth"]:
        sizes = [f"{row[way] / 1e6:.1f}" for way in WAYS]
        lines.append(f"| {row['T']} | {row['K']} | {' | '.join(sizes)} |")
    return "\n".join(lines)


def chosen(names: str) -> Sequence[str]:
    return list(PRESETS) if names == "all" else names.split(",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", default="all", help=f"all, or some of {', '.join(PRESETS)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="tiny-sd", help="name or folder")
    parser.add_argument("--reward", default="tiny-pick")
    parser.add_argument("--steps", type=int, default=20, help="sampler steps T")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="1 keeps a shared machine from timing its own waits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_model(args.model, device=args.device)
    result = {
        "model": model.source.name, "reward": args.reward, "T": args.steps, "batch": args.batch,
        "device": args.device, "threads": args.threads, "rounds": args.rounds,
        "presets": [measure(preset, model, args) for preset in chosen(args.presets)],
        "growth": growth(model, args),
    }  # fmt: skip
    if args.json:
        json.dump(result, sys.stdout, indent=1)
    else:
        print(report(result))


if __name__ == "__main__":
    main()
