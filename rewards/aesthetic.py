"""The LAION aesthetic score v2: what DRTune, HG-DPO, TreeReward and DDPO mean by "aesthetic".

Five linear layers with nothing between them on the CLIP ViT-L/14 image embedding, so one vector:

    score(x) = w . e(x) / |e(x)| + b,   |w| = 18.0, b = 5.24 as published

Raters gave 1 to 10. A score above ``ALARM`` has left their scale (the bound is b + |w| = 23.2), and since all images
share one optimum, the direction w whatever the prompt, a tuner that goes there draws the same picture for every prompt:
read it beside diversity and a score that reads the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from bench.assets import find, need
from bench.assets.files import sha256_of
from bench.core.errors import UserError
from bench.core.identity import digest
from rewards.checkpoints import read_checkpoint
from rewards.clip import L14, PUBLISHED, ClipReward

ALARM = 10.0
"""The end of the raters' scale."""

_LAYER = re.compile(r"layers\.(\d+)\.(weight|bias)")


def aesthetic(device: str = "cpu") -> AestheticReward:
    """LAION aesthetic score v2 on a scale of nominally 1 to 10; the prompt plays no part."""
    head = need("aesthetic-v2") / find("aesthetic-v2").files[0].path
    return AestheticReward(need("clip-l14"), head, device)


class AestheticReward(ClipReward):
    """The aesthetic head on a CLIP image tower.

    Args:
        folder: ``save_pretrained`` folder of the CLIPModel that the head was trained on.
        head: checkpoint of the head, ``layers.N.weight`` and ``layers.N.bias``.

    Raises:
        UserError: files are missing or damaged, or the head does not fit the tower's embedding (at the first score).
    """

    def __init__(self, folder: Path, head: Path, device: str = "cpu") -> None:
        super().__init__(folder, "aesthetic", "linear", family=L14, licence=find("aesthetic-v2").licence, device=device)
        self.weights_sha256 = digest([self.weights_sha256, sha256_of(head)])
        weight, self.bias = folded(read_checkpoint(head, "aesthetic-v2"), head)
        self.weight = weight.to(self.device)
        size = float(weight.norm())
        self.value_range = (self.bias - size, self.bias + size)
        self.unit, self.cost_gmac = PUBLISHED["aesthetic"].unit, PUBLISHED["aesthetic"].cost_gmac

    def compare(self, image_features: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        features = image_features.to(self.device)
        if features.shape[1] != self.weight.shape[0]:
            raise UserError(f"the aesthetic head reads {self.weight.shape[0]} numbers and this CLIP gives "
                            f"{features.shape[1]}", valid="CLIP ViT-L/14")  # fmt: skip
        return features @ self.weight.to(features.dtype) + self.bias


def folded(head: Mapping[str, torch.Tensor], path: Path) -> tuple[torch.Tensor, float]:
    """(w (D,) float64, b) of a chain of linear layers.

    Raises:
        UserError: another content than such a chain with one output.
    """
    layers: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in head.items():
        if layer := _LAYER.fullmatch(name):
            layers.setdefault(int(layer[1]), {})[layer[2]] = tensor.double()
    try:
        if not layers or len(head) != 2 * len(layers):
            raise KeyError(", ".join(list(head)[:3]))
        first, *rest = [(layers[i]["weight"], layers[i]["bias"]) for i in sorted(layers)]
        weight, bias = first
        for w, b in rest:
            weight, bias = w @ weight, w @ bias + b
        if weight.shape[0] != 1:
            raise ValueError(f"{weight.shape[0]} outputs")
    except (KeyError, ValueError, RuntimeError, IndexError) as err:
        raise UserError(f"{path} is no aesthetic head: {type(err).__name__}: {err}",
                        valid="layers.N.weight and layers.N.bias of a chain of linear layers") from err  # fmt: skip
    return weight[0], float(bias[0])
