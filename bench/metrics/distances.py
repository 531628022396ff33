"""What all distances between image sets share: features of both sides, the reference, the passport, two columns.

References, the first that there is: the file of that protocol named by ``--reference`` or found in the data folder; for
a sample edition renders of held-out scenes (exact pictures of that world); the folder named in
``TUNEBENCH_FID_REFERENCE``. Beside it, in a column of its own (``…-to-base``), stands the distance to the base model's
own images: how far tuning moved.
"""

from __future__ import annotations

import functools
import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.contract import Images, Measured, Metric, Scene
from bench.core.errors import UserError
from bench.metrics.cache import cached, stored
from bench.metrics.extractors import BATCH, FeatureNetwork, load_extractor
from bench.metrics.layout import Layout, is_base, layout
from bench.metrics.panel import stamp_of
from bench.metrics.precision import whole_float32
from bench.metrics.references import Reference, build, check_pictures, pick, pictures_of, read_reference
from bench.metrics.requirements import REFERENCE_VARIABLE

N_REFERENCE = 256
"""Renders of held-out scenes; a network pass of 0.1 s each."""

REFERENCE_SEED = 0

SHIPPED = Path(__file__).parent / "reference"
"""Features of the default reference, stored beside the code: the first run need not spend half a minute on them. They
are looked up by the renders' own digest, so a changed renderer makes them anew in the cache folder.

    python -c "from bench.metrics.distances import *; tiny_reference(load_extractor('pytorch-fid'), SHIPPED.parent)"
"""


def tiny_reference(network: FeatureNetwork, cache_dir: Path) -> Reference:
    """Renders of held-out scenes of the tiny world: the truth that its models approximate."""
    from bench.tiny.reference import reference_images

    pictures = np.stack(list(reference_images(N_REFERENCE, REFERENCE_SEED)))
    content = hashlib.sha256(pictures.tobytes()).hexdigest()

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(pictures), BATCH):
            yield torch.from_numpy(pictures[start : start + BATCH]).permute(0, 3, 1, 2)

    features = _features(content, batches, network, cache_dir)
    name = f"held-out renders, seed {REFERENCE_SEED}"
    return Reference(name, network.protocol, content, len(features), network.sha256, features)


def _features(
    content_hash: str, batches: Callable[[], Iterator[Tensor]], network: FeatureNetwork, cache_dir: Path
) -> NDArray[np.float32]:
    def compute() -> NDArray[np.float32]:
        with torch.no_grad(), whole_float32():
            return np.concatenate([network(batch).cpu().numpy() for batch in batches()])

    key = {"content": content_hash, "network": network.name}
    features = stored(SHIPPED, key)
    return cached(cache_dir / "reference", key, compute) if features is None else features


def folder_reference(folder: Path, network: FeatureNetwork, cache_dir: Path) -> Reference:
    """All pictures of a folder, sizes as they are; kept under their content.

    Raises:
        UserError: no folder, no pictures, or some that cannot be decoded.
    """
    states = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in pictures_of(folder))
    key = hashlib.sha256(f"{_content(states)} {network.name}".encode()).hexdigest()[:32]
    kept = cache_dir / "reference" / f"folder-{key}.npz"
    if kept.is_file():
        try:
            return read_reference(kept, network.protocol)
        except UserError:
            pass  # a damaged copy is made again
    from bench.metrics.references import write_reference

    made = build(folder, network)
    write_reference(kept, made)
    return made


@functools.lru_cache(maxsize=4)
def _content(states: tuple[tuple[str, int, int], ...]) -> str:
    """Content hash of pictures by (path, size, time of change): decoded once a process."""
    return check_pictures([Path(path) for path, _, _ in states])


def file_reference(path: Path, network: FeatureNetwork) -> Reference:
    """A file of statistics, made under the network's protocol by the very network.

    Raises:
        UserError: as ``read_reference``; or other weights than the network's.
    """
    state = path.stat()
    found = _read(str(path), state.st_size, state.st_mtime_ns, network.protocol)
    if found.extractor not in ("", network.sha256):
        raise UserError(f"{path} was made with other weights than {network.name}: sha256 {found.extractor[:16]}…",
                        valid=f"a reference made with sha256 {network.sha256[:16]}…",
                        hint=f"bench refs build FOLDER --protocol {network.protocol} --out FILE")  # fmt: skip
    if len(found.gaussian.mu) != network.num_features:
        raise UserError(f"{path} holds {len(found.gaussian.mu)} dimensions, {network.name} has {network.num_features}")
    return found


@functools.lru_cache(maxsize=4)
def _read(path: str, size: int, mtime_ns: int, protocol: str) -> Reference:
    return read_reference(Path(path), protocol)


def reference_of(scene: Scene, network: FeatureNetwork) -> Reference | None:
    """The reference of the scene, None where a full edition has none on this machine."""
    path = pick(scene.judging.references, network.protocol)
    if path is not None:
        return file_reference(path, network)
    if scene.suite.spec.edition == "sample":
        return tiny_reference(network, scene.cache_dir)
    folder = os.environ.get(REFERENCE_VARIABLE)
    return folder_reference(Path(folder), network, scene.cache_dir) if folder else None


class SetDistance(Metric):
    """A distance between the features of two image sets."""

    higher_is_better = False
    protocol: ClassVar[str]
    suffix: ClassVar[str] = ""
    """Of the columns: what the distance is of."""
    packages: ClassVar[tuple[str, ...]] = ()
    asset: ClassVar[str] = ""
    """Name of the network's weights in the catalogue, "" for Inception."""

    @abstractmethod
    def distance(self, x: NDArray[np.float32], reference: Reference, at: Layout, paired: bool) -> dict[str, Any]:
        """``value``, and ``ci_low``, ``ci_high``, ``detail`` where there are any, of samples ``x`` (n, d).

        ``paired``: row i of both shows the same prompt.
        """

    def notes(self, n: int) -> tuple[str, ...]:
        return ()

    @classmethod
    def depends(cls, scene: Scene) -> Any:
        path = pick(scene.judging.references, cls.protocol)
        folder = os.environ.get(REFERENCE_VARIABLE) if scene.suite.spec.edition == "full" else None
        state = [str(path), path.stat().st_size, path.stat().st_mtime_ns] if path else folder
        return {"reference": state, "weights": stamp_of(cls.asset) if cls.asset else None}

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        network = load_extractor(self.protocol, scene.device)
        tuned = self._features(scene.tuned, network)
        measured = []
        reference = reference_of(scene, network)
        kind = self.name.partition("-")[0]
        if reference is not None:
            measured.append(self._measured(f"{kind}{self.suffix}", tuned, reference, at, scene, network, paired=False))
        if not is_base(scene):
            features = self._features(scene.base, network)
            content = scene.base.folder.content_hash
            base = Reference("base model", self.protocol, content, at.n, network.sha256, features)
            name = f"{kind}-to-base{self.suffix}"
            measured.append(self._measured(name, tuned, base, at, scene, network, paired=True))
        return measured

    def precompute(self, scene: Scene) -> None:
        self._features(scene.tuned, load_extractor(self.protocol, scene.device))

    def _features(self, images: Images, network: FeatureNetwork) -> NDArray[np.float32]:
        return images.features(network.name, network)

    def _measured(
        self, name: str, x: NDArray[np.float32], reference: Reference, at: Layout, scene: Scene,
        network: FeatureNetwork, paired: bool,
    ) -> Measured:  # fmt: skip
        passport = {
            "reference": reference.content_hash, "reference_name": reference.name,
            "n_reference": reference.n, "captions": scene.suite.spec.prompt_hash, "n": at.n,
            "protocol": self.protocol, "codec": "png", "extractor": network.sha256,
            "precision": "float32 network, float64 statistics",
        }  # fmt: skip
        if paired:
            # the base images differ from run to run only with the base model, which is another column of the board
            passport |= {"reference": "base", "n_reference": at.n}
        values = self.distance(x, reference, at, paired)
        n = at.n if reference.n is None else min(at.n, reference.n)
        return Measured(name=name, higher_is_better=False, n=at.n, passport=passport, warnings=self.notes(n), **values)


def features_of(reference: Reference, metric: str) -> NDArray[np.float32]:
    """The reference's features. Raises UserError where only their mean and covariance were kept."""
    if reference.features is None:
        raise UserError(f"{metric} compares pictures one by one, and the reference {reference.name} holds mean and "
                        "covariance only", valid="a reference with features",
                        hint=f"bench refs build FOLDER --protocol {reference.protocol} --features --out F")  # fmt: skip
    return reference.features
