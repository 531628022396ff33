"""FID and KID with the published Inception network, each value with the passport that it is comparable under.

References: editions of the tiny world are compared with renders of held-out scenes (exact pictures of that world); a
``full`` edition with the folder named in ``TUNEBENCH_FID_REFERENCE``, where the user has the photographs. Beside it, in
a column of its own (``fid-to-base``), stands the distance to the base model's own images: how far tuning moved.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bench.core.contract import Images, Measured, Metric, Scene
from bench.core.errors import UserError
from bench.metrics import inception
from bench.metrics.cache import cached, stored
from bench.metrics.frechet import cluster_draws, frechet_distance, kernel_distance
from bench.metrics.layout import Layout, is_base, layout
from bench.metrics.protocols import PROTOCOLS
from bench.metrics.requirements import INCEPTION_PACKAGE

N_REFERENCE = 256
"""Renders of held-out scenes; a network pass of 0.1 s each."""

REFERENCE_SEED = 0
REFERENCE_VARIABLE = "TUNEBENCH_FID_REFERENCE"
"""Environment variable with the folder of reference photographs of a full edition."""

SHIPPED = Path(__file__).parent / "reference"
"""Features of the default reference, stored beside the code: the first run need not spend half a minute on them. They
are looked up by the renders' own digest, so a changed renderer makes them anew in the cache folder.

    python -c "from bench.metrics.fid import *; tiny_reference(Extractor('pytorch-fid'), SHIPPED.parent)"
"""

N_FOR_A_LOW_BIAS = 2048
N_BOOT = 1000
_BATCH = 32


class Extractor(nn.Module):
    """(B, 3, H, W) uint8 → (B, 2048): a protocol and the network; also torchmetrics' ``feature`` module.

    Args:
        protocol: a name of ``PROTOCOLS``.
        device: where the network runs.
    """

    num_features = inception.DIM

    def __init__(self, protocol: str, device: str = "cpu") -> None:
        super().__init__()
        self.protocol = protocol
        self.network = inception.load_inception(device)
        self.device = device

    @property
    def name(self) -> str:
        """What features are cached under: weights digest and preprocessing."""
        return f"inception-{inception.SHA256[:16]}-{self.protocol}"

    def forward(self, images: Tensor) -> Tensor:
        parts = torch.split(images.to(self.device), _BATCH)
        return torch.cat([self.network(PROTOCOLS[self.protocol](part)) for part in parts])


@dataclass(frozen=True)
class Reference:
    """Features of the pictures that samples are compared with."""

    name: str
    content_hash: str
    features: NDArray[np.float32]


def tiny_reference(extractor: Extractor, cache_dir: Path) -> Reference:
    """Renders of held-out scenes of the tiny world: the truth that its models approximate."""
    from bench.tiny.reference import reference_images

    pictures = np.stack(list(reference_images(N_REFERENCE, REFERENCE_SEED)))
    content = hashlib.sha256(pictures.tobytes()).hexdigest()

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(pictures), _BATCH):
            yield torch.from_numpy(pictures[start : start + _BATCH]).permute(0, 3, 1, 2)

    return _reference(f"held-out renders, seed {REFERENCE_SEED}", content, batches, extractor, cache_dir)


def folder_reference(folder: Path, extractor: Extractor, cache_dir: Path) -> Reference:
    """All pictures of a folder, sizes as they are.

    Raises:
        UserError: no folder, no pictures, or one that cannot be read.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    if not paths:
        raise UserError(
            f"{REFERENCE_VARIABLE}: there are no pictures in {folder}", valid="a folder of .png, .jpg or .webp"
        )
    digests = hashlib.sha256()
    for path in paths:
        digests.update(hashlib.sha256(path.read_bytes()).digest())

    def batches() -> Iterator[Tensor]:
        for path in paths:
            try:
                with Image.open(path) as image:
                    pixels = np.array(image.convert("RGB"))
            except (OSError, SyntaxError) as err:
                raise UserError(f"{path} is no readable picture: {err}") from err
            yield torch.from_numpy(pixels).permute(2, 0, 1)[None]

    return _reference(folder.name, digests.hexdigest(), batches, extractor, cache_dir)


def _reference(
    name: str, content_hash: str, batches: Callable[[], Iterator[Tensor]], extractor: Extractor, cache_dir: Path
) -> Reference:
    def compute() -> NDArray[np.float32]:
        with torch.no_grad():
            return np.concatenate([extractor(batch).cpu().numpy() for batch in batches()])

    key = {"content": content_hash, "network": extractor.name}
    features = stored(SHIPPED, key)
    if features is None:
        features = cached(cache_dir / "reference", key, compute)
    return Reference(name, content_hash, features)


def reference_of(scene: Scene, extractor: Extractor) -> Reference | None:
    """The reference of the suite's edition, None where a full edition has none on this machine."""
    if scene.suite.spec.edition == "sample":
        return tiny_reference(extractor, scene.cache_dir)
    folder = os.environ.get(REFERENCE_VARIABLE)
    return folder_reference(Path(folder), extractor, scene.cache_dir) if folder else None


class _InceptionMetric(Metric):
    """What FID and KID share: features of both sides, passport, and the pair of columns."""

    higher_is_better = False
    packages = (INCEPTION_PACKAGE,)
    protocol: ClassVar[str] = "pytorch-fid"

    @abstractmethod
    def distance(self, x: NDArray[np.float32], y: NDArray[np.float32], at: Layout, paired: bool) -> dict[str, Any]:
        """``value``, and ``ci_low``, ``ci_high`` where there are any, of samples ``x`` against ``y``.

        ``paired``: row i of both shows the same prompt.
        """

    def notes(self, n: int) -> tuple[str, ...]:
        return ()

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        extractor = Extractor(self.protocol, scene.device)
        tuned = self._features(scene.tuned, extractor)
        measured = []
        reference = reference_of(scene, extractor)
        suffix = "" if self.protocol == "pytorch-fid" else f"/{self.protocol}"
        kind = self.name.partition("-")[0]
        if reference is not None:
            measured.append(self._measured(f"{kind}{suffix}", tuned, reference, at, scene, paired=False))
        if not is_base(scene):
            base = Reference("base model", scene.base.folder.content_hash, self._features(scene.base, extractor))
            measured.append(self._measured(f"{kind}-to-base{suffix}", tuned, base, at, scene, paired=True))
        return measured

    def _features(self, images: Images, extractor: Extractor) -> NDArray[np.float32]:
        return images.features(extractor.name, extractor)

    def _measured(
        self, name: str, x: NDArray[np.float32], reference: Reference, at: Layout, scene: Scene, paired: bool
    ) -> Measured:
        passport = {
            "reference": reference.content_hash, "reference_name": reference.name,
            "n_reference": len(reference.features), "captions": scene.suite.spec.prompt_hash, "n": at.n,
            "protocol": self.protocol, "codec": "png", "extractor": inception.SHA256,
            "precision": "float32 network, float64 statistics",
        }  # fmt: skip
        if paired:
            # the base images differ from run to run only with the base model, which is another column of the board
            passport |= {"reference": "base", "n_reference": at.n}
        values = self.distance(x, reference.features, at, paired)
        n = min(at.n, len(reference.features))
        return Measured(name=name, higher_is_better=False, n=at.n, passport=passport, warnings=self.notes(n), **values)


class FID(_InceptionMetric):
    """Fréchet Inception distance, preprocessing of pytorch-fid (which RealignDiff cites); lower is better."""

    name = "fid"

    def distance(self, x: NDArray[np.float32], y: NDArray[np.float32], at: Layout, paired: bool) -> dict[str, Any]:
        return {"value": frechet_distance(x, y)}

    def notes(self, n: int) -> tuple[str, ...]:
        if n >= N_FOR_A_LOW_BIAS:
            return ()
        return (
            f"FID of {n} images is far above its limit for many (same pictures: about 73 at n = 200, 229 at n = 25): "
            f"compare at equal n only, and see KID, which has no such bias",
        )


class FIDTorchFidelity(FID):
    """Fréchet Inception distance, preprocessing of torch-fidelity; lower is better."""

    name = "fid-torch-fidelity"
    protocol = "torch-fidelity"


class FIDClean(FID):
    """Fréchet Inception distance, preprocessing of clean-fid; lower is better."""

    name = "fid-clean"
    protocol = "clean"


class KID(_InceptionMetric):
    """Kernel Inception distance, one unbiased estimate over all images with a bootstrap interval; lower is better."""

    name = "kid"

    def distance(self, x: NDArray[np.float32], y: NDArray[np.float32], at: Layout, paired: bool) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        n_boot = N_BOOT if max(len(x), len(y)) <= 5000 else 200
        draws_x = cluster_draws(at.prompt_ids, n_boot, rng)
        pictures = tuple(str(i) for i in range(len(y)))
        draws_y = draws_x if paired else cluster_draws(pictures, n_boot, rng)
        result = kernel_distance(x, y, draws_x, draws_y, at.prompt_ids if paired else None)
        return {"value": result.value, "ci_low": result.ci_low, "ci_high": result.ci_high}
