"""RealignDiff's stage 2 as a sampling hook: sample, look, and sample again from the same noise along a plan.

    x_T -> stage 1 -> picture -> plan (tags, scores, captions, masks)
    x_T -> stage 2 with the prompt and the local captions as text; in the first steps the conditional rows' attention
           follows the plan

Stage 1 is sampled by the hook itself, with whatever patch is on: an image costs twice its U-Net evaluations, a decode,
and whatever the parts cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bench.diffusion.generate import Batch, sample_batch
from bench.diffusion.models import BaseModel
from tuners.realign.modulation import Modulation, Regions, install
from tuners.realign.plan import Plan


class MakesPlans(Protocol):
    """What the hook asks for plans: ``parts.Planner``, or plans that are already there."""

    def plan(self, images: torch.Tensor, prompts: Sequence[str]) -> list[Plan]:
        """A plan for each picture (B, 3, H, W) in [0, 1]."""
        ...


@dataclass(frozen=True)
class FineSettings:
    """Constants of stage 2; see ``RealignDiffConfig``."""

    cross: float = 1.0
    own: float = 0.3
    power: float = 5.0
    share: float = 0.3
    outside: float = 0.0
    literal: bool = False
    repeat: bool = False
    alone: bool = False


class FineRealignment:
    """Samples every batch a second time along what its first pictures show (``SamplingHook``)."""

    def __init__(self, planner: MakesPlans, settings: FineSettings) -> None:
        self.planner = planner
        self.settings = settings
        self.plans: list[Plan] = []
        """Of the batch that is being sampled, or was sampled last."""
        self.texts: list[str] = []
        """What its stage 2 is conditioned on."""
        self._unet: Any = None
        self._before: dict[str, Any] = {}
        self._text_hook: Any = None

    def begin(self, batch: Batch) -> None:
        model = batch.model
        first = model.decode(sample_batch(batch))
        self.plans = self.planner.plan(first.float(), batch.texts)
        spoken = [speak(model, plan, repeat=self.settings.repeat) for plan in self.plans]
        self.texts = [s.text for s in spoken]
        cond = torch.stack([embed(model, s, alone=self.settings.alone) for s in spoken])
        self._timesteps = batch.sampler.timesteps
        size = model.latent_shape(batch.spec.resolution)[1:]
        self._text, self._pooled = model.split(cond)
        regions = regions_of(spoken, self._text, self.settings.outside)
        self._state = Modulation(regions, size, literal=self.settings.literal)
        self._unet = model.unet
        self._text_hook = model.unet.register_forward_pre_hook(self._with_captions, with_kwargs=True)
        self._before = install(model.unet, self._state)

    def before_step(self, i: int) -> None:
        if i < self.settings.share * len(self._timesteps):
            fading = (float(self._timesteps[i]) / 1000) ** self.settings.power
            self._state.cross_strength = self.settings.cross * fading
            self._state.self_strength = self.settings.own * fading
        else:
            self._restore()

    def after_step(self, i: int, x: torch.Tensor) -> torch.Tensor:
        return x

    def end(self) -> None:
        self._restore()
        if self._text_hook is not None:
            self._text_hook.remove()
            self._text_hook = None

    def _restore(self) -> None:
        if self._before:
            self._unet.set_attn_processor(self._before)
            self._before = {}

    def _with_captions(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The conditional rows, the last of each call, read the prompt with its captions."""
        told: dict[str, Any] = {"encoder_hidden_states": _with_last_rows(kwargs["encoder_hidden_states"], self._text)}
        if self._pooled is not None:
            added = kwargs["added_cond_kwargs"]
            told["added_cond_kwargs"] = {**added, "text_embeds": _with_last_rows(added["text_embeds"], self._pooled)}
        return args, {**kwargs, **told}


def _with_last_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[: len(x) - len(rows)], rows.to(x.dtype)])


@dataclass(frozen=True, eq=False)
class Spoken:
    """A plan in words: the text of stage 2, and which of its tokens speak of which object."""

    text: str
    plan: Plan
    spans: tuple[tuple[range, str], ...]
    """For each object: its tokens' places in the text (empty where its caption did not fit), and its caption."""


def speak(model: BaseModel, plan: Plan, *, repeat: bool = False) -> Spoken:
    """The prompt and, as long as the text encoder takes them, the local captions; surest objects first.

    A caption that stands in the prompt word for word is not said again, its own tokens speak of the object, as in
    DenseDiffusion; ``repeat`` says it again all the same. Objects of score 0 are not modulated, so nothing is said.
    """
    room = int(model.tokenizer.model_max_length) - 2
    text = plan.prompt
    said = _tokens(model, text)
    spans: dict[int, range] = {}
    for k in sorted(range(len(plan.objects)), key=lambda k: -plan.objects[k].score):
        caption = plan.objects[k].caption
        own = _tokens(model, caption)
        if not own or plan.objects[k].score <= 0:
            continue
        at = None if repeat else _find(said, own)
        if at is None:
            longer = f"{text.rstrip(' .,;')}, {caption}"
            if len(_tokens(model, longer)) <= room:
                text, said = longer, _tokens(model, longer)
                at = len(said) - len(own)
        if at is not None and at + len(own) <= room:
            spans[k] = range(at + 1, at + 1 + len(own))
    return Spoken(text, plan, tuple((spans.get(k, range(0)), o.caption) for k, o in enumerate(plan.objects)))


def _tokens(model: BaseModel, text: str) -> list[int]:
    """Without start and end."""
    return [int(t) for t in model.tokenizer(text, truncation=False, verbose=False).input_ids[1:-1]]


def _find(said: Sequence[int], own: Sequence[int]) -> int | None:
    n = len(own)
    return next((at for at in range(len(said) - n + 1) if said[at : at + n] == own), None)


def embed(model: BaseModel, spoken: Spoken, *, alone: bool) -> torch.Tensor:
    """The text condition (L, D); with ``alone``, each caption's tokens are those of the caption encoded by itself, so
    that they know of no other object (DenseDiffusion)."""
    cond = model.encode_prompts([spoken.text])[0].clone()
    for span, caption in spoken.spans:
        if alone and span:
            cond[span.start : span.stop] = model.encode_prompts([caption])[0, 1 : 1 + len(span)]
    return cond


def regions_of(spoken: Sequence[Spoken], cond: torch.Tensor, outside: float) -> Regions:
    """Masks, scores and tokens of a batch with conditions (B, L, D). An object of score 0 has pixels and no tokens; one
    whose caption did not fit stays out."""
    kept = [
        [(found, span) for found, (span, _) in zip(s.plan.objects, s.spans, strict=True) if span or found.score <= 0]
        for s in spoken
    ]
    n = max(1, *(len(k) for k in kept))
    height, width = next((o.mask.shape for k in kept for o, _ in k), (1, 1))
    masks = torch.zeros(len(spoken), n, height, width, dtype=torch.bool)
    scores = torch.zeros(len(spoken), n)
    tokens = torch.zeros(len(spoken), n, cond.shape[1], dtype=torch.bool)
    for row, objects in enumerate(kept):
        for k, (found, span) in enumerate(objects):
            masks[row, k] = found.mask
            scores[row, k] = found.score
            tokens[row, k, span.start : span.stop] = True
    return Regions(masks.to(cond.device), scores.to(cond.device), tokens.to(cond.device), outside)
