"""Base models: a latent-diffusion pipeline's parts behind the few calls that sampling and tuning need.

The U-Net predicts in the parametrisation it was trained in; ``bench.diffusion.samplers`` converts. Shapes: latents
(B, C, h, w), text conditions (B, L, D), images (B, 3, H, W) float32 in [0, 1].
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.core.contract import Patch
from bench.core.errors import UserError
from bench.diffusion import adapters
from bench.diffusion.sources import ModelSource, find_source

_MAX_CACHED_TEXTS = 1024
"""77 x 768 float32 is 0.24 MB: a full cache of SD1.5 is a quarter of a gigabyte."""


class BaseModel:
    """The frozen parts of a pipeline and at most one trainable adapter on its U-Net."""

    def __init__(
        self, pipeline: Any, source: ModelSource, *, device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.source = source
        self.unet = pipeline.unet
        self.vae = pipeline.vae
        self.text_encoder = pipeline.text_encoder
        self.tokenizer = pipeline.tokenizer
        self.scheduler_config: Mapping[str, Any] = dict(pipeline.scheduler.config)
        self.device = torch.device(device)
        self._unet_dtype = dtype
        # kept, as the libraries' own ``dtype`` walks all modules at each call
        self.dtype = torch.float64 if dtype == torch.float64 else torch.float32
        """Of latents, scheduler arithmetic and adapter: float32, or float64 where the whole model is (tests)."""
        for part in (self.unet, self.vae, self.text_encoder):
            part.eval().requires_grad_(False)
            # only the U-Net is worth halving; the autoencoder overflows in float16 (diffusers #7188). The plain
            # Module.to, because diffusers' own logs advice about a list that is empty here
            torch.nn.Module.to(part, device=self.device, dtype=dtype if part is self.unet else self.dtype)
        self.truncated: set[str] = set()
        """Prompts that did not fit the text encoder; their end was cut, the end-of-text token kept."""
        self._texts: OrderedDict[str, torch.Tensor] = OrderedDict()

    @property
    def prediction_type(self) -> str:
        """``epsilon``, ``v_prediction`` or ``sample``: what the U-Net was trained to predict."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    @property
    def vae_factor(self) -> int:
        """Pixels a latent cell covers along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) for images of ``resolution`` pixels a side, by default the model's own.

        Raises:
            UserError: a resolution that is no multiple of the autoencoder's factor.
        """
        side = int(self.unet.config.sample_size)
        if resolution is not None:
            if resolution <= 0 or resolution % self.vae_factor:
                raise UserError(f"resolution = {resolution}", valid=f"a multiple of {self.vae_factor}")
            side = resolution // self.vae_factor
        return int(self.unet.config.in_channels), side, side

    def encode_prompts(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, L, D) text conditions. Each text is encoded alone and cached, so that a condition never depends on which
        prompts shared its batch (kill and resume changes batches, and must not change bits)."""
        return torch.stack([self._encode(text) for text in texts])

    def _encode(self, text: str) -> torch.Tensor:
        cached = self._texts.get(text)
        if cached is None:
            length = self.tokenizer.model_max_length
            if len(self.tokenizer(text, truncation=False, verbose=False).input_ids) > length:
                self.truncated.add(text)
            ids = self.tokenizer(
                text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids.to(self.device)
            with torch.no_grad():
                cached = self.text_encoder(ids)[0][0].to(self.dtype)
            self._texts[text] = cached
            if len(self._texts) > _MAX_CACHED_TEXTS:
                self._texts.popitem(last=False)
        else:
            self._texts.move_to_end(text)
        return cached

    def denoiser(self, x_in: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """The U-Net: scaled latents (N, C, h, w), timestep (), conditions (N, L, D) → raw prediction (N, C, h, w)."""
        kind = self._unet_dtype
        out: torch.Tensor = self.unet(x_in.to(kind), t.to(self.device), encoder_hidden_states=cond.to(kind)).sample
        return out.to(self.dtype)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W) in [0, 1], float32 (float64 for a float64 model).

        The clamp cuts the gradient of saturated pixels, as in ReFL's code; tuners log the saturated share.
        """
        decoded = self.vae.decode(x / self.vae.config.scaling_factor).sample
        images: torch.Tensor = (decoded / 2 + 0.5).clamp(0, 1)
        return images

    def attach_adapter(self, *, rank: int, alpha: float, generator: torch.Generator) -> list[torch.nn.Parameter]:
        """A fresh LoRA adapter in place of any other; returns its parameters. See ``adapters.attach``."""
        return adapters.attach(self.unet, rank=rank, alpha=alpha, generator=generator, dtype=self.dtype)

    @property
    def adapter_parameters(self) -> list[torch.nn.Parameter]:
        return adapters.parameters(self.unet)

    @contextmanager
    def with_patch(self, patch: Patch) -> Iterator[BaseModel]:
        """The model as a tuner's patch leaves it: adapter off, on, or scaled."""
        if not patch.adapter:
            with adapters.disabled(self.unet):
                yield self
        else:
            with adapters.scaled(self.unet, patch.adapter_scale):
                yield self


def load_model(
    name_or_folder: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> BaseModel:  # fmt: skip
    """A base model by registered name or folder, through ``StableDiffusionPipeline.from_pretrained``.

    Args:
        dtype: of the U-Net's frozen weights; adapter, autoencoder and scheduler arithmetic are float32 whatever it is.
        revision: commit of a hub repository, in place of the pinned one.

    Raises:
        UserError: unknown name, files missing, or a checkpoint that cannot be read (names the file).
    """
    source = find_source(name_or_folder, revision=revision)
    if source.is_folder:
        check_files(Path(source.location))
    return BaseModel(_pipeline(source), source, device=device, dtype=dtype)


def _pipeline(source: ModelSource) -> Any:
    kwargs: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    if source.is_folder:
        kwargs["local_files_only"] = True
    else:
        kwargs["revision"] = source.pinned or None
    try:
        with quiet():
            from diffusers import StableDiffusionPipeline

            return StableDiffusionPipeline.from_pretrained(source.location, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as err:
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
        if source.is_folder:
            raise UserError(
                f"{source.location} does not load as a Stable Diffusion pipeline: {reason}",
                valid="the layout of StableDiffusionPipeline.save_pretrained",
            ) from err
        raise UserError(
            f"the files of model {source.name!r} ({source.location}) are neither cached here nor reachable: {reason}",
            valid=f"a machine with internet, or a copy of the repository at revision {source.pinned}",
            hint=f"--model {source.name}=/path/to/folder",
        ) from err


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the libraries' progress bars and advice, which would tear the run's own progress lines apart."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    modules = (diffusers_logging, transformers_logging)
    before = [(m, m.get_verbosity(), m.is_progress_bar_enabled()) for m in modules]
    for module in modules:
        module.set_verbosity(logging.CRITICAL)  # a missing file is logged as an error and raised: once is enough
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, level, bars in before:
            module.set_verbosity(level)
            if bars:
                module.enable_progress_bar()


def check_files(folder: Path) -> None:
    """Opens every part of a pipeline folder, so that a truncated file is named before any work starts.

    Raises:
        UserError: the file and what is wrong with it.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.rglob("*.json")):
        try:
            json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as err:
            raise UserError(f"{path} cannot be read: {err}", valid="a complete copy of the model's folder") from err
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(str(path), framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as err:
            raise UserError(
                f"the checkpoint {path} cannot be read: {err}", valid="a complete copy of the model's folder"
            ) from err
