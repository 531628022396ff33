"""Images for prompts and noise seeds: the one sampling path of evaluation, for base and tuned models alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from bench.core.contract import Patch
from bench.core.seeds import derive_seed
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.memory import Say, free, is_out_of_memory
from bench.diffusion.models import BaseModel
from bench.diffusion.samplers import Noise, Sampler, build_sampler, conditions, predict_eps


@dataclass(frozen=True)
class Batch:
    """What is being sampled: all that a hook needs to sample it once more in its own way."""

    model: BaseModel
    texts: Sequence[str]
    noise: Noise
    sampler: Sampler
    cond: torch.Tensor
    """Text conditions (B, L, D)."""
    uncond: torch.Tensor | None
    """Those of the empty prompt; None without guidance."""

    @property
    def spec(self) -> SamplerSpec:
        return self.sampler.spec

    def initial(self) -> torch.Tensor:
        """x_T before scaling (B, C, h, w)."""
        model = self.model
        return self.noise.initial(model.latent_shape(self.spec.resolution), model.dtype, model.device)


class SamplingHook(Protocol):
    """What a patch may do while sampling, beside its adapter. One object serves many batches, one after the other."""

    def begin(self, batch: Batch) -> None:
        """Before the first step of a batch."""
        ...

    def before_step(self, i: int) -> None:
        """Before the U-Net is called for step i."""
        ...

    def after_step(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """The latent (B, C, h, w) after step i, in place of the sampler's."""
        ...

    def end(self) -> None:
        """After the last step, also when sampling failed."""
        ...


@dataclass(frozen=True)
class Generated:
    """One image and what it is of."""

    prompt: Prompt
    seed: int
    image: torch.Tensor
    """(3, H, W) float32 in [0, 1], on the CPU."""


def image_seed(prompt: Prompt, seed: int) -> int:
    """The root of all of an image's noise: every tuner, batch size and machine draws the same for it."""
    return derive_seed(seed, "image", prompt=prompt.id)


@torch.no_grad()
def sample_latents(
    model: BaseModel, texts: Sequence[str], noise: Noise, spec: SamplerSpec, hooks: Sequence[SamplingHook] = ()
) -> torch.Tensor:
    """Finished latents (B, C, h, w) of one batch."""
    sampler = build_sampler(model, spec)
    return sample_batch(Batch(model, texts, noise, sampler, *conditions(model, sampler, texts)), hooks)


@torch.no_grad()
def sample_batch(batch: Batch, hooks: Sequence[SamplingHook] = ()) -> torch.Tensor:
    """Finished latents (B, C, h, w) of a batch whose texts are encoded; a hook may so sample its batch once more."""
    model, sampler = batch.model, batch.sampler
    walk = sampler.walk()
    x = walk.start(batch.initial())
    try:
        for hook in hooks:
            hook.begin(batch)
        for i in range(sampler.n_steps):
            for hook in hooks:
                hook.before_step(i)
            x = walk.step(i, predict_eps(model, sampler, i, x, batch.cond, batch.uncond), x, batch.noise)
            for hook in hooks:
                x = hook.after_step(i, x)
    finally:
        for hook in hooks:
            hook.end()
    return x


@torch.no_grad()
def generate(
    model: BaseModel, prompts: Sequence[Prompt], seeds: Sequence[int], sampler: SamplerSpec, patch: Patch | None = None,
    *, batch_size: int = 8, done: Collection[tuple[str, int]] = frozenset(), say: Say = lambda text: None,
) -> Iterator[Generated]:  # fmt: skip
    """Images in suite order, prompts outer and seeds inner. A batch that does not fit the device's memory is made in
    halves, and so are all after it.

    Args:
        say: is told of it.
        done: (prompt id, seed) of images that exist. A batch is skipped only as a whole: the last bits of a matrix
            product may depend on its batch, and a resumed run must repeat the uninterrupted one.
    """
    patch = patch or Patch()
    jobs = [(prompt, seed) for prompt in prompts for seed in seeds]
    with model.with_patch(patch):
        for lo in range(0, len(jobs), batch_size):
            batch = jobs[lo : lo + batch_size]
            if all((prompt.id, seed) in done for prompt, seed in batch):
                continue
            n_made = 0
            while n_made < len(batch):
                part = batch[n_made : n_made + model.fits.at_once("sampled", len(batch))]
                images = _try(lambda: _images(model, part, sampler, patch, say), model, "sampled", len(part), say)  # noqa: B023
                if images is not None:
                    yield from (Generated(*job, image) for job, image in zip(part, images, strict=True))
                    n_made += len(part)


def _images(
    model: BaseModel, jobs: Sequence[tuple[Prompt, int]], sampler: SamplerSpec, patch: Patch, say: Say
) -> torch.Tensor:
    """(B, 3, H, W) of prompts and noise seeds, on the CPU. What is sampled is not sampled again for want of memory to
    decode it."""
    noise = Noise([image_seed(prompt, seed) for prompt, seed in jobs])
    x = sample_latents(model, [prompt.text for prompt, _ in jobs], noise, sampler, patch.hooks)
    decoded: list[torch.Tensor] = []
    while (lo := sum(map(len, decoded))) < len(x):
        part = x[lo : lo + model.fits.at_once("decoded", len(x))]
        images = _try(lambda: model.decode(part).float().cpu(), model, "decoded", len(part), say)  # noqa: B023
        decoded += [] if images is None else [images]
    return torch.cat(decoded)


def _try(make: Callable[[], torch.Tensor], model: BaseModel, kind: str, n: int, say: Say) -> torch.Tensor | None:
    """What ``make`` makes of ``n`` images; None where memory ran out and fewer are to be tried."""
    try:
        return make()
    except Exception as err:
        if not (is_out_of_memory(err) and model.fits.halve(kind, n, say)):
            raise
    free()
    return None
