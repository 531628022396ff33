"""BLIP's image-text matching head (Li et al., arXiv 2201.12086): does the text describe the image? BLIP's contrastive
cosine is the reward ``blip`` (``rewards.caption``).

    (z_no, z_match) = W h + b,   h state of the first token of the text encoder that attends to the image
    blip-itm        P(match) = softmax(z)_match, as BLIP prints it
    blip-itm-logit  log odds z_match - z_no: the same order, and a gradient where the probability has none left

The prompt is 35 tokens, padded or cut, as in BLIP's own matching code; its first token stays [CLS] there too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from bench.core.contract import Reward
from bench.core.identity import plain
from bench.diffusion.pretrained import load_pretrained, load_tokenizer, reading
from rewards.caption import _weights, published
from rewards.check import check_images
from rewards.clip import Preprocess

REPOSITORY = "blip-itm-base-coco"
N_TOKENS = 35

Form = Literal["probability", "logit"]


def blip_itm(device: str = "cpu") -> BlipItm:
    """Probability that image and prompt match, by BLIP's matching head."""
    return BlipItm(published("blip-itm", REPOSITORY), "probability", device)


def blip_itm_logit(device: str = "cpu") -> BlipItm:
    """Log odds that image and prompt match, by BLIP's matching head: blip-itm before the softmax."""
    return BlipItm(published("blip-itm-logit", REPOSITORY), "logit", device)


class BlipItm(Reward):
    """BLIP's matching head.

    Args:
        folder: ``save_pretrained`` folder of BlipForImageTextRetrieval, AutoTokenizer and the image processor.
        form: what is measured.

    Raises:
        UserError: files are missing or damaged.
    """

    family = "BLIP"
    licence = "BSD-3-Clause"

    def __init__(self, folder: Path, form: Form, device: str = "cpu") -> None:
        from transformers import BlipForImageTextRetrieval

        self.form: Form = form
        self.name = "blip-itm" if form == "probability" else "blip-itm-logit"
        self.unit = "probability" if form == "probability" else "log odds, nats"
        self.weights_sha256 = _weights(self.name, folder)
        self.device = torch.device(device)
        self.preprocess = Preprocess.read(folder)
        with reading(folder):
            self.tokenizer: Any = load_tokenizer(folder)
            self.model: Any = load_pretrained(BlipForImageTextRetrieval, folder)
        self.model.eval().requires_grad_(False).to(self.device)
        self.n_tokens = min(N_TOKENS, int(self.model.config.text_config.max_position_embeddings))

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
        return {**super().identity(), "preprocess": plain(self.preprocess), "n_tokens": self.n_tokens}
