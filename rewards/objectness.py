"""Objectness (DRTune, Wu et al., arXiv 2405.00760, section 4.1): how sure a detector is that something is in the image.

With class logits z_n of OWL-ViT's N boxes (Minderer et al., arXiv 2205.06230) for the class's name:

    max_n sigmoid(z_n),   minimised

DRTune removes "book" from images of the prompts "[concept], and books". ``objectness`` is that; another class is
``objectness(class=cat)``. The images' prompts are not read: what asks for the object is the suite's prompts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.assets import need
from bench.core.contract import Reward
from bench.core.errors import UserError
from bench.core.identity import plain
from bench.diffusion.pretrained import load_pretrained, load_tokenizer, reading
from rewards.check import check_images
from rewards.files import whole_weights
from rewards.squash import Squash

CLASS = "book"


def objectness(device: str = "cpu", class_: str = CLASS) -> Objectness:
    """Highest score of any box for the class "book" under OWL-ViT, lower is better (DRTune); objectness(class=cat)."""
    return Objectness(need("owlvit-base-patch32"), class_, device)


class Objectness(Reward):
    """Highest detection score of one class; lower is better.

    Images are brought to the detector's square, 768 pixels as published, whatever their shape: bicubic, antialiased,
    CLIP's mean and deviation.

    Args:
        folder: ``save_pretrained`` folder of OwlViTForObjectDetection, AutoTokenizer and the image processor.
        class_: the object's name, as the detector is asked for it.

    Raises:
        UserError: files are missing or damaged, or a name longer than the detector reads.
    """

    minimise = True
    family = "OWL-ViT"
    licence = "Apache-2.0"
    unit = "highest detection score"
    value_range = (0.0, 1.0)
    input_px = 768
    cost_gmac = 52.0

    def __init__(self, folder: Path, class_: str = CLASS, device: str = "cpu") -> None:
        self.class_ = class_
        self.name = "objectness-" + re.sub(r"\W+", "-", class_.strip())
        self.device = torch.device(device)
        self.preprocess = Squash.read(folder)
        self.input_px = self.preprocess.input_px
        self.weights_sha256 = whole_weights("objectness", folder)
        self._folder = folder

    @functools.cached_property
    def model(self) -> Any:
        """The OwlViTForObjectDetection, frozen, on the device."""
        from transformers import OwlViTForObjectDetection

        with reading(self._folder):
            model = load_pretrained(OwlViTForObjectDetection, self._folder)
        return model.eval().requires_grad_(False).to(self.device)

    @functools.cached_property
    def query(self) -> torch.Tensor:
        """(1, D), of length 1: the class's name, padded as the detector was trained."""
        with reading(self._folder):
            tokenizer = load_tokenizer(self._folder)
        n = int(self.model.config.text_config.max_position_embeddings)
        tokens = tokenizer([self.class_], padding="max_length", max_length=n, return_tensors="pt", verbose=False)
        if tokens.input_ids.shape[1] > n:
            raise UserError(f"objectness: the class {self.class_!r} is longer than {n} tokens",
                            valid="the name of an object, such as 'book'")  # fmt: skip
        with torch.no_grad():
            out = self.model.owlvit.text_model(**tokens.to(self.device))
            return F.normalize(self.model.owlvit.text_projection(out.pooler_output), dim=-1)

    def prepare(self) -> None:
        _ = self.query

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        return self.boxes(images).sigmoid().amax(dim=1)

    def boxes(self, images: torch.Tensor) -> torch.Tensor:
        """Class logit of each box: (B, 3, H, W) float in [0, 1] → (B, N), N = 576 as published."""
        features, _ = self.model.image_embedder(pixel_values=self.preprocess(images.to(self.device, self.query.dtype)))
        features = features.flatten(1, 2)
        logits, _ = self.model.class_predictor(features, self.query.expand(len(features), 1, -1))
        z: torch.Tensor = logits[..., 0]
        return z

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "class": self.class_, "preprocess": plain(self.preprocess)}
