"""The tree-structured reward model of TreeReward (Zhang et al., ACM MM 2024), section 5.

Symbols: h = trunk(x, y) features of image x and prompt y; G root gate, two logits (semantic, aesthetic); r_k leaf
scores, f_k before they are standardised; b branch, k leaf within it; w_b, w_k weights.

    r_k = (f_k(h) - mean_k) / sd_k          mean and sd over held-out points, fixed when fitting ends
    w_b = softmax_b(G(h))      w_k = softmax over the leaves of b of -r_k                                     (eq. 7)
    R   = sum_b w_b sum_{k in b} w_k r_k                                                                      (eq. 8)

Leaves are fitted by losses that see differences only, so that each has an offset and a scale of its own: without
standardising, the soft-min over them would weigh those offsets. Both levels of weights are detached by default: then
dR/dr_k = w_b w_k >= 0, summing to 1. The formula as printed (``literal``) gives

    dR/dr_k = w_b w_k (1 - r_k + R_b),      R_b = sum_{k in b} w_k r_k

negative as soon as r_k > R_b + 1: a well-met dimension is pushed down; and its gradient through w_b lets a generator
play the gate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bench.core.contract import Reward
from bench.trees.dimensions import BRANCH_OF, BRANCHES, DIMENSIONS
from bench.trees.trunks import Trunk, init_linear


@dataclass(frozen=True)
class Weighing:
    """How leaves become one reward; no field changes the fit."""

    literal: bool = False
    """Keep the gradient through both levels of weights, as printed."""
    uniform_gate: bool = False
    """w_b = 1/2, an ablation of the gate."""
    gate_temperature: float = 1.0
    """w_b = softmax(G / temperature)."""
    leaf_temperature: float = 1.0
    """w_k = softmax(-r_k / temperature)."""


@dataclass(frozen=True)
class Reading:
    """What a tree says of B points."""

    reward: torch.Tensor
    """R (B,)."""
    leaves: torch.Tensor
    """r_k (B, K)."""
    w_branch: torch.Tensor
    """w_b (B, 2)."""
    w_leaf: torch.Tensor
    """w_k (B, K), summing to 1 within each branch."""

    def entropy(self) -> torch.Tensor:
        """Of the gate's weights, in nats (B,): log 2 where both branches count the same."""
        plogp: torch.Tensor = torch.xlogy(self.w_branch, self.w_branch)
        return -plogp.sum(-1)


def combine(leaves: torch.Tensor, gate: torch.Tensor, weighing: Weighing) -> Reading:
    """Eq. 7 and 8 of standardised leaves (B, 6) and gate logits (B, 2)."""
    gate = torch.zeros_like(gate) if weighing.uniform_gate else gate / weighing.gate_temperature
    logits = -leaves / weighing.leaf_temperature
    if not weighing.literal:
        gate, logits = gate.detach(), logits.detach()
    w_branch = torch.softmax(gate, dim=-1)
    w_leaf = torch.cat(
        [
            torch.softmax(logits[:, [k for k, of in enumerate(BRANCH_OF) if of == b]], dim=-1)
            for b in range(len(BRANCHES))
        ],
        dim=-1,
    )
    w = w_branch[:, list(BRANCH_OF)] * w_leaf
    return Reading((w * leaves).sum(-1), leaves, w_branch, w_leaf)


class RewardTree(nn.Module):
    """Trunk, gate and leaves; or one of the two structures that the paper compares with (table 3).

    ``tree`` one trunk, a gate of 2 layers, a leaf of 4 layers for each dimension. ``global`` one trunk and one head
    for all pairs ("Data-Scale"). ``decoupled`` a trunk and a head for each dimension, averaged ("Decouple").

    Args:
        trunks: makes a fresh trunk; called once, or six times for ``decoupled``.
        generator: draws the heads' weights.
    """

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, structure: str, trunks: Callable[[], Trunk], generator: torch.Generator) -> None:
        super().__init__()
        self.structure = structure
        self.names = ("global",) if structure == "global" else DIMENSIONS
        self.trunks = nn.ModuleList(trunks() for _ in (DIMENSIONS if structure == "decoupled" else range(1)))
        dim = self.trunk.dim
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when they are made
            self.leaves = nn.ModuleList(_mlp(dim, 4, 1, generator) for _ in self.names)
            self.gate = _mlp(dim, 2, len(BRANCHES), generator) if structure == "tree" else None
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("sd", torch.ones(len(self.names)))
        self.frozen = frozenset(name for name, p in self.named_parameters() if not p.requires_grad)
        """Parameters that fitting leaves as the backbone has them."""

    @property
    def trunk(self) -> Trunk:
        """The trunk, or the first of six."""
        trunk = self.trunks[0]
        assert isinstance(trunk, Trunk)
        return trunk

    def pretrained(self) -> list[nn.Parameter]:
        """What the backbones bring along, frozen or not."""
        return [p for trunk in self.trunks if isinstance(trunk, Trunk) for p in trunk.pretrained()]

    def leaf_of(self, j: int) -> int:
        """Which leaf scores dimension j."""
        return 0 if self.structure == "global" else j

    def trunk_of(self, j: int) -> int:
        """Which trunk serves dimension j."""
        return j if self.structure == "decoupled" else 0

    def path(self, j: int) -> list[nn.Parameter]:
        """All that a pair of dimension j trains: trunk, gate and leaf j."""
        parts = [self.trunks[self.trunk_of(j)], self.leaves[self.leaf_of(j)], *([self.gate] if self.gate else [])]
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def along(self, j: int, images: torch.Tensor, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """f_j (B,), not standardised, and G (B, 2), which only a tree has, of points (B, 3, H, W) and B prompts."""
        h = self.trunks[self.trunk_of(j)](images, texts)
        f: torch.Tensor = self.leaves[self.leaf_of(j)](h)[:, 0]
        return f, None if self.gate is None else self.gate(h)

    def raw(self, images: torch.Tensor, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """All f_k (B, K) and G (B, 2)."""
        h = [trunk(images, texts) for trunk in self.trunks]
        f = torch.cat([leaf(h[min(k, len(h) - 1)]) for k, leaf in enumerate(self.leaves)], dim=-1)
        return f, None if self.gate is None else self.gate(h[0])

    def standardised(self, f: torch.Tensor) -> torch.Tensor:
        """r_k of f_k, (B, K) each."""
        return (f - self.mean) / self.sd

    def read(self, images: torch.Tensor, texts: Sequence[str], weighing: Weighing) -> Reading:
        """R and its parts; differentiable in the images (B, 3, H, W) float in [0, 1]."""
        f, gate = self.raw(images, texts)
        r = self.standardised(f)
        if gate is not None:
            return combine(r, gate, weighing)
        ones = torch.ones_like(r)
        return Reading(r.mean(-1), r, ones[:, :1], ones / len(self.names))


class TreeScore(Reward):
    """R of a fitted tree as a reward. What ``score`` saw is kept in ``seen`` until someone takes it, for the log."""

    name = "tree"
    unit = "standard deviations"

    def __init__(self, model: RewardTree, weighing: Weighing) -> None:
        self.model = model
        self.weighing = weighing
        self.family = model.trunk.family
        self.part_names = () if model.structure == "global" else model.names
        self.seen: list[Reading] = []

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.model.read(images, prompts, self.weighing).reward

    def measure_parts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """r_k (B, 6)."""
        return self.model.read(images, prompts, self.weighing).leaves

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        reading = self.model.read(images, prompts, self.weighing)
        self.seen.append(Reading(*(getattr(reading, f).detach() for f in ("reward", "leaves", "w_branch", "w_leaf"))))
        return reading.reward

    def take(self) -> dict[str, float]:
        """Means over all that was scored since the last call: gate entropy, weight of the semantic branch, leaves."""
        seen, self.seen = self.seen, []
        leaves = torch.cat([s.leaves for s in seen]).mean(0).tolist()
        means = {f"leaf_{name}": value for name, value in zip(self.model.names, leaves, strict=True)}
        if self.model.structure != "tree":
            return means
        entropy = torch.cat([s.entropy() for s in seen]).mean().item()
        semantic = torch.cat([s.w_branch[:, 0] for s in seen]).mean().item()
        return {**means, "gate_entropy": entropy, "w_semantic": semantic}


def _mlp(dim: int, n_layers: int, n_out: int, generator: torch.Generator) -> nn.Sequential:
    """Linear layers with GELU between them; the width halves after the first, as nothing is stated."""
    widths = [dim, *[dim // 2] * (n_layers - 1), n_out]
    parts: list[nn.Module] = []
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        layer = nn.Linear(a, b)
        init_linear(layer, generator)
        parts += [layer] if k == n_layers - 1 else [layer, nn.GELU()]
    return nn.Sequential(*parts)
