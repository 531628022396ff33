"""Feedback data on disk: shards of pairs, each named by the digest of what it holds.

A shard is two files of one stem, ``<digest>.npy`` with images (2n, 3, S, S) uint8, winners and losers in turn, and
``<digest>.json`` with what is known of each pair. Images stay on disk, mapped into memory. A shard that a killed run
left behind is taken up again only by its digest.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.core.errors import UserError
from bench.store import atomic
from bench.trees.dimensions import DIMENSIONS
from bench.trees.pairs import Pair

HELD_OUT_ONE_IN = 6
"""Of each dimension, the first pair and every sixth after it are never fitted on."""


@dataclass(frozen=True)
class Batch:
    """n pairs, ready for a network."""

    images: torch.Tensor
    """(2n, 3, S, S) float in [0, 1]: all winners, then all losers."""
    texts: list[str]
    """2n, in the same order."""
    dimensions: list[int]
    """n indices into ``DIMENSIONS``."""

    def __len__(self) -> int:
        return len(self.dimensions)


@dataclass(frozen=True)
class _Row:
    """One pair of a shard."""

    dimension: int
    how: str
    winner_text: str
    loser_text: str
    shard: int
    place: int


class Feedback:
    """A growing list of pairs in ``folder``; the only thing that training reads.

    Args:
        folder: where its shards are.
        device: where batches go.
        by_prompt: hold out whole prompts. Several people vote on one pair of images, and a prompt has several pairs: an
            accuracy on pairs whose images were fitted on would be too good.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu", *, by_prompt: bool = False) -> None:
        self.folder = folder
        self.by_prompt = by_prompt
        self.device = torch.device(device)
        self._names: list[str] = []
        self._images: list[Any] = []
        self._rows: list[_Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, pairs: Sequence[Pair]) -> None:
        """Writes one shard; the images of its pairs have one size."""
        images = torch.stack([x for p in pairs for x in (p.winner, p.loser)]).cpu().numpy()
        rows = [[p.dimension, p.how, p.winner_text, p.loser_text] for p in pairs]
        text = json.dumps(rows, ensure_ascii=False)
        name = _digest(images, text)
        packed = io.BytesIO()
        np.save(packed, images)
        atomic.write_text(self.folder / f"{name}.json", text)
        atomic.write_bytes(self.folder / f"{name}.npy", packed.getvalue())
        self._open(name)

    def train(self) -> list[int]:
        """Indices of the pairs to fit on."""
        return [i for i, held in enumerate(self._held()) if not held]

    def held_out(self) -> list[int]:
        """Indices of the pairs that accuracy and standardisation are measured on."""
        return [i for i, held in enumerate(self._held()) if held]

    def _held(self) -> list[bool]:
        if self.by_prompt:
            prompts = self._held_prompts()
            return [row.winner_text in prompts for row in self._rows]
        seen: Counter[int] = Counter()
        held = []
        for row in self._rows:
            held.append(seen[row.dimension] % HELD_OUT_ONE_IN == 0)
            seen[row.dimension] += 1
        return held

    def _held_prompts(self) -> set[str]:
        """A sixth of the prompts, rounded up, those of the smallest SHA-256, so that no order of the votes matters;
        then of each dimension at least one prompt, and not its last."""
        order = sorted({row.winner_text for row in self._rows}, key=lambda text: hashlib.sha256(text.encode()).digest())
        held = set(order[: -(-len(order) // HELD_OUT_ONE_IN)])
        for j in range(len(DIMENSIONS)):
            asked = {row.winner_text for row in self._rows if row.dimension == j}
            of_j = [text for text in order if text in asked]
            if of_j and held.isdisjoint(of_j):
                held.add(of_j[0])
            if len(of_j) > 1 and held.issuperset(of_j):
                held.discard(of_j[-1])
        return held

    def counts(self) -> dict[str, dict[str, int]]:
        """How many pairs of each dimension, by what made them."""
        found: dict[str, dict[str, int]] = {}
        for row in self._rows:
            of = found.setdefault(DIMENSIONS[row.dimension], {})
            of[row.how] = of.get(row.how, 0) + 1
        return found

    def dimension(self, index: int) -> int:
        """j of a pair."""
        return self._rows[index].dimension

    def batch(self, indices: Sequence[int]) -> Batch:
        """Pairs by index."""
        rows = [self._rows[i] for i in indices]
        pixels = np.stack([self._images[r.shard][2 * r.place + side] for side in (0, 1) for r in rows])
        images = torch.from_numpy(pixels).to(self.device).float().div(255)
        texts = [r.winner_text for r in rows] + [r.loser_text for r in rows]
        return Batch(images, texts, [r.dimension for r in rows])

    def state(self) -> list[str]:
        """Digests of the shards, in order."""
        return list(self._names)

    def restore(self, names: Sequence[str]) -> None:
        """Takes up the shards of ``state``.

        Raises:
            UserError: a shard is missing or is not what its name says.
        """
        self._names, self._images, self._rows = [], [], []
        for name in names:
            try:
                images = np.load(self.folder / f"{name}.npy")
                text = (self.folder / f"{name}.json").read_text("utf-8")
                found = _digest(images, text)
            except (OSError, ValueError) as err:
                found = str(err)
            if found != name:
                raise UserError(
                    f"feedback shard {name} in {self.folder} is gone or damaged ({found})",
                    hint="remove the run's folder: the same command then builds it anew",
                )
            self._open(name)

    def _open(self, name: str) -> None:
        rows = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        shard = len(self._images)
        self._images.append(np.load(self.folder / f"{name}.npy", mmap_mode="r"))
        self._rows += [
            _Row(DIMENSIONS.index(d), how, win, lose, shard, place) for place, (d, how, win, lose) in enumerate(rows)
        ]
        self._names.append(name)


def _digest(images: np.ndarray[Any, Any], text: str) -> str:
    found = hashlib.sha256(str(images.shape).encode())
    found.update(np.ascontiguousarray(images).data)
    found.update(text.encode())
    return found.hexdigest()[:24]
