"""Where base models come from: small frozen descriptions, read without importing torch."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.assets import Asset, catalogue, locate
from bench.assets.places import is_at_pin
from bench.core import registry
from bench.core.errors import UserError, unknown_name
from bench.core.identity import digest, file_sha256
from bench.core.types import SamplerSpec
from bench.tiny import weights_dir

_PARTS = (".safetensors", ".bin", ".json", ".txt")
"""Files that change what a model computes: weights, configs, vocabulary. A model card does not."""

PIPELINES: Mapping[str, str] = MappingProxyType({
    "StableDiffusionPipeline": "unet", "StableDiffusionXLPipeline": "unet", "StableDiffusion3Pipeline": "transformer",
})  # fmt: skip
"""Pipeline classes that ``bench.diffusion.families`` knows, with the part that is tuned."""

T5_PARTS = ("text_encoder_3", "tokenizer_3")
"""Of SD3: the third text encoder, which its pipeline can do without."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

COMMON_TUNING: Mapping[str, Any] = MappingProxyType({"lr": 2e-5, "rank": 128})
"""DRTune's protocol (arXiv 2405.00760, section 4.1): AdamW at 2e-5, LoRA rank 128, stated for SD1.5."""


@dataclass(frozen=True)
class ModelSource:
    """A base model by name: where its files are and what tuners start from on it."""

    name: str
    location: str
    """A hub id, or a folder in the layout of ``StableDiffusionPipeline.save_pretrained``."""
    pinned: str = ""
    """Commit of the hub repository; "" for folders, whose revision is the digest of their files, and for repositories
    without one, where the commit counts that the machine's cache holds."""
    licence: str = ""
    pipeline: str = ""
    """The class of its pipeline where that is known without its files."""
    without: tuple[str, ...] = ()
    """Optional parts of the pipeline that are left out."""
    tuning_defaults: Mapping[str, Any] = field(default_factory=lambda: COMMON_TUNING)
    """``lr`` and ``rank`` that a tuner takes where its own setting is 0: all tuners start equally on a model."""
    n_threads: int = 0
    """CPU threads that tuning and generation use; 0 leaves torch's own choice."""

    @property
    def is_folder(self) -> bool:
        return Path(self.location).is_dir()

    @property
    def asset(self) -> Asset | None:
        """Its entry in the catalogue of published weights, if it has one."""
        return next((a for a in catalogue().values() if a.repo == self.location), None)

    def revision(self) -> str:
        """What pins the files: the hub commit, or ``sha256:`` and a digest over every part of a folder."""
        if self.is_folder and not self.pinned:
            return f"sha256:{folder_digest(Path(self.location))}"
        return self.pinned or self._cached_commit()

    def at_revision(self) -> str:
        """For messages: which revision of the repository is meant."""
        return f" at revision {self.pinned}" if self.pinned else ", unpinned: the commit that is cached counts"

    @property
    def named_copy(self) -> str:
        """What ``--model`` takes before ``=FOLDER`` for a copy of its files: a registered name, or the hub's id."""
        return self.name if self.name in registry.entries("models") else self.location

    def file(self, name: str) -> Path | None:
        """A file of the model where it is on this machine, such as ``scheduler/scheduler_config.json``."""
        if self.is_folder:
            path = Path(self.location, name)
            return path if path.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        if not _HUB_ID.fullmatch(self.location):
            return None
        found = try_to_load_from_cache(self.location, name, revision=self.pinned or None)
        return Path(found) if isinstance(found, str) else None

    def pipeline_class(self) -> str:
        """The class that its ``model_index.json`` names, or, where the files are not here, what is known of it.

        Raises:
            UserError: a class that we have no code for, or not the one of the model that it is said to be.
        """
        index = self.file("model_index.json")
        if index is None:
            return self.pipeline
        try:
            found = str(json.loads(index.read_text("utf-8"))["_class_name"])
        except (ValueError, KeyError, TypeError) as err:
            raise UserError(f"{index} cannot be read: {err!r}", valid="a complete copy of the model's folder") from err
        if found not in PIPELINES:
            raise UserError(f"{index.parent} holds a {found}, which cannot be tuned here", valid=", ".join(PIPELINES))
        if self.pipeline and found != self.pipeline:
            raise UserError(f"{index.parent} holds a {found}, and {self.name} is a {self.pipeline}",
                            valid=f"a copy of {self.name}", hint=f"--model {index.parent}")  # fmt: skip
        return found

    def absent_parts(self) -> tuple[str, ...]:
        """Optional text encoders that its folder does not have; a pipeline loads without them only if told so."""
        index = self.file("model_index.json")
        listed = json.loads(index.read_text("utf-8")) if index is not None else {}
        if listed.get("_class_name") != "StableDiffusion3Pipeline":
            return ()
        return tuple(part for part in T5_PARTS if (listed.get(part) or [None])[0] is None)

    @property
    def is_flow(self) -> bool:
        """Whether it is a flow-matching transformer, which one sampler draws from and whose attention nobody leads."""
        return PIPELINES.get(self.pipeline_class()) == "transformer"

    def sampler(self, spec: SamplerSpec) -> SamplerSpec:
        """The suite's sampler on this model: a flow model's own Euler step takes its place, at its number of steps and
        guidance."""
        return replace(spec, scheduler="flow-euler", eta=0.0) if self.is_flow else spec

    def _cached_commit(self) -> str:
        index = self.file("model_index.json")
        return index.parent.name if index is not None else ""


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
        pipeline="StableDiffusionPipeline",
    )


def sdxl() -> ModelSource:
    """Stable Diffusion XL base 1.0 (Podell et al., arXiv 2307.01952), what DRTune's FDXL starts from."""
    return ModelSource(
        name="sdxl",
        location="stabilityai/stable-diffusion-xl-base-1.0",
        pinned="462165984030d82259a11f4367a4eed129e94a7b",
        licence="CreativeML Open RAIL++-M",
        pipeline="StableDiffusionXLPipeline",
        # DRTune's FDXL states its learning rate and no rank: the common protocol's
        tuning_defaults=MappingProxyType({"lr": 5e-6, "rank": 128}),
    )


def sd35_medium() -> ModelSource:
    """Stable Diffusion 3.5 medium (Esser et al., arXiv 2403.03206), a flow-matching transformer."""
    return ModelSource(
        name="sd35-medium",
        location="stabilityai/stable-diffusion-3.5-medium",
        pinned="b940f670f0eda2d07fbb75229e779da1ad11eb80",
        licence="Stability AI Community License",
        pipeline="StableDiffusion3Pipeline",
    )


def sd35_medium_no_t5() -> ModelSource:
    """Stable Diffusion 3.5 medium without its third text encoder, which is twice as big as the model."""
    return replace(sd35_medium(), name="sd35-medium-no-t5", without=T5_PARTS)


def find_source(name_or_folder: str, *, revision: str | None = None) -> ModelSource:
    """A registered model by name, any folder in a pipeline's layout, or any repository of the hub by its id.

    ``NAME=FOLDER`` is the registered model read from a local folder (its tuning defaults stay), ``ORG/NAME=FOLDER`` a
    copy of that repository; ``ORG/NAME@COMMIT`` pins a repository.

    Raises:
        UserError: neither a name, a folder with a ``model_index.json`` nor an id; or a pipeline that we cannot tune.
    """
    name, sign, folder = name_or_folder.partition("=")
    if Path(name_or_folder, "model_index.json").is_file():
        name = name_or_folder  # a folder's name may hold the sign
    elif sign:
        return _named_folder(name, folder, revision)
    here = Path(name, "model_index.json").is_file()
    repository, _, commit = name.partition("@")
    if not here and _HUB_ID.fullmatch(repository) and not name.startswith(".") and not Path(name).exists():
        source = ModelSource(name=repository.rpartition("/")[2], location=repository, pinned=commit)
    elif here or "/" in name or name.startswith("."):
        source = ModelSource(name=Path(name).name or name, location=name)
        _need_layout(Path(name))
    else:
        source = registry.load("models", name)()
        if revision in (None, source.pinned):
            source = _located(source)
    source = replace(source, pinned=revision) if revision is not None else source
    source.pipeline_class()
    return source


def _named_folder(name: str, folder: str, revision: str | None) -> ModelSource:
    """``NAME=FOLDER``. Raises UserError that says which of both is wrong, and what else is."""
    known = registry.entries("models")
    repository = name.partition("@")[0]
    is_id = bool(_HUB_ID.fullmatch(repository)) and not name.startswith(".")
    if known and name not in known and not is_id:
        err = unknown_name("model", name, known, "bench list models")
        here = Path(folder, "model_index.json").is_file()
        raise UserError(
            f"--model {name}={folder}: {err.problem}, and NAME=FOLDER is for a registered model's own files"
            + ("" if here else f"; nor does {folder} hold a diffusion pipeline"),
            valid=err.valid, hint=f"--model {folder}, which a folder alone is" if here else err.hint,
        )  # fmt: skip
    if is_id:
        source = ModelSource(name=repository.rpartition("/")[2], location=repository)
    else:
        source = registry.load("models", name)()
    if not folder:
        raise UserError(f"--model {name}= names no folder", hint=f"--model {name}, or --model {name}=FOLDER")
    _need_layout(Path(folder))
    source = replace(source, location=folder, pinned=revision or "")
    source.pipeline_class()
    return source


def _located(source: ModelSource) -> ModelSource:
    """The same, read from where ``bench assets status`` finds it on this machine."""
    asset = source.asset
    if asset is None or asset.revision != source.pinned:
        return source
    folder = locate(asset)
    if folder is None:
        return source
    # a folder of the user's own is what it holds, whatever it is called
    return replace(source, location=str(folder), pinned=source.pinned if is_at_pin(asset, folder) else "")


def _need_layout(folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} holds no diffusion pipeline" if folder.is_dir() else f"there is no folder {folder}",
            valid="a folder with model_index.json and the parts that it names: unet/ or transformer/, vae/, "
            "text_encoder/, tokenizer/, scheduler/",
            hint="bench list models",
        )


@functools.cache
def folder_digest(folder: Path) -> str:
    """A digest over names and contents of all parts of a pipeline folder, 16 hex digits."""
    parts = sorted(p for p in folder.rglob("*") if p.suffix in _PARTS and p.is_file())
    return digest({p.relative_to(folder).as_posix(): file_sha256(p) for p in parts}, 16)
