"""TreeReward's reward model, fitted to votes by ``bench reward train tree`` (Zhang et al., ACM MM 2024; no published
checkpoint exists). The model is ``bench.trees``; TreeReward as a tuner fits one for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from bench.core.identity import digest, file_sha256
from bench.trees.folder import load_tree
from bench.trees.model import TreeScore
from rewards.check import check_images
from rewards.files import models_folder


def tree(device: str = "cpu", folder: str = "tree") -> FittedTree:
    """R of TreeReward's tree, fitted to votes: tree(folder=NAME) is the folder NAME in TUNEBENCH_MODELS."""
    path = models_folder("tree", folder, "tree.json", hint=f"bench reward train tree --votes FILE --out DIR/{folder}")
    return FittedTree(path, device)


class FittedTree(TreeScore):
    """R = sum_b w_b sum_k w_k r_k of a fitted tree, in standard deviations of its held-out votes (eq. 7, 8).

    Its parts are the six leaves r_k. Gradients reach the image through the leaves, not through the weights.

    Args:
        folder: what ``bench reward train tree`` wrote.

    Raises:
        UserError: the folder holds no whole tree.
    """

    licence = "of its backbone and of its votes"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        model, weighing = load_tree(folder)
        super().__init__(model.to(device), weighing)
        self.device = torch.device(device)
        self.weights_sha256 = digest([file_sha256(folder / name) for name in ("tree.json", "model.safetensors")])

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        return super().measure(images.to(self.device), prompts)

    def measure_parts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        return super().measure_parts(images.to(self.device), prompts)

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.measure(images, prompts)

    def n_truncated(self, prompts: Iterable[str]) -> int:
        """Distinct prompts that are longer than the backbone reads; their end was cut."""
        return self.model.trunk.n_truncated(prompts)
