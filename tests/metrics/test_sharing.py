"""Every built-in metric: what it asks of parts of the images, by other processes, is all that it asks of an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from metric_world import make_suite, picture, save_images, suite_keys
from test_judged import QUESTIONS, BrightnessReader

from bench.core import registry
from bench.core.contract import ImageFolder, Metric, Scene
from bench.core.judging import Judging
from bench.core.types import GraphQuestion
from bench.metrics.cache import stored
from bench.metrics.extractors import FeatureNetwork
from bench.metrics.images import FEATURE_BATCH, ImagesOnDisk, content_hash

SUITE = make_suite((*QUESTIONS, GraphQuestion("p0", "is it there?", ("yes", "no"), "yes", "object", 1, ())),
                   seeds=tuple(range(23)))  # fmt: skip
N = 69
BUILT_IN = sorted(name for name, entry in registry.entries("metrics").items() if entry.target.startswith("bench."))


class Small(FeatureNetwork):
    """Colours at 16 places, in place of Inception and its like."""

    sha256, num_features, device = "0" * 64, 48, "cpu"

    def __init__(self, protocol: str) -> None:
        super().__init__()
        self.protocol = protocol

    @property
    def name(self) -> str:
        return f"small-{self.protocol}"

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255

    def embed(self, prepared: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(prepared, 4).flatten(1)


def test_all_that_ships_is_here() -> None:
    assert {"fid", "kid", "fd-dinov2", "cmmd", "clipscore", "diversity", "tifa", "rewards", "colour", "jpeg-size",
            "identity"} <= set(BUILT_IN)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageFolder, ImageFolder]:
    """Tuned and base images."""
    root = tmp_path_factory.mktemp("images")
    return (save_images(root / "tuned", picture, suite_keys(SUITE)),
            save_images(root / "base", lambda i: picture(100 + i), suite_keys(SUITE)))  # fmt: skip


def only_stored(folder: Path, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """``bench.metrics.cache.cached`` for which nothing may be missing."""
    found = stored(folder, key)
    assert found is not None, f"asked again: {key}"
    return found


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_scores_of_parts_are_those_of_one_process_which_then_asks_nothing(
    name: str, folders: tuple[ImageFolder, ImageFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.metrics.distances.load_extractor", lambda protocol, device: Small(protocol))
    monkeypatch.setattr("bench.metrics.distances.tiny_reference", lambda network, cache: None)
    monkeypatch.setattr("bench.metrics.tifa.reader_of", lambda judging, device: BrightnessReader())
    monkeypatch.setattr("bench.metrics.identity.load_embedder", lambda where, device: (Small("faces"), "f" * 64))
    metric: Metric = registry.load("metrics", name)()
    judging = Judging(subject=str(folders[1].root), embedder="face.pt")

    def scene(cache: str, make: Callable[[ImageFolder, Path], ImagesOnDisk] = ImagesOnDisk, *, base: bool) -> Scene:
        images = [make(folder, tmp_path / cache) for folder in folders]
        return Scene(SUITE, images[1 if base else 0], images[1], "symmetry", "cpu", tmp_path / cache, judging=judging)

    def stretch(lo: int, hi: int) -> Callable[[ImageFolder, Path], ImagesOnDisk]:
        def make(folder: ImageFolder, cache: Path) -> ImagesOnDisk:
            refs = folder.refs[lo:hi]
            return ImagesOnDisk(ImageFolder(folder.root, refs, content_hash(refs)), cache, first=lo, n_all=N)

        return make

    alone = [metric.score(scene("alone", base=base)) for base in (True, False)]
    for lo, hi in ((FEATURE_BATCH, N), (0, FEATURE_BATCH)):
        for base in (True, False):
            part = scene("shared", stretch(lo, hi), base=base)
            metric.precompute(dataclasses.replace(part, base=part.tuned))

    monkeypatch.setattr("bench.metrics.images.cached", only_stored)
    together = [metric.score(scene("shared", base=base)) for base in (True, False)]
    assert together == alone
    assert [m for m in alone[1] if m.value is not None]
