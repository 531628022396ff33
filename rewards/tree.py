"""TreeReward's reward model, fitted to votes by ``bench reward train tree`` (Zhang et al., ACM MM 2024; no published
checkpoint exists). The model is ``bench.trees``; TreeReward as a tuner fits one for itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from bench.assets.files import check_whole, sha256_of
from bench.core.contract import Reward
from bench.core.identity import digest, file_sha256
from bench.trees.dimensions import DIMENSIONS
from bench.trees.folder import WEIGHTS, load_tree, read_facts
from bench.trees.model import Reading, RewardTree, Weighing
from bench.trees.trunks import BLIP_FAMILY, TINY, TINY_FAMILY
from rewards.check import check_images
from rewards.files import models_folder


def tree(device: str = "cpu", folder: str = "tree") -> FittedTree:
    """R of TreeReward's tree, fitted to votes: tree(folder=NAME) is the folder NAME in TUNEBENCH_MODELS."""
    path = models_folder("tree", folder, "tree.json", hint=f"bench reward train tree --votes FILE --out DIR/{folder}")
    return FittedTree(path, device)


class FittedTree(Reward):
    """R = sum_b w_b sum_k w_k r_k of a fitted tree, in standard deviations of its held-out votes (eq. 7, 8).

    Its parts are the six leaves r_k. Gradients reach the image through the leaves, not through the weights.

    Args:
        folder: what ``bench reward train tree`` wrote.

    Raises:
        UserError: the folder holds no whole tree.
    """

    name = "tree"
    unit = "standard deviations"
    licence = "of its backbone and of its votes"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        facts = read_facts(folder)
        check_whole(folder / WEIGHTS)
        self.family = TINY_FAMILY if facts["backbone"] == TINY else BLIP_FAMILY
        self.part_names = () if facts["structure"] == "global" else DIMENSIONS
        self.device = torch.device(device)
        self.weights_sha256 = digest([file_sha256(folder / "tree.json"), sha256_of(folder / WEIGHTS)])
        self._folder = folder

    @functools.cached_property
    def tree(self) -> tuple[RewardTree, Weighing]:
        """The tree, frozen, on the device; and how its leaves are weighed."""
        model, weighing = load_tree(self._folder)
        return model.to(self.device), weighing

    def prepare(self) -> None:
        _ = self.tree

    def read(self, images: torch.Tensor, prompts: Sequence[str]) -> Reading:
        """R, its leaves and their weights of images (B, 3, H, W) and B prompts."""
        check_images(self.name, images, prompts)
        model, weighing = self.tree
        return model.read(images.to(self.device), prompts, weighing)

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.read(images, prompts).reward

    def measure_parts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """r_k (B, 6)."""
        return self.read(images, prompts).leaves

    def n_truncated(self, prompts: Iterable[str]) -> int:
        """Distinct prompts that are longer than the backbone reads; their end was cut."""
        return self.tree[0].trunk.n_truncated(prompts)
