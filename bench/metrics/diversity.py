"""Diversity of images: within a prompt over noise seeds, and over the whole set. Falls when tuning collapses modes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bench.core.contract import Measured, Metric, Scene
from bench.core.errors import UserError
from bench.core.paired import cluster_mean_ci
from bench.metrics.judges import clip_features, judge
from bench.metrics.layout import layout
from rewards.clip import ClipReward


class Diversity(Metric):
    """Mean pairwise 1 - cos of CLIP image features within a prompt, and Vendi score over all; higher is better."""

    name = "diversity"
    higher_is_better = True
    model: ClassVar[str] = "tiny-clip"

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        reward = judge(self.model, scene.device)
        if not isinstance(reward, ClipReward):
            raise UserError(f"diversity needs a CLIP reward, {self.model!r} is not one")
        features = clip_features(scene.tuned, reward)
        passport = {"network": reward.network, "captions": scene.suite.spec.prompt_hash, "n": at.n}
        vendi = Measured(
            name=f"vendi/{self.model}", value=vendi_score(features), higher_is_better=True, n=at.n,
            unit="effective number of images", passport=passport, family=reward.family,
            detail={"order_2": vendi_score(features, order=2)},
        )  # fmt: skip
        name = f"diversity/{self.model}"
        if len(scene.suite.spec.eval_seeds) < 2:
            return [vendi, Measured(name=name, value=None, higher_is_better=True, n=0,
                                    warnings=("one image a prompt: there are no pairs within a prompt",))]  # fmt: skip
        distances = sibling_distances(features, at.prompt_ids)
        mean = cluster_mean_ci(distances, at.prompt_ids)
        return [vendi, Measured(
            name=name, value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high, higher_is_better=True, n=at.n,
            unit="1 - cosine", per_image=tuple(map(float, distances)), passport=passport, family=reward.family,
        )]  # fmt: skip


def sibling_distances(features: NDArray[np.float32], prompt_ids: tuple[str, ...]) -> NDArray[np.float64]:
    """Mean of 1 - cos of each image to the other images of its prompt.

    Args:
        features: (N, D) of length 1.
        prompt_ids: prompt of each image; every prompt has two or more.
    """
    x = features.astype(np.float64)
    result = np.empty(len(x))
    ids = np.asarray(prompt_ids)
    for prompt in dict.fromkeys(prompt_ids):
        rows = np.flatnonzero(ids == prompt)
        cosine = x[rows] @ x[rows].T
        result[rows] = 1 - (cosine.sum(axis=1) - np.diag(cosine)) / (len(rows) - 1)
    return result


def vendi_score(features: NDArray[np.float32], order: int = 1) -> float:
    """Vendi score (Friedman & Dieng, arXiv 2210.02410): exp of the entropy of the eigenvalues of X X^T / n.

    Order 2 is 1 / sum of their squares, which few images estimate better. Between 1 (all alike) and n, so only equal n
    compare. With more images than dimensions the eigenvalues of X^T X / n are the same and cheaper.

    Args:
        features: (N, D) of length 1.
        order: 1 or 2.
    """
    x = features.astype(np.float64)
    kernel = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    values = np.linalg.eigvalsh(kernel / len(x))
    values = values[values > 1e-12]
    if order == 2:
        return float(1 / np.square(values).sum())
    return float(np.exp(-(values * np.log(values)).sum()))
