"""Backbones of the tree: (images, prompts) to features h (B, D), differentiable in the images.

tiny-clip   the tiny world's CLIP, both towers, joined by one layer in which words look at patches
FOLDER      BLIP's image-grounded text encoder (Li et al., arXiv 2201.12086) as ImageReward and TreeReward use it:
            224 px, 35 text tokens, each of the text encoder's layers attends to the image; h is the first token's
            state. For the paper: ViT-L, 12 text layers, D = 768.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bench.core.errors import UserError
from bench.core.identity import file_sha256
from bench.diffusion.models import quiet
from bench.diffusion.pretrained import load_pretrained, load_tokenizer, reading
from bench.tiny import weights_dir

TINY = "tiny-clip"

BLIP_SIDE = 224
"""Pixels; ImageReward's, whatever size the checkpoint was trained at (its position embedding is interpolated)."""
BLIP_TOKENS = 35
"""Text tokens, padded and truncated, as ImageReward's."""
BLIP_FROZEN = 0.7
"""Share of the layers, from the input, that stay as they are: ImageReward's choice."""
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


_COPIES = 16
"""Of the cosine among the features: one number among three hundred would be lost to fresh layers."""


class Trunk(nn.Module, ABC):
    """Features of (image, prompt) points.

    ``dim`` is D; ``side`` the pixels that images are kept at; ``family`` tells which judges are no strangers to it;
    ``digest`` names the weights it starts from.
    """

    dim: int
    side: int
    family: str
    digest: str

    @abstractmethod
    def forward(self, images: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        """(B, 3, H, W) float in [0, 1] of any size and B prompts → (B, D)."""

    @abstractmethod
    def n_truncated(self, texts: Iterable[str]) -> int:
        """Distinct prompts whose end the trunk does not read."""

    def pretrained(self) -> list[nn.Parameter]:
        """The weights that were not drawn here."""
        return list(self.parameters())

    @abstractmethod
    def layers(self) -> list[Sequence[nn.Module]]:
        """Stacks of layers, each from the input on: what ``freeze`` counts in."""

    @abstractmethod
    def embeddings(self) -> list[nn.Module]:
        """What lies before the first layers."""

    def freeze(self, share: float) -> None:
        """Fixes the embeddings and the first ``share`` of the layers of each stack; 0 leaves all of them free."""
        if not share:
            return
        fixed = self.embeddings()
        for stack in self.layers():
            fixed += stack[: round(share * len(stack))]
        for part in fixed:
            part.requires_grad_(False)


class TinyClipTrunk(Trunk):
    """tiny-clip's towers; the words then attend to the patches once, so that h knows which word the picture breaks."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        from bench.tiny.models import load_scorer

        self.clip = load_scorer(TINY).requires_grad_(True)
        config = self.clip.config
        width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.words = nn.Linear(text_width, width)
        self.attend = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm_words, self.norm_patches, self.norm_seen = (nn.LayerNorm(width) for _ in range(3))
        self.dim = 3 * width + _COPIES
        self.side = int(config.vision_config.image_size)
        self.family = TINY_FAMILY
        self.digest = file_sha256(weights_dir() / TINY / "model.safetensors")[:16]
        # what tiny-clip says at once is handed on: its cosine tells 0.8 of held-out content pairs apart
        init_linear(self.words, generator)
        for weight in (self.attend.in_proj_weight, self.attend.out_proj.weight):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)

    def forward(self, images: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        from bench.tiny.scorers import pixel_values
        from bench.tiny.tokens import END_ID, token_ids

        ids = token_ids(list(texts)).to(images.device)
        ids = ids[:, : int((ids != END_ID).sum(1).max()) + 1]  # the start token counts, one end token stays
        seen = self.clip.vision_model(pixel_values=pixel_values(images))
        read = self.clip.text_model(input_ids=ids)
        patches = self.norm_patches(seen.last_hidden_state)
        words = self.norm_words(self.words(read.last_hidden_state))
        met, _ = self.attend(words, patches, patches, need_weights=False)
        real = (ids != END_ID).to(met).unsqueeze(-1)
        met = self.norm_seen(((words + met) * words * real).sum(1) / real.sum(1))
        u = self.clip.visual_projection(seen.pooler_output)
        v = self.clip.text_projection(read.pooler_output)
        match = F.normalize(u, dim=-1) * F.normalize(v, dim=-1)
        cosine = match.sum(-1, keepdim=True).expand(-1, _COPIES)
        parts = [F.layer_norm(seen.pooler_output, seen.pooler_output.shape[-1:]), met, 10 * match, 5 * cosine]
        return torch.cat(parts, dim=-1)

    def n_truncated(self, texts: Iterable[str]) -> int:
        from bench.tiny.tokens import MAX_LENGTH, tokenizer

        return sum(len(tokenizer()(text, verbose=False)["input_ids"]) > MAX_LENGTH for text in set(texts))

    def pretrained(self) -> list[nn.Parameter]:
        return list(self.clip.parameters())

    def layers(self) -> list[Sequence[nn.Module]]:
        return [list(self.clip.vision_model.encoder.layers), list(self.clip.text_model.encoder.layers)]

    def embeddings(self) -> list[nn.Module]:
        return [self.clip.vision_model.embeddings, self.clip.text_model.embeddings]


class BlipTrunk(Trunk):
    """BLIP with its text encoder grounded in the image, from a ``save_pretrained`` folder.

    Args:
        folder: configuration, tokenizer and weights.
        empty: take no weights from the folder; the caller brings them.

    Raises:
        UserError: what the folder lacks, or damaged or foreign weights.
    """

    def __init__(self, folder: Path, *, empty: bool = False) -> None:
        super().__init__()
        from transformers import BlipConfig, BlipForImageTextRetrieval

        if problem := blip_problem(folder, weights=not empty):
            raise UserError(problem)
        with reading(folder):
            self.tokenizer: Any = load_tokenizer(folder)
            if empty:
                model: Any = BlipForImageTextRetrieval(BlipConfig.from_pretrained(folder))
            else:
                model = load_pretrained(BlipForImageTextRetrieval, folder)
        self.config: Any = model.config
        self.vision, self.text = model.vision_model, model.text_encoder
        self.dim = int(model.config.text_config.hidden_size)
        self.n_tokens = min(BLIP_TOKENS, int(model.config.text_config.max_position_embeddings))
        self.side = min(BLIP_SIDE, int(model.config.vision_config.image_size))
        self.family = BLIP_FAMILY
        self.digest = "-".join(file_sha256(path)[:8] for path in sorted(folder.glob("*.safetensors")))

    def forward(self, images: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        if images.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (_CLIP_MEAN, _CLIP_STD))
        seen = self.vision(
            pixel_values=(images - mean) / std, interpolate_pos_encoding=self.side != self.vision.config.image_size
        ).last_hidden_state
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.n_tokens, return_tensors="pt"
        ).to(images.device)
        read = self.text(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=images.device),
        )  # fmt: skip
        h: torch.Tensor = read.last_hidden_state[:, 0]
        return h

    def n_truncated(self, texts: Iterable[str]) -> int:
        return sum(len(self.tokenizer(text, verbose=False).input_ids) > self.n_tokens for text in set(texts))

    def save_shape(self, folder: Path) -> None:
        """Configuration and tokenizer, without weights: all that ``empty`` needs."""
        self.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def layers(self) -> list[Sequence[nn.Module]]:
        return [list(self.vision.encoder.layers), list(self.text.encoder.layer)]

    def embeddings(self) -> list[nn.Module]:
        return [self.vision.embeddings, self.text.embeddings]


def build_trunk(backbone: str, generator: torch.Generator, frozen: float = -1.0) -> Trunk:
    """A fresh trunk in evaluation mode (no dropout anywhere: a reward is a function).

    Args:
        backbone: ``tiny-clip`` or a folder.
        generator: draws new weights.
        frozen: share of fixed layers; -1 is the backbone's own.

    Raises:
        UserError: no such backbone.
    """
    # layers of the libraries draw from the global generator when they are made
    with torch.random.fork_rng(devices=[]), quiet():
        trunk: Trunk = TinyClipTrunk(generator) if backbone == TINY else BlipTrunk(Path(backbone))
    trunk.freeze(frozen if frozen >= 0 else (0.0 if backbone == TINY else BLIP_FROZEN))
    return trunk.eval()


TINY_FAMILY, BLIP_FAMILY = "tiny-pairs", "BLIP"
"""Families of judges that share a trunk's backbone or its training data."""


def backbone_family(backbone: str) -> str:
    """The family of rewards on this backbone."""
    return TINY_FAMILY if backbone == TINY else BLIP_FAMILY


def backbone_problem(backbone: str) -> str | None:
    """What keeps a backbone from loading, as a sentence with what is valid; None where nothing does."""
    return None if backbone == TINY else blip_problem(Path(backbone))


def blip_problem(folder: Path, *, weights: bool = True) -> str | None:
    """What a folder lacks to be a BLIP trunk, with or without its weights."""
    valid = (
        f"valid: {TINY}, or a folder that BlipForImageTextRetrieval.save_pretrained and its tokenizer wrote, such as a "
        "copy of Salesforce/blip-itm-large-coco"
    )
    try:
        config: Any = json.loads((folder / "config.json").read_text("utf-8"))
    except OSError:
        return f"backbone = {folder} is no folder with a config.json; {valid}"
    except ValueError as err:
        return f"{folder / 'config.json'} is not JSON ({err}); {valid}"
    if not isinstance(config, dict) or config.get("model_type") != "blip":
        kind = config.get("model_type") if isinstance(config, dict) else None
        return f"backbone = {folder} holds a model of type {kind!r}, not 'blip'; {valid}"
    if weights and not list(folder.glob("*.safetensors")):
        return f"backbone = {folder} holds no *.safetensors weights; {valid}"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        return f"backbone = {folder} holds no tokenizer; {valid}"
    return None


def init_linear(layer: nn.Linear, generator: torch.Generator) -> None:
    """Unit variance in, unit variance out; zero bias."""
    nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
    nn.init.zeros_(layer.bias)
