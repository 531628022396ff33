"""Reference pictures for FID: renders of the held-out part of the world."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.tiny.render import render
from bench.tiny.world import Scene, sample_split


def reference_scenes(n: int, seed: int) -> Iterator[Scene]:
    """`n` random held-out scenes; the first k of a seed are the same for every n."""
    rng = np.random.default_rng([0x7E57, seed])
    for _ in range(n):
        yield sample_split(rng, held=True)


def reference_images(n: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Renders of `reference_scenes`, (64, 64, 3) uint8 each."""
    for scene in reference_scenes(n, seed):
        yield render(scene)
