from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from metric_world import make_suite, picture, save_images, suite_keys

from bench.core.contract import Scene
from bench.core.types import Suite
from bench.metrics.images import ImagesOnDisk

sys.path.append(str(Path(__file__).parents[1] / "rewards"))  # random_clip


@pytest.fixture
def make_scene(tmp_path: Path) -> Callable[..., Scene]:
    """A scene of tuned and base images; ``pictures`` and ``base_pictures`` give the i-th of each."""

    def make(
        pictures: Callable[[int], np.ndarray] = picture,
        base_pictures: Callable[[int], np.ndarray] | None = lambda i: picture(100 + i),
        suite: Suite | None = None,
        trained_reward: str = "symmetry",
    ) -> Scene:
        suite = suite or make_suite()
        cache = tmp_path / "cache"
        tuned = ImagesOnDisk(save_images(tmp_path / "tuned", pictures, suite_keys(suite)), cache)
        base = tuned
        if base_pictures is not None:
            base = ImagesOnDisk(save_images(tmp_path / "base", base_pictures, suite_keys(suite)), cache)
        return Scene(suite, tuned, base, trained_reward, "cpu", cache)

    return make
