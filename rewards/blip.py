"""BLIP's image-text matching head (Li et al., arXiv 2201.12086): does the text describe the image? BLIP's contrastive
cosine is the reward ``blip`` (``rewards.caption``).

    (z_no, z_match) = W h + b,   h state of the first token of the text encoder that attends to the image
    blip-itm              P(match) = softmax(z)_match, as BLIP prints it
    blip-itm(form=logit)  log odds z_match - z_no: the same order, and a gradient where the probability has none left

The prompt is 35 tokens, padded or cut, as in BLIP's own matching code; its first token stays [CLS] there too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.assets import need
from bench.core.contract import Reward
from bench.core.errors import UserError
from bench.core.identity import plain
from bench.diffusion.pretrained import load_pretrained, load_tokenizer, reading
from rewards.check import check_images
from rewards.files import whole_weights
from rewards.squash import Squash

N_TOKENS = 35
UNITS = {"probability": "probability", "logit": "log odds, nats"}


def blip_itm(device: str = "cpu", form: str = "probability") -> BlipItm:
    """Probability that image and prompt match, by BLIP's matching head; blip-itm(form=logit) is its log odds."""
    return BlipItm(need("blip-itm"), form, device)


class BlipItm(Reward):
    """BLIP's matching head.

    Args:
        folder: ``save_pretrained`` folder of BlipForImageTextRetrieval, AutoTokenizer and the image processor.
        form: what is measured, ``probability`` or ``logit``.

    Raises:
        UserError: files are missing or damaged, or no such form.
    """

    family = "BLIP"
    licence = "BSD-3-Clause"
    unit = UNITS["probability"]
    value_range: tuple[float, float] | None = (0.0, 1.0)
    input_px = 384
    cost_gmac = 65.0

    def __init__(self, folder: Path, form: str = "probability", device: str = "cpu") -> None:
        if form not in UNITS:
            raise UserError(f"blip-itm: form = {form!r}", valid=", ".join(UNITS))
        self.form = form
        self.name = "blip-itm" if form == "probability" else f"blip-itm-{form}"
        self.unit = UNITS[form]
        self.device = torch.device(device)
        self.preprocess = Squash.read(folder)
        self.input_px = self.preprocess.input_px
        self.value_range = BlipItm.value_range if form == "probability" else None
        self.weights_sha256 = whole_weights(self.name, folder)
        self._folder = folder

    @functools.cached_property
    def model(self) -> Any:
        """The BlipForImageTextRetrieval, frozen, on the device."""
        from transformers import BlipForImageTextRetrieval

        with reading(self._folder):
            model = load_pretrained(BlipForImageTextRetrieval, self._folder)
        return model.eval().requires_grad_(False).to(self.device)

    @functools.cached_property
    def tokenizer(self) -> Any:
        with reading(self._folder):
            return load_tokenizer(self._folder)

    def prepare(self) -> None:
        _ = self.model, self.tokenizer

    @property
    def n_tokens(self) -> int:
        return min(N_TOKENS, int(self.model.config.text_config.max_position_embeddings))

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        pixels = self.preprocess(images.to(self.device, self.model.dtype))
        seen = self.model.vision_model(pixel_values=pixels).last_hidden_state
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.n_tokens, return_tensors="pt"
        ).to(self.device)
        read = self.model.text_encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=self.device),
        )  # fmt: skip
        z = self.model.itm_head(read.last_hidden_state[:, 0])
        odds: torch.Tensor = z[:, 1] - z[:, 0]
        return odds if self.form == "logit" else odds.sigmoid()

    def n_truncated(self, prompts: Iterable[str]) -> int:
        """Distinct prompts that are longer than the 35 tokens that are read; their end was cut."""
        return sum(len(self.tokenizer(p, verbose=False).input_ids) > self.n_tokens for p in set(prompts))

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "preprocess": plain(self.preprocess), "n_tokens": N_TOKENS}
