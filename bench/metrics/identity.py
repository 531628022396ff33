"""Identity of a personalised model's images: how like the subject of some photographs they are to a face network."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.assets.files import sha256_of, sha256_of_all, weights_in
from bench.core.contract import Measured, Metric, Scene
from bench.core.errors import UserError
from bench.core.paired import cluster_mean_ci
from bench.diffusion.models import quiet
from bench.diffusion.pretrained import load_pretrained, reading
from bench.metrics.layout import absent, layout
from bench.metrics.precision import whole_float32
from bench.metrics.references import check_pictures, pictures_of

FACE_SIDE = 112
"""ArcFace's input."""


class Identity(Metric):
    """Mean cosine of each image to the mean embedding of the subject's photographs; higher is better.

    The embedder is the user's (ArcFace's weights have no free licence): a TorchScript file that takes (B, 3, 112, 112)
    in [-1, 1], or a transformers folder of an image model, whose pooled output is taken. Faces are not aligned:
    photographs and images must be portraits cut alike.
    """

    name = "identity"
    higher_is_better = True

    @classmethod
    def depends(cls, scene: Scene) -> Any:
        named = [Path(p) for p in (scene.judging.subject, scene.judging.embedder) if p]
        return [[str(p), p.stat().st_mtime_ns] for p in named if p.exists()]

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        subject, where = scene.judging.subject, scene.judging.embedder
        if not subject or not where:
            return [absent("identity", "no subject: --subject FOLDER of photographs and --embedder FILE")]
        embed, sha = load_embedder(Path(where), scene.device)
        photographs = pictures_of(Path(subject))
        content = check_pictures(photographs)
        with torch.no_grad(), whole_float32():
            each = torch.cat([F.normalize(embed(_read(path)), dim=-1) for path in photographs])
        centre = F.normalize(each.double().mean(0), dim=-1).cpu().numpy()
        values: NDArray[np.float64] = _embedded(scene, embed, sha).astype(np.float64) @ centre
        mean = cluster_mean_ci(values, at.prompt_ids)
        ceiling = float((each.cpu().double().numpy() @ centre).mean())
        return [Measured(
            name=f"identity/{Path(where).stem}", value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high,
            higher_is_better=True, n=at.n, unit="cosine", per_image=tuple(map(float, values)),
            passport={"subject": content, "embedder": sha, "captions": scene.suite.spec.prompt_hash, "n": at.n},
            detail={"n_photographs": len(photographs), "photographs_to_their_mean": ceiling},
        )]  # fmt: skip

    def precompute(self, scene: Scene) -> None:
        if scene.judging.subject and scene.judging.embedder:
            _embedded(scene, *load_embedder(Path(scene.judging.embedder), scene.device))


def _embedded(scene: Scene, embed: Embed, sha256: str) -> NDArray[np.float32]:
    return scene.tuned.features(f"embedder-{sha256[:16]}", lambda batch: F.normalize(embed(batch), dim=-1))


Embed = Callable[[Tensor], Tensor]
"""(B, 3, H, W) uint8 → (B, D)"""


@functools.lru_cache(maxsize=1)
def load_embedder(where: Path, device: str) -> tuple[Embed, str]:
    """The embedder in a TorchScript file or a transformers folder, and its digest.

    Raises:
        UserError: neither of the two.
    """
    valid = "a TorchScript file of (B, 3, 112, 112) in [-1, 1] → (B, D), or a transformers folder of an image model"
    if where.is_file():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # such networks are handed round as TorchScript
                script: Any = torch.jit.load(str(where), map_location=device).eval()  # type: ignore[no-untyped-call]
        except RuntimeError as err:
            raise UserError(f"{where} is no TorchScript file: {str(err).splitlines()[0]}", valid=valid) from err
        return (lambda images: script(_sized(images.to(device), FACE_SIDE, 0.5, 0.5)).float()), sha256_of(where)
    weights = weights_in(where)
    if not weights or not (where / "config.json").is_file():
        raise UserError(f"{where} holds no image embedder", valid=valid, hint="--embedder FILE_OR_FOLDER")
    from transformers import AutoImageProcessor, AutoModel

    with reading(where), quiet():
        processor: Any = AutoImageProcessor.from_pretrained(where, local_files_only=True)
        model: Any = load_pretrained(AutoModel, where)
    model = model.eval().requires_grad_(False).to(device)

    def embed(images: Tensor) -> Tensor:
        pixels = processor(list(images.cpu()), return_tensors="pt")["pixel_values"].to(device)
        out = model(pixel_values=pixels)
        pooled: Tensor = out.pooler_output if out.pooler_output is not None else out.last_hidden_state[:, 0]
        return pooled.float()

    return embed, hashlib.sha256(f"{sha256_of_all(weights)} transformers".encode()).hexdigest()


def _sized(images: Tensor, side: int, mean: float, std: float) -> Tensor:
    x = F.interpolate(images.float() / 255, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return (x - mean) / std


def _read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
