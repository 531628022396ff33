"""A context on the random pipeline for tests that need a tuner object."""

from pathlib import Path

from bench.core.budget import Budget, Ledger
from bench.core.contract import Reward
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.context import TuningContext
from bench.diffusion.meters import Meters
from bench.diffusion.random_tiny import random_pipeline

_MODEL = []


class Red(Reward):
    """Mean of red minus mean of green."""

    name = "red"

    def measure(self, images, prompts):
        return images[:, 0].mean((1, 2)) - images[:, 1].mean((1, 2))


def context(n_steps=4, ledger=None, meters=None, work_dir=Path("unused"), **changes):
    """Shares one model among tests: each tuner attaches an adapter of its own."""
    if not _MODEL:
        _MODEL.append(random_pipeline(0))
    ledger = ledger or Ledger(Budget(denoiser_u=1e12))
    defaults = {
        "model": _MODEL[0], "train_prompts": [Prompt(str(k), f"text {k}") for k in range(6)],
        "sampler": SamplerSpec("ddim", n_steps=n_steps, guidance=3.0), "global_batch": 2, "micro_batch": 2,
        "rewards": lambda name: Red(), "default_reward": "red", "meters": meters or Meters(_MODEL[0], ledger.charge),
        "ledger": ledger, "seed": 0, "work_dir": work_dir,
    }  # fmt: skip
    return TuningContext(**{**defaults, **changes})
