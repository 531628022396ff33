"""Base models: a latent-diffusion pipeline's parts behind the few calls that sampling and tuning need.

The denoiser predicts in the parametrisation it was trained in; ``bench.diffusion.samplers`` converts. Shapes: latents
(B, C, h, w), text conditions (B, L, D), images (B, 3, H, W) float32 in [0, 1].
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from bench.core.contract import Patch
from bench.core.errors import UserError
from bench.diffusion import adapters, halved_gradients
from bench.diffusion.families import FAMILIES, family_of, images_of
from bench.diffusion.memory import Fits
from bench.diffusion.sources import ModelSource, find_source

_MAX_CACHED_BYTES = 2**28
"""Text conditions that are kept: a thousand of SD1.5 in float32 (77 x 768 numbers each), fifty of SD3 with T5."""


class BaseModel:
    """The frozen parts of a pipeline and at most one trainable adapter on its denoiser.

    Which pipelines differ in what is in ``bench.diffusion.families``.
    """

    def __init__(
        self, pipeline: Any, source: ModelSource, *, device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.source = source
        self.family = family_of(pipeline)
        self.unet = getattr(pipeline, self.family.denoiser)
        """The denoiser: a U-Net, or the transformer of a flow model."""
        self.vae = pipeline.vae
        self.text_encoder = pipeline.text_encoder
        self.tokenizer = pipeline.tokenizer
        self.scheduler_config: Mapping[str, Any] = {
            **pipeline.scheduler.config,
            "_class_name": type(pipeline.scheduler).__name__,
        }
        self.device = torch.device(device)
        self.network_dtype = dtype
        """Of the denoiser's frozen weights."""
        # kept, as the libraries' own ``dtype`` walks all modules at each call
        self.dtype = torch.float64 if dtype == torch.float64 else torch.float32
        """Of latents, scheduler arithmetic and adapter: float32, or float64 where the whole model is (tests)."""
        for part in (self.unet, self.vae, *self.family.text_encoders):
            part.eval().requires_grad_(False)
            # The plain Module.to, because diffusers' own logs advice about a list that is empty here
            torch.nn.Module.to(part, device=self.device, dtype=self._dtype_of(part))
        self.truncated: set[str] = set()
        """Prompts that did not fit some text encoder; their end was cut, the end-of-text token kept."""
        self.fits = Fits()
        self.computed: Mapping[str, Any] = {}
        """How, where that is not the plain way: see ``bench.diffusion.execution``."""
        self.compiled = False
        self.repeating = False
        """Whether images are being decoded once more for a backward: work, but no further images."""
        self._texts: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._cached_bytes = 0

    def _dtype_of(self, part: Any) -> torch.dtype:
        """The denoiser is worth halving, and T5, which overflows in float16; the autoencoder overflows too (diffusers
        #7188) and stays as precise as the latents, and so do the CLIP towers, whose work is done once a text."""
        if part is self.unet:
            return self.network_dtype
        if type(part).__name__.startswith("T5") and self.dtype == torch.float32:
            return _half_t5(self.network_dtype)
        return self.dtype

    @property
    def prediction_type(self) -> str:
        """``epsilon``, ``v_prediction`` or ``sample``: what the U-Net was trained to predict; ``flow_prediction`` is
        the velocity eps - x0 of a flow model."""
        return "flow_prediction" if self.family.flow else str(self.scheduler_config.get("prediction_type", "epsilon"))

    @property
    def vae_factor(self) -> int:
        """Pixels a latent cell covers along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) for images of ``resolution`` pixels a side, by default the model's own.

        Raises:
            UserError: a resolution that is no multiple of what the model can draw.
        """
        side = int(self.unet.config.sample_size)
        if resolution is not None:
            # a transformer reads latents in patches
            multiple = self.vae_factor * int(self.unet.config.get("patch_size", 1))
            if resolution <= 0 or resolution % multiple:
                raise UserError(f"resolution = {resolution}", valid=f"a multiple of {multiple}")
            side = resolution // self.vae_factor
        return int(self.unet.config.in_channels), side, side

    def encode_prompts(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, L, D) text conditions, as ``denoiser`` takes them. Each text is encoded alone and cached, so that a
        condition never depends on which prompts shared its batch (kill and resume changes batches, and must not change
        bits). The empty text is the unconditional branch."""
        return torch.stack([self._encode(text) for text in texts])

    def _encode(self, text: str) -> torch.Tensor:
        cached = self._texts.get(text)
        if cached is None:
            if self.family.is_cut(text):
                self.truncated.add(text)
            with torch.no_grad():
                cached = self.family.pack(*self.family.encode(text, self.device)).to(self.dtype)
            self._texts[text] = cached
            self._cached_bytes += cached.nbytes
            while self._cached_bytes > _MAX_CACHED_BYTES and len(self._texts) > 1:
                self._cached_bytes -= self._texts.popitem(last=False)[1].nbytes
        else:
            self._texts.move_to_end(text)
        return cached

    def split(self, cond: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What attention reads of conditions (B, L, D), and the pooled embedding below it, (B, P) or None."""
        return self.family.split(cond)

    def denoiser(self, x_in: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """The network: scaled latents (N, C, h, w), timestep () or (N,), conditions (N, L, D) → its raw prediction
        (N, C, h, w)."""
        kind = self.network_dtype
        text, pooled = self.split(cond.to(kind))
        x_in = halved_gradients.leave(x_in, kind).to(kind)
        args, kwargs = self.family.arguments(x_in, t.to(self.device), text, pooled, self.vae_factor)
        out: torch.Tensor = self.unet(*args, **kwargs).sample
        return halved_gradients.enter(out.to(self.dtype), kind)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W) in [0, 1], float32 (float64 for a float64 model).

        The clamp cuts the gradient of saturated pixels, as in ReFL's code; tuners log the saturated share. With slices
        (``--vae-slicing``) the backward too goes image by image, each decoded once more for it: the decoder's graph in
        float32 is what a batch needs most memory for, 7 GB an image of 512 pixels.
        """
        if not (self.slices and x.requires_grad and torch.is_grad_enabled()):
            return self._decode(x)
        return torch.cat([
            checkpoint(self._decode, one, use_reentrant=False, preserve_rng_state=False, context_fn=self._once_more)
            for one in torch.split(x, 1)
        ])  # fmt: skip

    @property
    def slices(self) -> bool:
        """Whether images are decoded one by one."""
        return bool(getattr(self.vae, "use_slicing", False))

    def _once_more(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """What a checkpoint's forward and its repetition run in."""
        return nullcontext(), _Repeating(self)

    def _decode(self, x: torch.Tensor) -> torch.Tensor:
        decoded = self.vae.decode(images_of(x, self.vae.config)).sample
        images: torch.Tensor = (decoded / 2 + 0.5).clamp(0, 1)
        return images

    def attach_adapter(
        self, *, rank: int, alpha: float, generator: torch.Generator, targets: str = adapters.ATTENTION
    ) -> list[torch.nn.Parameter]:
        """A fresh LoRA adapter in place of any other; returns its parameters. See ``adapters.attach``."""
        parameters = adapters.attach(
            self.unet, rank=rank, alpha=alpha, generator=generator, dtype=self.dtype, targets=targets
        )
        halved_gradients.unscale(parameters, self.network_dtype)
        return parameters

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


class _Repeating:
    """``repeating`` inside. Entered once for each backward, so no generator's context."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._model.repeating = True

    def __exit__(self, *_: object) -> None:
        self._model.repeating = False


def load_model(
    name_or_folder: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> BaseModel:  # fmt: skip
    """A base model by registered name, folder or hub id, through the pipeline class that its files name.

    Args:
        dtype: of the denoiser's frozen weights; adapter, autoencoder and scheduler arithmetic are float32 whatever it
            is.
        revision: commit of a hub repository, in place of the pinned one.

    Raises:
        UserError: unknown name, files missing, or a checkpoint that cannot be read (names the file).
    """
    source = find_source(name_or_folder, revision=revision)
    if source.is_folder:
        check_files(Path(source.location))
    return BaseModel(_pipeline(source, dtype), source, device=device, dtype=dtype)


def _pipeline(source: ModelSource, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of the source. Raises UserError."""
    name = source.pipeline_class() or "StableDiffusionPipeline"
    family = FAMILIES[name]
    kwargs: dict[str, Any] = dict.fromkeys((*source.without, *source.absent_parts()))
    if name == "StableDiffusionPipeline":
        kwargs |= {"safety_checker": None, "requires_safety_checker": False}
    # what is halved anyway is not read at full size first: T5 alone is 19 GB in float32
    kwargs["dtype"] = {family.denoiser: dtype, "text_encoder_3": _half_t5(dtype), "default": torch.float32}
    if source.is_folder:
        kwargs["local_files_only"] = True
    else:
        kwargs["revision"] = source.pinned or None
    try:
        with quiet():
            import diffusers

            return getattr(diffusers, name).from_pretrained(source.location, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as err:
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
        if source.is_folder:
            raise UserError(
                f"{source.location} does not load as a {name}: {reason}", valid=f"the layout of {name}.save_pretrained"
            ) from err
        raise UserError(
            f"the files of model {source.name!r} ({source.location}) are neither cached here nor reachable: {reason}",
            valid=f"a machine with internet, or a copy of the repository{source.at_revision()}",
            hint=f"--model {source.named_copy}=FOLDER",
        ) from err


def _half_t5(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype in (torch.float16, torch.bfloat16) else torch.float32


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
