"""Diversity of images: within a prompt over noise seeds, and over the whole set. Falls when tuning collapses modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from bench.core.contract import Measured, Metric, Scene
from bench.core.errors import UserError
from bench.core.paired import cluster_mean_ci
from bench.metrics.images import FEATURE_BATCH
from bench.metrics.judges import clip_features, judge
from bench.metrics.layout import Layout, absent, layout
from bench.metrics.panel import DIVERSITY_CLIP, LPIPS_BACKBONE, LPIPS_HEADS, absent_assets, stamp_of
from rewards.clip import ClipReward

if TYPE_CHECKING:
    from bench.metrics.lpips import LPIPS


class Diversity(Metric):
    """Mean pairwise 1 - cos of CLIP image features within a prompt, LPIPS within a prompt (published world), and Vendi
    score over all; higher is better."""

    name = "diversity"
    higher_is_better = True
    model: ClassVar[str] = "tiny-clip"
    """For the tiny world."""

    @classmethod
    def depends(cls, scene: Scene) -> Any:
        tiny = scene.judging.world == "tiny"
        return None if tiny else [stamp_of(name) for name in (DIVERSITY_CLIP, LPIPS_HEADS, LPIPS_BACKBONE)]

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        if scene.judging.world == "tiny":
            return self._clip(scene, at, self.model)
        reason = absent_assets("diversity under CLIP", DIVERSITY_CLIP)
        names = (f"vendi/{DIVERSITY_CLIP}", f"diversity/{DIVERSITY_CLIP}")
        clip = [absent(name, reason) for name in names] if reason else self._clip(scene, at, DIVERSITY_CLIP)
        return [*clip, self._lpips(scene, at)]

    def precompute(self, scene: Scene) -> None:
        tiny = scene.judging.world == "tiny"
        if tiny or not absent_assets("diversity under CLIP", DIVERSITY_CLIP):
            clip_features(scene.tuned, _clip_model(self.model if tiny else DIVERSITY_CLIP, scene.device))
        if not tiny and not _no_lpips(scene):
            lpips_distances(scene)

    def _clip(self, scene: Scene, at: Layout, model: str) -> list[Measured]:
        reward = _clip_model(model, scene.device)
        features = clip_features(scene.tuned, reward)
        passport = {"network": reward.network, "captions": scene.suite.spec.prompt_hash, "n": at.n}
        vendi = Measured(
            name=f"vendi/{model}", value=vendi_score(features), higher_is_better=True, n=at.n,
            unit="effective number of images", passport=passport, family=reward.family,
            detail={"order_2": vendi_score(features, order=2)},
        )  # fmt: skip
        name = f"diversity/{model}"
        if len(scene.suite.spec.eval_seeds) < 2:
            return [vendi, absent(name, ONE_SEED)]
        return [vendi, _column(name, sibling_distances(features, at.prompt_ids), "1 - cosine", passport, at,
                               reward.family)]  # fmt: skip

    def _lpips(self, scene: Scene, at: Layout) -> Measured:
        name, reason = "diversity/lpips-alex", _no_lpips(scene)
        if reason:
            return absent(name, reason)
        distances, network = lpips_distances(scene)
        height, width = next(iter(scene.tuned.batches(1))).shape[-2:]
        passport = {"network": f"LPIPS v0.1, AlexNet, {network.sha256[:16]}", "resolution": f"{width}x{height}",
                    "captions": scene.suite.spec.prompt_hash, "n": at.n}  # fmt: skip
        return _column(name, distances.astype(np.float64), "LPIPS", passport, at, "lpips")


ONE_SEED = "one image a prompt: there are no pairs within a prompt"


def _no_lpips(scene: Scene) -> str | None:
    """Why there is no LPIPS within prompts."""
    if len(scene.suite.spec.eval_seeds) < 2:
        return ONE_SEED
    return absent_assets("diversity under LPIPS", LPIPS_HEADS, LPIPS_BACKBONE)


def _clip_model(name: str, device: str) -> ClipReward:
    reward = judge(name, device)
    if not isinstance(reward, ClipReward):
        raise UserError(f"diversity needs a CLIP reward, {name!r} is not one")
    return reward


def lpips_distances(scene: Scene) -> tuple[NDArray[np.float32], LPIPS]:
    """Mean LPIPS of each image to the others of its prompt, (N,), and the network. Images of a prompt stand together,
    so a batch holds whole prompts."""
    from bench.metrics.lpips import load_lpips

    n_seeds = len(scene.suite.spec.eval_seeds)
    network = load_lpips(scene.device)

    def extract(batch: torch.Tensor) -> torch.Tensor:
        groups = (group.to(scene.device).float() / 255 for group in torch.split(batch, n_seeds))
        return torch.cat([network.siblings(group) for group in groups])[:, None]

    n_batch = max(1, FEATURE_BATCH // n_seeds) * n_seeds
    found = scene.tuned.features(f"lpips-{network.sha256}-of-{n_seeds}", extract, n_batch=n_batch)
    return found[:, 0], network


def _column(
    name: str, values: NDArray[np.float64], unit: str, passport: dict[str, Any], at: Layout, family: str
) -> Measured:
    mean = cluster_mean_ci(values, at.prompt_ids)
    return Measured(
        name=name, value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high, higher_is_better=True, n=at.n,
        unit=unit, per_image=tuple(map(float, values)), passport=passport, family=family,
    )  # fmt: skip


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
