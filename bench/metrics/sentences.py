"""Which choice is nearest in meaning to a free answer: a mean-pooled sentence encoder, as in TIFA's reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.assets.files import sha256_of_all, weights_in
from bench.diffusion.pretrained import load_pretrained, load_tokenizer, reading

MAX_TOKENS = 384
"""Of all-mpnet-base-v2 as sentence-transformers runs it."""


class SentenceEncoder:
    """Mean of the last hidden states over tokens, of length 1.

    Args:
        folder: ``save_pretrained`` folder of an encoder and its tokeniser.
        name: part of the columns' names.
    """

    def __init__(self, folder: Path, name: str, device: str = "cpu") -> None:
        from transformers import AutoModel

        self.name, self.device = name, device
        self.sha256 = sha256_of_all(weights_in(folder))
        with reading(folder):
            self.tokenizer: Any = load_tokenizer(folder)
            model: Any = load_pretrained(AutoModel, folder, unused="pooler.")  # means are taken
        self.model = model.eval().requires_grad_(False).to(device)
        self._known: dict[str, torch.Tensor] = {}

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, D) of length 1; each distinct text goes through the network once in the encoder's life."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), 64):
            part = new[start : start + 64]
            tokens = self.tokenizer(part, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            tokens = tokens.to(self.device)
            with torch.no_grad():
                hidden = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
            mask = tokens.attention_mask[..., None].to(hidden)
            pooled = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).cpu()
            self._known.update(zip(part, pooled, strict=True))
        return torch.stack([self._known[text] for text in texts])

    def nearest(self, answer: str, choices: Sequence[str]) -> str:
        """The choice of the highest cosine to the answer, the first of equals."""
        said, offered = self.embed([answer])[0], self.embed(choices)
        return choices[int((offered @ said).argmax())]
