"""How a base model is computed: precision of its frozen weights, slices and tiles, compilation.

None of it changes what is computed but for rounding, as a device does; like the device it is in a record's provenance
and in no run's id. Adapter, optimiser, latents, scheduler arithmetic and autoencoder are float32 whatever is chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.diffusion.sources import ModelSource

if TYPE_CHECKING:
    from bench.diffusion.models import BaseModel

DTYPES = ("fp32", "bf16", "fp16")
RECOMPILE_LIMIT = 64
"""Graphs of one denoiser: with gradient and without, adapter on, off and scaled, each size of batch."""


@dataclass(frozen=True)
class Execution:
    """What ``bench run`` is told beside what to run."""

    dtype: str = ""
    """Of the denoiser's frozen weights: one of ``DTYPES``; "" is fp32 on a CPU and bf16 on a GPU."""
    gradient_checkpointing: bool = False
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    compile: bool = False

    @classmethod
    def of(cls, request: Mapping[str, Any], device: str) -> Execution:
        """What a run's request asks for, settled for a device."""
        asked = cls(**request.get("execution", {}))
        return asked if asked.dtype else dataclasses.replace(asked, dtype="bf16" if "cuda" in device else "fp32")

    def problems(self, source: ModelSource) -> list[str]:
        """What this cannot do to a model, each as one sentence with what is valid."""
        if self.attention_slicing and source.is_flow:
            return [f"--attention-slicing is for U-Nets, and {source.name} is a transformer: leave it out, or "
                    "--vae-slicing"]  # fmt: skip
        return []

    def to_json(self) -> dict[str, Any]:
        """What differs from float32, whole and eager, for provenance and for the names of cached images."""
        plain = {"dtype": "fp32"}
        return {k: v for k, v in dataclasses.asdict(self).items() if v and plain.get(k) != v}

    def load(self, name_or_folder: str, device: str) -> BaseModel:
        """``load_model``, computed in this way. Raises UserError."""
        import torch

        from bench.diffusion.models import load_model

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.dtype or "fp32"]
        return self.apply(load_model(name_or_folder, device=device, dtype=dtype))

    def apply(self, model: BaseModel, **compiler: Any) -> BaseModel:
        """Slices, tiles and compiles a loaded model, in place.

        Args:
            compiler: for ``torch.compile``.

        Raises:
            UserError: a model whose attention cannot be sliced.
        """
        if self.gradient_checkpointing:
            # block by block: what is recomputed is no call of the denoiser, so that a ledger's U stay what they are
            model.unet.enable_gradient_checkpointing()
            model.vae.enable_gradient_checkpointing()
        if self.attention_slicing:
            if not hasattr(model.unet, "set_attention_slice"):
                raise UserError("--attention-slicing is for U-Nets, and this denoiser is a transformer")
            model.unet.set_attention_slice("auto")
        if self.vae_slicing:
            model.vae.enable_slicing()
        if self.vae_tiling:
            model.vae.enable_tiling()
        if self.compile:
            import torch

            torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
            # the forward alone: hooks of the meters stay outside of the graph
            model.unet.forward = torch.compile(model.unet.forward, **compiler)
            model.compiled = True
        model.computed = self.to_json()
        return model
