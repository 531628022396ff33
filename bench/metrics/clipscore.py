"""CLIP score (Hessel et al., arXiv 2104.08718): how well an image fits its prompt under a CLIP model."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bench.core.contract import Measured, Metric, Scene
from bench.core.errors import UserError
from bench.core.paired import cluster_mean_ci
from bench.metrics.judges import judge, per_image
from bench.metrics.layout import layout
from rewards.clip import ClipReward


class CLIPScore(Metric):
    """100 * max(cos(image, prompt), 0), the mean over images; higher is better.

    Clamped for each image as in the paper, no "A photo depicts" before the prompt, and 100 instead of the paper's 2.5
    as most papers print it. The model is part of the column's name: scores of two models share no scale.
    """

    name = "clipscore"
    higher_is_better = True
    model: ClassVar[str] = "tiny-clip"
    """A reward in cosine form."""

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        reward = judge(self.model, scene.device)
        if not isinstance(reward, ClipReward) or reward.form != "cosine":
            raise UserError(f"clipscore needs a CLIP reward in cosine form, {self.model!r} is not one")
        values = 100 * np.maximum(per_image(scene.tuned, reward, at.prompts), 0)
        mean = cluster_mean_ci(values, at.prompt_ids)
        n_truncated = reward.n_truncated(at.prompts)
        return [
            Measured(
                name=f"clipscore/{self.model}",
                value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high,
                higher_is_better=True, n=at.n, unit="100 * cosine",
                per_image=tuple(map(float, values)),
                passport={"weights": reward.weights_sha256, "captions": scene.suite.spec.prompt_hash, "n": at.n},
                detail={"n_truncated_prompts": n_truncated},
                family=reward.family, judge=self.model,
                warnings=(f"{n_truncated} prompts are longer than the text tower reads",) if n_truncated else (),
            )
        ]  # fmt: skip
