"""Feedback pairs from a diffusion model: the "AI" half of the paper's pipeline, sections 4.1 and 4.2.

    style      substitute  x_w from the prompt, x_l from the prompt with its style word replaced by another
    content    recaption   x from the prompt; where the aligner scores (x, prompt) low, the text among the candidates
                           that describes x best becomes y_w, the prompt y_l
    aesthetic  trigger     x_w from the prompt with a word that brings the dimension out, x_l with one that spoils it
               generator   x_w from the model as the suite samples it, x_l from a weaker one: a quarter of the steps, no
                           guidance
               depth       x_w the finished image, x_l what the same rollout predicted at a quarter of its depth

Members of a pair share their noise. All of it is the base model's work and is charged. The paper lets annotators choose
between aesthetic candidates; here the side is given by how they were made, and human votes come in by ``votes``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from bench.core.budget import Charge
from bench.core.types import SamplerSpec
from bench.diffusion.models import BaseModel
from bench.diffusion.samplers import Noise, build_sampler, conditions, predict_eps
from bench.trees.dimensions import DIMENSIONS
from bench.trees.pairs import Pair

STYLE_WORDS = (
    "photo", "photograph", "painting", "oil painting", "watercolor", "sketch", "cartoon", "anime", "concept art",
    "pixel art", "line art", "comic", "3d render", "claymation", "ukiyo-e", "impressionist", "cubist", "art deco",
    "pop art", "stained glass", "engraving", "charcoal drawing", "low poly", "isometric", "vaporwave", "steampunk",
)  # fmt: skip
"""What is looked for in a prompt, and what it is replaced by. The paper's 500 words are not published."""

TRIGGERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "color": (("vivid harmonious colors", "rich colors"), ("faded colors", "clashing colors")),
    "lighting": (("soft lighting", "side lighting", "rim lighting"), ("flat lighting", "harsh overexposed light")),
    "detail": (("highly detailed", "sharp focus"), ("blurry", "low resolution")),
    "layout": (("balanced composition", "rule of thirds"), ("cropped", "cluttered composition")),
}
"""Words that bring a dimension out, and words that spoil it. Of the paper's lists only the lighting words are known."""

AESTHETIC_WAYS = ("trigger", "generator", "depth")
CANDIDATES = 8
"""Texts that compete to describe an image: its prompt and seven of other images."""
_DEPTH = 0.25
"""Share of the rollout after which the lesser image is predicted."""


@dataclass(frozen=True)
class Recipe:
    """What is sampled for one pair."""

    dimension: str
    how: str
    prompt: str
    winner_text: str
    """What the winner is sampled from."""
    loser_text: str
    seed: int


def recipe(number: int, prompt: str, seed: int) -> Recipe:
    """Of pair ``number``: dimensions in turn, the ways to spoil a picture in turn."""
    dimension = DIMENSIONS[number % len(DIMENSIONS)]
    rng = torch.Generator().manual_seed(seed)
    if dimension == "style":
        own, other = substitute_style(prompt, rng)
        return Recipe(dimension, "substitute", own, own, other, seed)
    if dimension == "content":
        return Recipe(dimension, "recaption", prompt, prompt, prompt, seed)
    how = AESTHETIC_WAYS[number // len(DIMENSIONS) % len(AESTHETIC_WAYS)]
    if how != "trigger":
        return Recipe(dimension, how, prompt, prompt, prompt, seed)
    good, bad = (words[_draw(len(words), rng)] for words in TRIGGERS[dimension])
    return Recipe(dimension, how, prompt, f"{prompt}, {good}", f"{prompt}, {bad}", seed)


def substitute_style(prompt: str, rng: torch.Generator) -> tuple[str, str]:
    """(prompt that names a style, the same with another one); a prompt that names none gets one at its end.

    >>> own, other = substitute_style("a painting of a dog", torch.Generator().manual_seed(0))
    >>> own, other != own, other.endswith("of a dog")
    ('a painting of a dog', True, True)
    """
    longest_first = sorted(STYLE_WORDS, key=len, reverse=True)
    found = re.search("|".join(rf"\b{re.escape(w)}\b" for w in longest_first), prompt, re.IGNORECASE)
    if found is None:
        word = STYLE_WORDS[_draw(len(STYLE_WORDS), rng)]
        prompt, start, end = f"{prompt}, {word}", len(prompt) + 2, len(prompt) + 2 + len(word)
    else:
        word, start, end = found.group().lower(), found.start(), found.end()
    others = [w for w in STYLE_WORDS if w != word]
    return prompt, f"{prompt[:start]}{others[_draw(len(others), rng)]}{prompt[end:]}"


def weaker(spec: SamplerSpec) -> SamplerSpec:
    """The lesser generator: the same model with a quarter of the steps and no guidance."""
    return replace(spec, n_steps=max(1, spec.n_steps // 4), guidance=1.0)


def recipe_cost(how: str, spec: SamplerSpec) -> Charge:
    """Exactly what sampling one pair counts."""
    rows = 1 if spec.guidance == 1 else 2
    full = rows * spec.n_steps
    fwd = {"recaption": full, "depth": full, "generator": full + weaker(spec).n_steps}.get(how, 2 * full)
    return Charge({
        "denoiser_fwd": fwd, "denoiser_u": fwd, "images": 1 if how == "recaption" else 2,
        "reward_calls": CANDIDATES if how == "recaption" else 0,
    })  # fmt: skip


Aligner = Callable[[torch.Tensor, Sequence[str]], torch.Tensor]
"""Images (B, 3, H, W) and B texts to how well they agree, (B,)."""


@torch.no_grad()
def sample_pair(
    model: BaseModel, spec: SamplerSpec, made: Recipe, others: Sequence[str], aligner: Aligner, side: int
) -> Pair:
    """One pair with images (3, side, side); the adapter must be off.

    Args:
        others: texts of other images, ``CANDIDATES - 1`` of them and none the prompt's, for re-captioning.
    """
    sampled, early = _sample(model, spec, made.winner_text, made.seed, keep=made.how == "depth")
    if made.how == "recaption":
        texts = [made.prompt, *others]
        agree = aligner(sampled.expand(len(texts), -1, -1, -1), texts)
        # an image that its prompt describes best teaches by the other text that describes it worst
        best = int(agree.argmax())
        worst = 0 if best else 1 + int(agree[1:].argmin())
        image = _bytes(sampled, side)
        return Pair(made.dimension, made.how, image, texts[best], image, texts[worst])
    if made.how == "depth":
        assert early is not None
        lesser = early
    else:
        lesser, _ = _sample(model, weaker(spec) if made.how == "generator" else spec, made.loser_text, made.seed)
    return Pair(made.dimension, made.how, _bytes(sampled, side), made.prompt, _bytes(lesser, side), made.prompt)


def _sample(
    model: BaseModel, spec: SamplerSpec, text: str, seed: int, *, keep: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A finished image (1, 3, H, W) and, where asked for, the one predicted early in the same rollout."""
    sampler = build_sampler(model, spec)
    cond, uncond = conditions(model, sampler, [text])
    noise, walk = Noise([seed]), sampler.walk()
    x = walk.start(noise.initial(model.latent_shape(spec.resolution), model.dtype, model.device))
    early = None
    for i in range(sampler.n_steps):
        eps_hat = predict_eps(model, sampler, i, x, cond, uncond)
        if keep and i == int(_DEPTH * sampler.n_steps):
            early = model.decode(sampler.x0_hat(i, eps_hat, x))
        x = walk.step(i, eps_hat, x, noise)
    return model.decode(x), early


def _bytes(image: torch.Tensor, side: int) -> torch.Tensor:
    small = F.interpolate(image.float(), size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return (small[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def _draw(n: int, rng: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=rng))
