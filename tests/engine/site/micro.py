"""A third party's package: a suite, a metric and misbehaving tuners, all small enough for seconds."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from bench.core.budget import Budget
from bench.core.contract import Context, Measured, Metric, Phase, Report, Scene, Tuner, setting
from bench.core.errors import Diverged
from bench.core.identity import digest
from bench.core.types import Prompt, SamplerSpec, Suite, SuiteSpec
from tuners.drtune import DRTune


def suite(
    edition: str = "sample", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None
) -> Suite:
    """Three prompts, two seeds, four steps: a whole run in seconds. Variant ``many``: images for several batches;
    ``wide``: a global batch of four."""
    texts = ["a red circle", "a blue square", "two stars"]
    if variant == "many":
        texts += [f"{n} stars" for n in range(3, 70)]
    prompts = tuple(Prompt(f"p{i}", text) for i, text in enumerate(texts))
    train = tuple(Prompt(f"t{i}", f"a green thing {i}") for i in range(8))
    kept = prompts[:limit]
    spec = SuiteSpec(
        name="micro", edition="sample", version=1, variant=variant, title="Micro", source="tests", licence="Apache-2.0",
        n_prompts=len(kept), n_train_prompts=len(train), prompt_hash=digest(list(kept)),
        train_prompt_hash=digest(list(train)), sampler=SamplerSpec("ddim", 4, 3.0),
        train_sampler=SamplerSpec("ddpm", 4, 3.0), global_batch=4 if variant == "wide" else 2,
        budget=Budget(denoiser_u=600, hard_wall_s=120), eval_seeds=(0, 1), fractions=(0.0, 0.5, 1.0),
        metrics=("micro-mean",), reward="symmetry", model="tiny-sd", limit=limit,
    )  # fmt: skip
    return Suite(spec, kept, train)


class Mean(Metric):
    """Mean brightness: nothing anybody would tune for, and exact."""

    name = "micro-mean"
    higher_is_better = True
    when = "curve"

    def score(self, scene: Scene) -> list[Measured]:
        values = [float(image.float().mean() / 255) for batch in scene.tuned.batches(4) for image in batch]
        return [Measured("micro-mean", sum(values) / len(values), True, len(values), per_image=tuple(values))]


class Watched(Metric):
    """Mean brightness as a network would say it; notes in a file of the environment who asked for how many images."""

    name = "micro-watched"
    higher_is_better = True

    def score(self, scene: Scene) -> list[Measured]:
        values = tuple(map(float, self.ask(scene)))
        return [Measured("micro-watched", sum(values) / len(values), True, len(values), per_image=values)]

    def precompute(self, scene: Scene) -> None:
        self.ask(scene)

    def ask(self, scene: Scene) -> Any:
        def extract(batch: torch.Tensor) -> torch.Tensor:
            with Path(os.environ["MICRO_WATCH"]).open("a") as file:
                file.write(f"{os.getpid()} {len(batch)}\n")
            return batch.float().mean((1, 2, 3))[:, None] / 255

        return scene.tuned.features("micro-watched", extract)[:, 0]


@dataclass(frozen=True)
class Config:
    """When to misbehave."""

    at: int = setting(1, unit="units", source="tests", help="the unit that misbehaves", low=0)
    units: int = setting(5, unit="units", source="tests", help="how many there are", low=1)
    only_rank: int = setting(-1, unit="", source="tests", help="the process that misbehaves; -1 is every one", low=-1)


class Misbehaving(Tuner):
    """Counts units, then does something that a harness must survive."""

    Config = Config
    name = "micro-misbehaving"

    def __init__(self, config: Config, ctx: Context) -> None:
        super().__init__(config, ctx)
        ctx.model.attach_adapter(rank=2, alpha=2, generator=ctx.rng("adapter-init"))
        self.n = 0

    def phases(self) -> list[Phase]:
        return [Phase("misbehave", self.unit, lambda: self.n >= self.config.units)]

    def unit(self) -> Report:
        # of two samples the first process has number 0 and the second number 1
        if self.n == self.config.at and self.config.only_rank in (-1, self.ctx.share(2).start):
            self.misbehave()
        self.n += 1
        return Report({"reward": float(self.n)})

    def misbehave(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.n = int(state["n"])


class Sleeper(Misbehaving):
    """Never comes back from one of its units."""

    name = "micro-sleeper"

    def misbehave(self) -> None:
        time.sleep(3600)


class Failing(Misbehaving):
    """Raises in the middle of tuning."""

    name = "micro-failing"

    def misbehave(self) -> None:
        raise RuntimeError("out of ideas")


class Diverging(Misbehaving):
    """Produces non-finite numbers."""

    name = "micro-diverging"

    def misbehave(self) -> None:
        raise Diverged("the gradient norm is nan")


class Slow(Misbehaving):
    """Well behaved, half a second a unit: long enough for a checkpoint to be due."""

    name = "micro-slow"

    def unit(self) -> Report:
        time.sleep(0.5)
        self.n += 1
        return Report({"reward": float(self.n)})


class Unpicklable(Slow):
    """Keeps in its state what no checkpoint can hold."""

    name = "micro-unpicklable"

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n, "on_step": lambda: self.n}


class Exiting(Misbehaving):
    """Leaves without a word to Python, as code of a C library can."""

    name = "micro-exiting"

    def misbehave(self) -> None:
        os.write(2, b"written past Python\n")
        os._exit(7)


class Hungry(Misbehaving):
    """Runs out of memory with more than one sample at once."""

    name = "micro-hungry"

    def misbehave(self) -> None:
        if self.ctx.micro_batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation.")


class Starving(Misbehaving):
    """Runs out of memory even with one sample."""

    name = "micro-starving"

    def misbehave(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation.")


class Crowded(DRTune):
    """DRTune on a device that holds two samples without gradient and one with: two rows of the U-Net each."""

    name = "micro-crowded"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, config: Any, ctx: Context) -> None:
        super().__init__(config, ctx)
        if not ctx.model.unet._forward_pre_hooks:
            ctx.model.unet.register_forward_pre_hook(_few_rows)


def _few_rows(unet: Any, args: tuple[Any, ...]) -> None:
    if len(args[0]) > (2 if torch.is_grad_enabled() else 4):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation.")


class LateDiverging(Misbehaving):
    """Spends a sixth of the suite's budget a unit, then produces non-finite numbers."""

    name = "micro-late-diverging"

    def unit(self) -> Report:
        model = self.ctx.model
        with torch.no_grad():
            model.denoiser(torch.zeros(100, 4, 8, 8), torch.tensor(5), model.encode_prompts(["a"] * 100))
        return super().unit()

    def misbehave(self) -> None:
        raise Diverged("the gradient norm is nan")


class Unsynced(DRTune):
    """DRTune as scripts have it that step on an unwrapped module: no process sees another's gradients."""

    name = "micro-unsynced"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def step(self) -> dict[str, float]:
        kept, self.ctx = self.ctx, copy.copy(self.ctx)
        self.ctx.all_reduce = lambda tensors: None  # type: ignore[method-assign]
        try:
            return super().step()
        finally:
            self.ctx = kept


class Unhurried(DRTune):
    """DRTune at half a second a unit: long enough for a checkpoint to be due."""

    name = "micro-unhurried"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def unit(self) -> Report:
        time.sleep(0.5)
        return super().unit()
