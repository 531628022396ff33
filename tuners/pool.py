"""Images that a tuner draws from its own model and ranks: what HG-DPO and RAFT share.

A ``Pool`` is D prompts x N images of the base model, one shard a prompt, on disk in the run's work folder. A shard
holds the finished latents and the prompt's text condition, both in the model's own precision (float32: 64 KiB an image
at 512x512; half of it would be saved by float16, which rounds the very target that training regresses to), so training
needs neither the autoencoder nor the text encoder. Its name is a digest over all that determines its content; the
digest of its bytes is in the tuner's state. A shard that the state does not know of was written by a killed attempt
ahead of its checkpoint: it is drawn again, because its cost is not in the restored ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from bench.core.budget import Charge
from bench.core.contract import Context, Patch, Report
from bench.core.errors import UserError
from bench.core.identity import canonical_json, digest, plain
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion.generate import sample_latents
from bench.diffusion.samplers import Noise
from bench.store import atomic


def draw_cost(sampler: SamplerSpec, n_images: int) -> Charge:
    """Exactly what sampling ``n_images`` latents costs: no gradient, no decoding."""
    fwd = n_images * sampler.n_steps * (1 if sampler.guidance == 1 else 2)
    return Charge({"denoiser_fwd": fwd, "denoiser_u": fwd})


def score_cost(n_images: int) -> Charge:
    """Exactly what scoring ``n_images`` latents costs: a decoding and a reward call each."""
    return Charge({"images": n_images, "reward_calls": n_images})


def draw(ctx: Context, texts: Sequence[str], seeds: Sequence[int], patch: Patch) -> torch.Tensor:
    """Finished latents (n, C, h, w) on the CPU, one a text and seed, with the suite's training sampler."""
    out = torch.zeros((len(texts), *ctx.model.latent_shape(ctx.sampler.resolution)), dtype=ctx.model.dtype)
    mine = ctx.share(len(texts))
    with ctx.model.with_patch(patch):
        for lo in range(0, len(mine), ctx.micro_batch):
            part = list(mine[lo : lo + ctx.micro_batch])
            noise = Noise([seeds[k] for k in part])
            out[part] = sample_latents(ctx.model, [texts[k] for k in part], noise, ctx.sampler).cpu()
    ctx.all_reduce([out])  # every other process's part is zero here
    return out


@torch.no_grad()
def score(ctx: Context, latents: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
    """The run's reward of each latent's image, (n,) float32 on the CPU. Nothing is differentiated: any reward will do.

    Raises:
        UserError: a score that is not finite.
    """
    reward = ctx.reward()
    out = torch.zeros(len(texts))
    mine = ctx.share(len(texts))
    for lo in range(0, len(mine), ctx.micro_batch):
        part = list(mine[lo : lo + ctx.micro_batch])
        images = ctx.model.decode(latents[part].to(ctx.model.device)).float()
        out[part] = reward.score(images, [texts[k] for k in part]).float().cpu()
    ctx.all_reduce([out])
    if not torch.isfinite(out).all():
        raise UserError(f"reward {reward.name} is not finite for an image of {texts[int(out.isfinite().argmin())]!r}")
    return out


def training_prompts(ctx: Context) -> list[Prompt]:
    """All training prompts, each once, in the run's shuffled order."""
    n = 64
    while True:
        found = list({p.id: p for p in ctx.prompts(0, n)}.values())
        if len(found) < n:
            return found
        n *= 2


@dataclass(frozen=True)
class Shard:
    """One prompt's images."""

    latents: torch.Tensor
    """(N, C, h, w), finished."""
    cond: torch.Tensor
    """(L, D) text condition."""


class Pool:
    """D x N images of the base model, drawn and scored prompt by prompt.

    Args:
        prompts: the D prompts.
        n: images a prompt, N.
    """

    def __init__(self, ctx: Context, prompts: Sequence[Prompt], n: int) -> None:
        self.ctx = ctx
        self.prompts = tuple(prompts)
        self.n = n
        self.digests: list[str] = []
        """SHA-256 of each drawn shard's file."""
        self.scores = torch.zeros(0, n)
        """(scored prompts, N)"""
        source = ctx.model.source
        self._revision = source.pinned or source.revision()

    @property
    def n_drawn(self) -> int:
        return len(self.digests)

    @property
    def n_scored(self) -> int:
        return len(self.scores)

    def draw_cost(self) -> Charge:
        return draw_cost(self.ctx.sampler, self.n)

    def draw_next(self) -> Report:
        """Draws the next prompt's N images with the untouched base model and writes their shard."""
        ctx, d = self.ctx, self.n_drawn
        text = self.prompts[d].text
        latents = draw(ctx, [text] * self.n, self._seeds(d), Patch(adapter=False))
        cond = ctx.model.encode_prompts([text])[0].cpu()
        # one metadata key: the library does not keep several in order, and equal shards shall be equal bytes
        data = save({"latents": latents, "cond": cond}, metadata={"of": canonical_json(self._describe(d))})
        atomic.write_bytes(ctx.work_dir / self.shard_name(d), data)
        self.digests.append(hashlib.sha256(data).hexdigest())
        return Report({"prompts_drawn": self.n_drawn}, n_steps=0)

    def score_cost(self) -> Charge:
        return score_cost(self.n)

    def score_next(self) -> Report:
        """Scores the next prompt's N images."""
        d = self.n_scored
        s = score(self.ctx, self.read(d).latents, [self.prompts[d].text] * self.n)
        self.scores = torch.cat([self.scores, s[None]])
        return Report({
            "reward": s.mean().item(), "reward_best": s.max().item(), "gap": (s.max() - s.min()).item(),
            "prompts_scored": self.n_scored,
        }, n_steps=0)  # fmt: skip

    def shard_name(self, d: int) -> str:
        """File name of prompt d's shard: a digest over all that its content depends on."""
        return f"pool/{digest(self._describe(d), 32)}.safetensors"

    def read(self, d: int) -> Shard:
        """Prompt d's shard.

        Raises:
            UserError: the file is gone or not the one that was written.
        """
        path = self.ctx.work_dir / self.shard_name(d)
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != self.digests[d]:
            raise UserError(
                f"the image pool's shard {path} is {'damaged' if data else 'missing'}",
                valid="the file that this run wrote", hint="remove the run's folder and start it again",
            )  # fmt: skip
        tensors = load(data)
        return Shard(tensors["latents"], tensors["cond"])

    def state_dict(self) -> dict[str, Any]:
        return {"digests": list(self.digests), "scores": self.scores.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.digests = [str(d) for d in state["digests"]]
        self.scores = state["scores"].clone()

    def _seeds(self, d: int) -> list[int]:
        return [self.ctx.seed("pool", prompt=self.prompts[d].id, image=j) for j in range(self.n)]

    def _describe(self, d: int) -> dict[str, Any]:
        return {
            "model": self._revision, "dtype": str(self.ctx.model.dtype), "prompt": self.prompts[d].text,
            "sampler": plain(self.ctx.sampler), "n": self.n, "seeds": self._seeds(d),
        }  # fmt: skip
