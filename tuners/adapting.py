"""What every tuner that trains an adapter shares: LoRA, AdamW, clipping, moving average, resume. How the gradient comes
about is each tuner's own file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bench.core.contract import Context, Patch, Setup, Tuner, setting
from bench.core.errors import Diverged
from bench.diffusion import adapters

PROTOCOL = "DRTune §4.1 (common protocol)"


@dataclass(frozen=True)
class AdapterConfig:
    """Settings common to all tuners; the defaults are DRTune's protocol, the same for all of them."""

    lr: float = setting(
        0.0, unit="1/step", source=PROTOCOL, low=0.0,
        help="learning rate of AdamW, constant; 0 takes the base model's (2e-5 for SD1.5)",
    )  # fmt: skip
    rank: int = setting(
        0, unit="", source=PROTOCOL, low=0, help="LoRA rank; 0 takes the base model's (128 for SD1.5)"
    )  # fmt: skip
    alpha: float = setting(
        0.0, unit="", source="not stated: alpha = rank", low=0.0, help="LoRA alpha; 0 takes the rank"
    )
    targets: str = setting(
        adapters.ATTENTION, unit="", source="not stated: attention, as HG-DPO's appendix and ReFL's code",
        choices=adapters.TARGETS, help="layers that LoRA goes on: q, k, v, out, and the feed-forward ones where asked",
    )  # fmt: skip
    beta1: float = setting(0.9, unit="", source=PROTOCOL, low=0.0, high=0.999999, help="AdamW's first moment decay")
    beta2: float = setting(0.999, unit="", source=PROTOCOL, low=0.0, high=0.999999, help="AdamW's second moment decay")
    weight_decay: float = setting(0.01, unit="", source="AdamW's default", low=0.0, help="AdamW's decoupled decay")
    optimizer: str = setting(
        "adamw", unit="", source="PyTorch / bitsandbytes", choices=("adamw", "adamw8bit"),
        help="adamw8bit keeps its moments in 8 bits, where bitsandbytes is installed",
    )  # fmt: skip
    clip: float = setting(
        0.1, unit="L2 norm", source=PROTOCOL, low=0.0,
        help="gradient norm above which an update is scaled down; 0 never scales",
    )  # fmt: skip
    ema: float = setting(
        0.0, unit="", source="ReFL's code; DRaFT+: 0.9999", low=0.0, high=1.0,
        help="decay of the moving average of the adapter that is evaluated instead of it; 0 keeps none",
    )  # fmt: skip
    adapter_scale: float = setting(
        1.0, unit="", source="HG-DPO: 0.5, DRTune on SDXL: 0.7", low=0.0, help="LoRA scale at inference"
    )


class AdapterTuner(Tuner):
    """A tuner whose result is a LoRA adapter on the U-Net."""

    def __init__(self, config: Any, ctx: Context) -> None:
        super().__init__(config, ctx)
        defaults = ctx.model.source.tuning_defaults
        rank = config.rank or int(defaults["rank"])
        self.parameters = ctx.model.attach_adapter(
            rank=rank, alpha=config.alpha or rank, generator=ctx.rng("adapter-init"), targets=config.targets
        )
        self.optimizer = _optimizer(config.optimizer)(
            self.parameters, lr=config.lr or float(defaults["lr"]), betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )  # fmt: skip
        self.average = [p.detach().clone() for p in self.parameters] if config.ema else []
        self.update = 0
        """Optimiser steps taken."""

    @classmethod
    def problems(cls, config: Any, setup: Setup) -> list[str]:
        problems = []
        if config.optimizer == "adamw8bit" and _bitsandbytes() is None:
            problems.append("optimizer = adamw8bit needs bitsandbytes: pip install bitsandbytes, or optimizer = adamw")
        return problems

    def patch(self) -> Patch:
        return Patch(adapter_scale=self.config.adapter_scale, hooks=tuple(self.sampling_hooks(self.config)))

    def step(self) -> dict[str, float]:
        """Sums the gradients over all devices, clips, steps the optimiser and the average; returns what to log.

        Raises:
            Diverged: the gradient is not finite; the adapter stays as it was.
        """
        # adapter gradients are summed by us: wrappers that do it by hooks miss re-runs (kvablack/ddpo-pytorch #10)
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.ctx.all_reduce([p.grad for p in self.parameters if p.grad is not None])
        # the norm before clipping is logged: clips of different papers are not comparable without it
        limit = self.config.clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit).item()
        if not torch.isfinite(torch.tensor(norm)):
            raise Diverged(f"the gradient norm of update {self.update} is {norm}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.update += 1
        if self.average:
            # a short average at first, so that the start at zero does not linger
            decay = min(self.config.ema, (1 + self.update) / (10 + self.update))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return {"grad_norm": norm, "clipped": float(norm > limit)}

    @contextmanager
    def snapshot_weights(self) -> Iterator[None]:
        if not self.average:
            yield
            return
        own = [p.detach() for p in self.parameters]
        kept = [p.clone() for p in own]
        torch._foreach_copy_(own, self.average)
        try:
            yield
        finally:
            torch._foreach_copy_(own, kept)

    def state_dict(self) -> dict[str, Any]:
        return {
            "update": self.update, "adapter": adapters.adapter_state(self.ctx.model.unet),
            "optimizer": self.optimizer.state_dict(), "average": [a.cpu() for a in self.average],
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.update = int(state["update"])
        adapters.load_adapter_state(self.ctx.model.unet, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for own, saved in zip(self.average, state["average"], strict=True):
                own.copy_(saved)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # type: ignore[import-not-found]
    except ImportError:
        return None
    return bitsandbytes


def _optimizer(name: str) -> Any:
    return torch.optim.AdamW if name == "adamw" else _bitsandbytes().optim.AdamW8bit
