"""What tells pipelines apart: text encoders, the denoiser's arguments, the autoencoder's scaling, an adapter's file.

A *text condition* is one tensor (L + r, D), so that it is batched, saved and compared like any other: L rows of text,
which attention reads, and below them r rows that hold the pooled embedding, filled up with zeros (r = 0 without one).
Sizes and crops, SDXL's other added conditions, follow from the latent's shape and are no part of it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from bench.core.errors import UserError

T5_TOKENS = 256
"""Text that SD3's third encoder reads, as in its pipeline."""


class Family:
    """Stable Diffusion 1 and 2 (Rombach et al., arXiv 2112.10752): one CLIP tower, a U-Net with cross-attention."""

    name: ClassVar[str] = "sd"
    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    denoiser: ClassVar[str] = "unet"
    """The pipeline's part that is tuned, and the prefix of its adapter's tensors in a LoRA file."""
    targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers of the attention, which an adapter goes on."""
    feed_forward: ClassVar[tuple[str, ...]] = ("ff.net.0.proj", "ff.net.2")
    """Layers behind the attention, which an adapter may go on too."""
    flow: ClassVar[bool] = False
    """Whether the network predicts the velocity of a straight path instead of noise."""
    pooled_dim: int = 0
    """Numbers of the pooled text embedding; 0 where the network takes none."""

    def __init__(self, pipeline: Any) -> None:
        self.encoders: list[tuple[Any, Any]] = [(pipeline.tokenizer, pipeline.text_encoder)]
        """(tokenizer, text encoder), in the order of the pipeline."""

    @property
    def text_encoders(self) -> list[Any]:
        return [encoder for _, encoder in self.encoders]

    def is_cut(self, text: str) -> bool:
        """Whether some encoder does not read all of the text."""
        return any(len(tokenizer(text, truncation=False, verbose=False).input_ids) > self._length(tokenizer)
                   for tokenizer, _ in self.encoders)  # fmt: skip

    def encode(self, text: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What one text says: (L, D), and the pooled embedding (P,) or None."""
        ((tokenizer, encoder),) = self.encoders
        return encoder(self._ids(tokenizer, text, device))[0][0], None

    def arguments(
        self, x_in: torch.Tensor, t: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor | None, pixels: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The denoiser's arguments: latents (N, C, h, w), timestep () or (N,), text (N, L, D), pooled (N, P).

        Args:
            pixels: that a latent cell covers along one side.
        """
        return (x_in, t), {"encoder_hidden_states": text}

    # -- text conditions

    def pack(self, text: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
        """(L, D) and (P,) → (L + r, D)."""
        if pooled is None:
            return text
        width = text.shape[-1]
        return torch.cat([text, F.pad(pooled, (0, -len(pooled) % width)).view(-1, width).to(text)])

    def split(self, cond: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L + r, D) → text (B, L, D), pooled (B, P) or None."""
        rows = -(-self.pooled_dim // cond.shape[-1])
        if not rows:
            return cond, None
        return cond[:, :-rows], cond[:, -rows:].flatten(1)[:, : self.pooled_dim]

    # -- tokens

    def _length(self, tokenizer: Any) -> int:
        """Tokens that the encoder reads, start and end included."""
        return int(tokenizer.model_max_length)

    def _ids(self, tokenizer: Any, text: str, device: torch.device) -> torch.Tensor:
        """(1, L) token ids; what is too long loses its end, and keeps its end-of-text token."""
        ids: torch.Tensor = tokenizer(
            text, padding="max_length", max_length=self._length(tokenizer), truncation=True, return_tensors="pt"
        ).input_ids
        return ids.to(device)

    def _penultimate(self, encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A CLIP tower's hidden states before the last layer (L, D), and its first output: (P,) where it projects."""
        out = encoder(ids, output_hidden_states=True)
        return out.hidden_states[-2][0], out[0][0]


class SDXL(Family):
    """Stable Diffusion XL (Podell et al., arXiv 2307.01952): two CLIP towers side by side, the second's pooled text and
    the image's size as added conditions."""

    name = "sdxl"
    pipeline = "StableDiffusionXLPipeline"

    def __init__(self, pipeline: Any) -> None:
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            raise UserError("this Stable Diffusion XL has one text encoder: it refines images of another model",
                            valid="a base model with text_encoder and text_encoder_2")  # fmt: skip
        self.encoders = [
            (pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2),
        ]  # fmt: skip
        self.pooled_dim = int(pipeline.text_encoder_2.config.projection_dim)
        self._empty_is_zero = bool(pipeline.config.get("force_zeros_for_empty_prompt", True))

    def encode(self, text: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        (hidden, _), (hidden_2, pooled) = (
            self._penultimate(encoder, self._ids(tokenizer, text, device)) for tokenizer, encoder in self.encoders
        )
        said = torch.cat([hidden, hidden_2], -1)
        if not text and self._empty_is_zero:  # the unconditional branch was trained on zeros, not on an empty prompt
            return torch.zeros_like(said), torch.zeros_like(pooled)
        return said, pooled

    def arguments(
        self, x_in: torch.Tensor, t: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor | None, pixels: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        height, width = (side * pixels for side in x_in.shape[-2:])
        # original size, top left corner of the crop, target size: an image that was neither scaled nor cropped
        time_ids = torch.tensor([height, width, 0, 0, height, width], dtype=text.dtype, device=text.device)
        added = {"text_embeds": pooled, "time_ids": time_ids.expand(len(x_in), -1)}
        return (x_in, t), {"encoder_hidden_states": text, "added_cond_kwargs": added}


class SD3(Family):
    """Stable Diffusion 3 and 3.5 (Esser et al., arXiv 2403.03206): a transformer that reads image and text together and
    predicts the velocity eps - x0; two CLIP towers side by side, and T5 below them where the folder has it."""

    name = "sd3"
    pipeline = "StableDiffusion3Pipeline"
    denoiser = "transformer"
    targets = (*Family.targets, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    feed_forward = (*Family.feed_forward, "ff_context.net.0.proj", "ff_context.net.2")
    flow = True

    def __init__(self, pipeline: Any) -> None:
        clips = [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
        self.t5 = pipeline.text_encoder_3
        self.encoders = [*clips, *([(pipeline.tokenizer_3, self.t5)] if self.t5 is not None else [])]
        self.pooled_dim = sum(int(encoder.config.projection_dim) for _, encoder in clips)
        self._width = int(pipeline.transformer.config.joint_attention_dim)
        self._t5_tokenizer = pipeline.tokenizer_3

    def _length(self, tokenizer: Any) -> int:
        if tokenizer is self._t5_tokenizer:
            return T5_TOKENS
        return int(self.encoders[0][0].model_max_length)

    def encode(self, text: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden, pooled = zip(*(
            self._penultimate(encoder, self._ids(tokenizer, text, device)) for tokenizer, encoder in self.encoders[:2]
        ), strict=True)  # fmt: skip
        clip = torch.cat(hidden, -1)
        clip = F.pad(clip, (0, self._width - clip.shape[-1]))
        # without T5 its place holds zeros, as in the pipeline: the network was trained with that part dropped out
        t5 = clip.new_zeros(T5_TOKENS, self._width)
        if self.t5 is not None:
            t5 = self.t5(self._ids(self._t5_tokenizer, text, device))[0][0].to(clip)
        return torch.cat([clip, t5]), torch.cat(pooled, -1)

    def arguments(
        self, x_in: torch.Tensor, t: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor | None, pixels: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {
            "hidden_states": x_in, "timestep": t.expand(len(x_in)), "encoder_hidden_states": text,
            "pooled_projections": pooled,
        }  # fmt: skip


FAMILIES: dict[str, type[Family]] = {family.pipeline: family for family in (Family, SDXL, SD3)}
"""By the class that a pipeline's ``model_index.json`` names."""


def family_of(pipeline: Any) -> Family:
    """How to talk to a loaded pipeline's parts. Raises UserError where it lacks one."""
    return FAMILIES[type(pipeline).__name__](pipeline)


def of_network(network: Any) -> type[Family]:
    """The family that a denoiser's adapter is written for."""
    return SD3 if type(network).__name__.startswith("SD3") else Family


def images_of(latents: torch.Tensor, config: Any) -> torch.Tensor:
    """Latents as tuned on (B, C, h, w) → what the autoencoder's decoder takes."""
    mean, std = (config.get(key) for key in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        mean, std = (latents.new_tensor(value).view(1, -1, 1, 1) for value in (mean, std))
        moved: torch.Tensor = latents * std / config.scaling_factor + mean
        return moved
    scaled: torch.Tensor = latents / config.scaling_factor
    shift = config.get("shift_factor")
    return scaled if shift is None else scaled + shift
