"""Rewards as judges of stored images: one value an image, image features computed once and shared by all metrics."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bench.core.contract import Images, Reward
from bench.core.identity import digest
from rewards.clip import ClipReward
from rewards.expression import load_reward


@functools.lru_cache(maxsize=16)
def judge(name: str, device: str) -> Reward:
    """The reward of that name, loaded once a process."""
    return load_reward(name, device)


@functools.lru_cache(maxsize=4)
def clip_model(asset: str, family: str, device: str) -> ClipReward:
    """A published CLIP model by the name of its weights, in cosine form, loaded once a process.

    Raises:
        UserError: not on this machine, or not whole.
    """
    from bench.assets import need

    return ClipReward(need(asset), asset, "cosine", family=family, device=device)


def clip_features(images: Images, reward: ClipReward) -> NDArray[np.float32]:
    """(N, D) image features of length 1 of a CLIP reward, cached under its weights and preprocessing."""
    return images.features(reward.tower, reward.image_features)


def clip_values(images: Images, reward: ClipReward, prompts: Sequence[str]) -> NDArray[np.float32]:
    """What a CLIP reward says of each image under its prompt, (N,) float32; features of both sides are cached."""
    with torch.no_grad():
        features = torch.from_numpy(clip_features(images, reward))
        if reward.form != "linear":
            texts = images.of_texts(reward.reader, reward.text_features, prompts)
            reward.remember(prompts, torch.from_numpy(texts))
        return reward.compare(features, prompts).cpu().numpy()


def look(images: Images, reward: Reward, prompts: Sequence[str]) -> None:
    """Asks of each image what ``per_image`` and ``per_part`` will, so that it is there."""
    if isinstance(reward, ClipReward):
        clip_values(images, reward, prompts)
    else:
        _measured(images, reward, prompts)
    if reward.part_names:
        per_part(images, reward, prompts)


def per_image(images: Images, reward: Reward, prompts: Sequence[str]) -> NDArray[np.float32]:
    """The reward's raw measure of each image, (N,) float32.

    Args:
        images: N images.
        reward: the judge.
        prompts: text of each image.
    """
    if isinstance(reward, ClipReward):
        return clip_values(images, reward, prompts)
    return _measured(images, reward, prompts)[:, 0]


def per_part(images: Images, reward: Reward, prompts: Sequence[str]) -> NDArray[np.float32]:
    """The reward's parts of each image, (N, K) float32 in the order of ``part_names``; see ``per_image``."""

    def extract(batch: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        return reward.measure_parts(batch.float() / 255, texts)

    return images.judged(f"parts-{digest(reward.identity(), 32)}", extract, prompts)


def _measured(images: Images, reward: Reward, prompts: Sequence[str]) -> NDArray[np.float32]:
    """Values of any reward, kept like features of one dimension under the reward's identity and the prompts."""

    def extract(batch: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        return reward.measure(batch.float() / 255, texts)[:, None]

    return images.judged(f"measure-{digest(reward.identity(), 32)}", extract, prompts)
