"""CLIP score (Hessel et al., arXiv 2104.08718): how well an image fits its prompt under a CLIP model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from bench.core import registry
from bench.core.contract import Measured, Metric, Scene
from bench.core.errors import UserError
from bench.core.paired import cluster_mean_ci
from bench.metrics.judges import clip_model, clip_values, judge
from bench.metrics.layout import Layout, absent, layout, shown
from bench.metrics.panel import CLIP_VARIANTS, ClipVariant, absent_assets, stamp_of
from rewards.clip import ClipReward


class CLIPScore(Metric):
    """scale * max(cos(image, prompt), 0), clamped for each image, the mean over images; higher is better.

    The model and the scale are part of the column's name: scores of two models share no scale. In the tiny world the
    model is tiny-clip and the scale 100; elsewhere three published ones are computed, each where its weights are here:
    the paper's own (ViT-B/32, 2.5, "A photo depicts " before the prompt), ViT-L/14 x 100 and the bare cosine of H/14.
    """

    name = "clipscore"
    higher_is_better = True
    model: ClassVar[str] = "tiny-clip"
    """A reward in cosine form, for the tiny world."""
    variants: ClassVar[tuple[str, ...]] = tuple(CLIP_VARIANTS)

    @classmethod
    def depends(cls, scene: Scene) -> Any:
        if scene.judging.world == "tiny":
            return None
        return {key: stamp_of(CLIP_VARIANTS[key].asset) for key in cls.variants}

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        return [absent(variant.column, reward) if isinstance(reward, str) else _measured(variant, reward, scene, at)
                for variant, reward in self._asked(scene)]  # fmt: skip

    def precompute(self, scene: Scene) -> None:
        for variant, reward in self._asked(scene):
            if isinstance(reward, ClipReward):
                clip_values(scene.tuned, reward, _prompts(variant, shown(scene)))

    def _asked(self, scene: Scene) -> Iterator[tuple[ClipVariant, ClipReward | str]]:
        """Variants and their models; in place of an absent model why it is."""
        if scene.judging.world == "tiny":
            reward = judge(self.model, scene.device)
            if not isinstance(reward, ClipReward) or reward.form != "cosine":
                raise UserError(f"clipscore needs a CLIP reward in cosine form, {self.model!r} is not one")
            yield ClipVariant(f"clipscore/{self.model}", self.model, 100), reward
            return
        for variant in (CLIP_VARIANTS[key] for key in self.variants):
            yield variant, absent_assets(variant.column, variant.asset) or _model(variant, scene.device)


class CLIPScoreB32(CLIPScore):
    """CLIP score as its paper defines it: ViT-B/32, 2.5 max(cos, 0), "A photo depicts " before the prompt."""

    name = "clipscore-b32"
    variants = ("b32",)


class CLIPScoreL14(CLIPScore):
    """CLIP score of OpenAI's ViT-L/14, 100 max(cos, 0), as TreeReward prints it."""

    name = "clipscore-l14"
    variants = ("l14",)


class CLIPScoreH14(CLIPScore):
    """CLIP score of LAION's ViT-H/14, max(cos, 0), as DRTune prints it."""

    name = "clipscore-h14"
    variants = ("h14",)


def _model(variant: ClipVariant, device: str) -> ClipReward:
    """Where a reward has these weights, that reward: roles go by its family, and the model is loaded once."""
    if variant.asset not in registry.entries("rewards"):
        return clip_model(variant.asset, variant.asset, device)
    reward = judge(variant.asset, device)
    assert isinstance(reward, ClipReward)
    return reward


def _prompts(variant: ClipVariant, texts: Sequence[str]) -> list[str]:
    return [variant.prefix + text for text in texts]


def _measured(variant: ClipVariant, reward: ClipReward, scene: Scene, at: Layout) -> Measured:
    prompts = _prompts(variant, at.prompts)
    values = variant.scale * np.maximum(clip_values(scene.tuned, reward, prompts), 0)
    mean = cluster_mean_ci(values, at.prompt_ids)
    n_truncated = reward.n_truncated(prompts)
    return Measured(
        name=variant.column,
        value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high,
        higher_is_better=True, n=at.n, unit=f"{variant.scale:g} * cosine",
        per_image=tuple(map(float, values)),
        passport={"weights": reward.weights_sha256, "captions": scene.suite.spec.prompt_hash, "n": at.n,
                  **({"prefix": variant.prefix} if variant.prefix else {})},
        detail={"n_truncated_prompts": n_truncated},
        family=reward.family, judge=variant.asset,
        warnings=(f"{n_truncated} prompts are longer than the text tower reads",) if n_truncated else (),
    )  # fmt: skip
