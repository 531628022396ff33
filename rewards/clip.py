"""Rewards that are a CLIP dual encoder: plain cosine (CLIPScore's core) and PickScore's form.

One path for training and for scoring: float tensors in, antialiased bicubic resize where sizes differ, centre crop,
normalisation with the mean and deviation stated beside the weights; gradients reach the image. Weights load through
transformers' ``from_pretrained`` from any folder in that layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from bench.core.contract import Reward
from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256, plain
from bench.diffusion.models import quiet
from rewards.check import check_images

Form = Literal["cosine", "pickscore"]


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image before the network, read from ``preprocessor_config.json``."""

    shortest_edge: int
    """Pixels of the shorter side after resizing."""
    crop: int
    """Side of the centre crop in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def read(cls, folder: Path) -> Preprocess:
        """Raises UserError when the file is missing or asks for something this path does not do."""
        path = folder / "preprocessor_config.json"
        try:
            config = json.loads(path.read_text("utf-8"))
            size, crop = config["size"], config.get("crop_size", config["size"])
            edge = size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
            side = crop if isinstance(crop, int) else crop.get("height") or crop["shortest_edge"]
            mean, std = tuple(map(float, config["image_mean"])), tuple(map(float, config["image_std"]))
            bicubic = config.get("resample", 3) == 3
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise UserError(
                f"{path} cannot be read as CLIP preprocessing: {type(err).__name__}: {err}",
                valid="size, crop_size, image_mean, image_std as transformers writes them",
            ) from err
        if not bicubic or side > edge or len(mean) != 3 or len(std) != 3:
            raise UserError(
                f"{path} asks for a preprocessing that is not CLIP's",
                valid="bicubic (resample 3), crop_size not above size, three means and deviations",
            )
        return cls(edge, side, mean, std)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float in [0, 1] → (B, 3, crop, crop) normalised.

        Bicubic interpolation overshoots; the result is cut to [0, 1] as PIL cuts it. (PIL also rounds to 8 bits, which
        would stop gradients: up to 4.7 levels difference at edges, 0.26 on average, see research/metrics.md C.2.)
        """
        height, width = images.shape[-2:]
        if min(height, width) != self.shortest_edge:
            scale = self.shortest_edge / min(height, width)
            size = [max(self.shortest_edge, int(height * scale)), max(self.shortest_edge, int(width * scale))]
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            height, width = size
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        images = images[..., top : top + self.crop, left : left + self.crop]
        mean, std = images.new_tensor(self.mean).view(3, 1, 1), images.new_tensor(self.std).view(3, 1, 1)
        return (images - mean) / std


class ClipReward(Reward):
    """A CLIP model as a reward.

    Args:
        folder: ``save_pretrained`` folder of CLIPModel, AutoTokenizer and image processor.
        name: the reward's name.
        form: ``cosine`` is cos(image, text); ``pickscore`` is exp(logit_scale) * cos, as PickScore prints it
            (Kirstain et al., arXiv 2305.01569).
        family: backbone and training data.
        device: where the model runs.

    Raises:
        UserError: the folder is missing or incomplete.
    """

    def __init__(
        self, folder: Path, name: str, form: Form, *, family: str, licence: str = "", device: str = "cpu"
    ) -> None:
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise UserError(f"the weights of reward {name!r} are missing: {weights} does not exist",
                            valid="a save_pretrained folder of a CLIPModel")  # fmt: skip
        from transformers import AutoTokenizer, CLIPModel

        self.name, self.family, self.licence = name, family, licence
        self.form: Form = form
        self.unit = "cosine" if form == "cosine" else "exp(logit_scale) * cosine"
        self.weights_sha256 = file_sha256(weights)
        self.device = torch.device(device)
        self.preprocess = Preprocess.read(folder)
        with quiet():
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self.model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        self.model.to(self.device)
        self.max_tokens = int(self.model.config.text_config.max_position_embeddings)
        self._texts: dict[str, torch.Tensor] = {}

    @property
    def network(self) -> str:
        """Names the image tower and its preprocessing: what cached image features are keyed by."""
        return f"{self.name}-{self.weights_sha256[:16]}-{digest(self.preprocess, 8)}"

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        return self.compare(self.image_features(images), prompts)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float in [0, 1] → (B, D) float32 of length 1."""
        pixels = self.preprocess(images.to(self.device, torch.float32))
        return F.normalize(_tensor(self.model.get_image_features(pixel_values=pixels)).float(), dim=-1)

    def compare(self, image_features: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The measure from (B, D) image features of length 1 and one prompt for each: (B,) float32."""
        cosine = (image_features.to(self.device) * self.text_features(prompts)).sum(dim=-1)
        return cosine if self.form == "cosine" else cosine * self.model.logit_scale.float().exp()

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """(B, D) float32 of length 1, each prompt encoded once.

        Prompts go through one at a time, padded to one length: the features of a prompt do not depend on which others
        came with it, so a resumed run scores bit for bit as an uninterrupted one.
        """
        for prompt in prompts:
            if prompt not in self._texts:
                tokens = self.tokenizer([prompt], padding="max_length", truncation=True, max_length=self.max_tokens,
                                        return_tensors="pt").to(self.device)  # fmt: skip
                features = _tensor(self.model.get_text_features(**tokens))
                self._texts[prompt] = F.normalize(features.float(), dim=-1)[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def n_truncated(self, prompts: Iterable[str]) -> int:
        """Distinct prompts that are longer than the text tower; they lose their tail and keep the end token."""
        return sum(len(self.tokenizer(p, verbose=False)["input_ids"]) > self.max_tokens for p in set(prompts))

    def identity(self) -> dict[str, object]:
        return {
            "name": self.name,
            "form": self.form,
            "weights_sha256": self.weights_sha256,
            "preprocess": plain(self.preprocess),
        }


def _tensor(output: Any) -> torch.Tensor:
    """The embedding out of ``get_*_features``: a tensor up to transformers 4, an object around it since 5."""
    result = output if isinstance(output, torch.Tensor) else output.pooler_output
    assert isinstance(result, torch.Tensor)
    return result
