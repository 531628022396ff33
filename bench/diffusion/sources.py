"""Where base models come from: small frozen descriptions, read without importing torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.core import registry
from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256
from bench.tiny import weights_dir

_PARTS = (".safetensors", ".bin", ".json", ".txt")
"""Files that change what a model computes: weights, configs, vocabulary. A model card does not."""

COMMON_TUNING: Mapping[str, Any] = MappingProxyType({"lr": 2e-5, "rank": 128})
"""DRTune's protocol (arXiv 2405.00760, section 4.1): AdamW at 2e-5, LoRA rank 128, stated for SD1.5."""


@dataclass(frozen=True)
class ModelSource:
    """A base model by name: where its files are and what tuners start from on it."""

    name: str
    location: str
    """A hub id, or a folder in the layout of ``StableDiffusionPipeline.save_pretrained``."""
    pinned: str = ""
    """Commit of the hub repository; "" for folders, whose revision is the digest of their files."""
    licence: str = ""
    tuning_defaults: Mapping[str, Any] = field(default_factory=lambda: COMMON_TUNING)
    """``lr`` and ``rank`` that a tuner takes where its own setting is 0: all tuners start equally on a model."""
    n_threads: int = 0
    """CPU threads that tuning and generation use; 0 leaves torch's own choice."""

    @property
    def is_folder(self) -> bool:
        return Path(self.location).is_dir()

    def revision(self) -> str:
        """What pins the files: the hub commit, or ``sha256:`` and a digest over every part of a folder."""
        if self.is_folder:
            return f"sha256:{folder_digest(Path(self.location))}"
        return self.pinned


def tiny_sd() -> ModelSource:
    """The embedded base model: Stable Diffusion's classes at 64x64, trained on the tiny world."""
    return ModelSource(
        name="tiny-sd",
        location=str(weights_dir() / "tiny-sd"),
        licence="Apache-2.0",
        # 2e-5 would not move a model this small within a sample budget; 1e-3 and 3e-3 lowered the very reward that they
        # tuned for (coco sample, 48,000 and 20,000 U)
        tuning_defaults=MappingProxyType({"lr": 3e-4, "rank": 8}),
        # layers this small only wait for each other: 450 U/s on one thread, 300 on two
        n_threads=1,
    )


def sd15() -> ModelSource:
    """Stable Diffusion 1.5 (Rombach et al., arXiv 2112.10752), the base model of DRTune's protocol."""
    return ModelSource(
        name="sd15",
        location="stable-diffusion-v1-5/stable-diffusion-v1-5",
        pinned="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        licence="CreativeML Open RAIL-M",
    )


def find_source(name_or_folder: str, *, revision: str | None = None) -> ModelSource:
    """A registered model by name, or any folder in the pipeline layout.

    ``NAME=FOLDER`` is the registered model read from a local folder (its tuning defaults stay).

    Raises:
        UserError: neither a name nor a folder with a ``model_index.json``.
    """
    name, _, folder = name_or_folder.partition("=")
    if "/" in name or name.startswith(".") or Path(name, "model_index.json").is_file():
        source = ModelSource(name=Path(name).name or name, location=name)
        _need_layout(Path(name))
    else:
        source = registry.load("models", name)()
    if folder:
        _need_layout(Path(folder))
        source = replace(source, location=folder, pinned="")
    return replace(source, pinned=revision) if revision is not None else source


def _need_layout(folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} holds no diffusion pipeline",
            valid="a folder with model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/",
            hint="bench list models",
        )


@functools.cache
def folder_digest(folder: Path) -> str:
    """A digest over names and contents of all parts of a pipeline folder, 16 hex digits."""
    parts = sorted(p for p in folder.rglob("*") if p.suffix in _PARTS and p.is_file())
    return digest({p.relative_to(folder).as_posix(): file_sha256(p) for p in parts}, 16)
