"""The one training loop of the tiny models: seeded by step, saved often, resumable at any kill.

All randomness of update `k` comes from generators derived from (stage, k), so a run that was killed and resumed draws
the same batches and the same noise as one that was not.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

EMA_EVERY = 10
"""Averaging the weights every tenth update is enough and, at this size, visibly cheaper than every update."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast one stage trains."""

    name: str
    """Stage; also the file name of its checkpoint."""
    steps: int
    """Updates in all."""
    batch: int
    """Samples an update."""
    lr: float
    """Peak learning rate: linear warm-up over `warmup` updates, then linear to 0 at the last one."""
    warmup: int = 100
    """Updates."""
    weight_decay: float = 0.0
    ema: float | None = None
    """Decay of the weight average for each `EMA_EVERY` updates; None keeps no average."""
    clip: float = 1.0
    """Largest gradient norm."""


@dataclass(frozen=True)
class Draw:
    """Random generators of one update."""

    step: int
    np: np.random.Generator
    torch: torch.Generator


def draw(name: str, step: int) -> Draw:
    """Generators that depend on the stage and the step alone."""
    digest = hashlib.sha256(f"tiny/{name}/{step}".encode()).digest()
    seed = int.from_bytes(digest[:7], "big")
    return Draw(step, np.random.default_rng(seed), torch.Generator().manual_seed(seed))


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    plan: Plan,
    model: nn.Module,
    loss_of: Callable[[Draw], torch.Tensor],
    work: Path,
    *,
    save_every_s: float = 90.0,
    stop_at: int | None = None,
) -> nn.Module:
    """Minimise `loss_of` over the parameters of `model` and return it, with its averaged weights if the plan keeps any.

    Args:
        plan: length and learning rate.
        model: trained in place.
        loss_of: loss of one update as a scalar tensor, from that update's generators.
        work: folder of checkpoints; `<name>.pt` in it is continued from.
        save_every_s: seconds between checkpoints.
        stop_at: stop (and save) before this update, as a kill would; for tests.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{plan.name}.pt"
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.weight_decay)
    average = [p.detach().clone() for p in model.parameters()] if plan.ema is not None else []
    start, spent_s = 0, 0.0
    if path.exists():
        saved: dict[str, Any] = torch.load(path, map_location=device(), weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        average = saved["average"]
        start, spent_s = int(saved["step"]), float(saved["spent_s"])
    began = saved_at = shown_at = time.monotonic()
    running, counted = 0.0, 0

    def save(step: int) -> None:
        state = {
            "model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average,
            "step": step, "spent_s": spent_s + time.monotonic() - began,
        }  # fmt: skip
        partial = path.with_suffix(".tmp")
        torch.save(state, partial)
        os.replace(partial, path)

    for step in range(start, plan.steps):
        if step == stop_at:
            save(step)
            return model
        rate = plan.lr * min((step + 1) / max(plan.warmup, 1), 1.0) * (1 - step / plan.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = loss_of(draw(plan.name, step))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimiser.step()
        if plan.ema is not None and step % EMA_EVERY == 0:
            decay = min(plan.ema, (1 + step / EMA_EVERY) / (10 + step / EMA_EVERY))
            torch._foreach_lerp_(average, [p.detach() for p in model.parameters()], 1 - decay)
        running, counted = running + float(loss.detach()), counted + 1
        now = time.monotonic()
        if now - shown_at > 15 or step + 1 == plan.steps:
            pace = (now - began) / (step + 1 - start)
            print(
                f"{plan.name} {step + 1}/{plan.steps} loss {running / counted:.4f} lr {rate:.1e} "
                f"{pace:.3f} s/step, {pace * (plan.steps - step - 1) / 60:.1f} min left",
                flush=True,
            )
            running, counted, shown_at = 0.0, 0, now
        if now - saved_at > save_every_s:
            save(step + 1)
            saved_at = time.monotonic()
    if start < plan.steps:
        save(plan.steps)
    if average:
        with torch.no_grad():
            for p, mean in zip(model.parameters(), average, strict=True):
                p.copy_(mean)
    return model


def finished(plan: Plan, work: Path) -> bool:
    """Whether the checkpoint of a stage is the one after its last update."""
    path = work / f"{plan.name}.pt"
    return path.exists() and int(torch.load(path, map_location="cpu", weights_only=True)["step"]) >= plan.steps


def spent_s(name: str, work: Path) -> float:
    """Wall seconds a stage has trained, over all its attempts."""
    return float(torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)["spent_s"])
