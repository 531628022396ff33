"""Rewards that are a CLIP dual encoder: plain cosine (CLIPScore's core) and PickScore's form.

One path for training and for scoring: antialiased bicubic resize where sizes differ, centre crop, normalisation with
the mean and deviation stated beside the weights. Float images in [0, 1] keep their gradient; stored images come as
uint8 and are resized as such, to within 2 grey levels of PIL (``tests/rewards/test_published_clip.py`` measures both).
Weights load through transformers' ``from_pretrained`` from any folder in that layout, when they are first needed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F

from bench.assets import find, need
from bench.assets.files import check_whole, sha256_of_all, weights_in
from bench.core.contract import Reward
from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256, plain
from bench.diffusion.models import quiet
from rewards.check import check_images

Form = Literal["cosine", "pickscore", "linear"]

H14 = "ViT-H/14"
"""Family of all that was tuned from the LAION-2B CLIP: CLIPScore-H, PickScore and HPS share their backbone."""

L14 = "ViT-L/14"
"""Family of OpenAI's large CLIP: CLIPScore-L and the aesthetic score."""



@dataclass(frozen=True)
class Facts:
    """What a published CLIP reward is, weights or not; each in the words of ``bench.core.contract.Reward``."""

    form: Form
    family: str
    unit: str
    cost_gmac: float
    """Of the image tower."""
    value_range: tuple[float, float] | None = None
    """None: unbounded, or known from the weights only."""
    input_px: int = 224


_COSINE = (-1.0, 1.0)
PUBLISHED: Mapping[str, Facts] = {
    "hps-v2.1": Facts("cosine", H14, "cosine (tables print 100 times it)", 167, _COSINE),
    "hps-v2": Facts("cosine", H14, "cosine (tables print 100 times it)", 167, _COSINE),
    "pickscore": Facts("pickscore", H14, "exp(logit_scale) * cosine", 167),
    "clip-h14": Facts("cosine", H14, "cosine", 167, _COSINE),
    "clip-l14": Facts("cosine", L14, "cosine", 81, _COSINE),
    "aesthetic": Facts("linear", L14, "points, nominally 1 to 10", 81),
}


def clip_h14(device: str = "cpu") -> ClipReward:
    """Cosine of image and prompt under LAION's CLIP ViT-H/14: the CLIPScore of DRTune (0.36 to 0.39 after tuning)."""
    return _published("clip-h14", device)


def clip_l14(device: str = "cpu") -> ClipReward:
    """Cosine of image and prompt under OpenAI's CLIP ViT-L/14: TreeReward's CLIP score, which it prints times 100."""
    return _published("clip-l14", device)


def pickscore(device: str = "cpu") -> ClipReward:
    """PickScore v1 (arXiv 2305.01569), exp(logit_scale) * cosine, 20 to 25; DRTune prints the bare cosine (0.25)."""
    return _published("pickscore", device, processor=need("clip-h14-processor"))


def _published(name: str, device: str, *, processor: Path | None = None) -> ClipReward:
    facts = PUBLISHED[name]
    reward = ClipReward(
        need(name), name, facts.form, family=facts.family, licence=find(name).licence, device=device,
        processor=processor,
    )  # fmt: skip
    reward.cost_gmac = facts.cost_gmac
    return reward


class Preprocessing(Protocol):
    """What happens to an image before the network: a frozen dataclass, so that its settings are the reward's identity.

    (B, 3, H, W) float in [0, 1] with its gradient, or stored images as uint8 → (B, 3, side, side) normalised float.
    """

    @property
    def input_px(self) -> int: ...

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image before the network, read from ``preprocessor_config.json``."""

    shortest_edge: int
    """Pixels of the shorter side after resizing."""
    crop: int
    """Side of the centre crop in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def input_px(self) -> int:
        return self.crop

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
        """(B, 3, H, W) float in [0, 1], or uint8 → (B, 3, crop, crop) normalised.

        Bicubic interpolation overshoots; the result is cut to [0, 1] as PIL cuts it. PIL also rounds to 8 bits, which
        would stop gradients (up to 4.7 levels difference at edges, 0.26 on average, see research/metrics.md C.2): so
        do uint8 images here.
        """
        height, width = images.shape[-2:]
        if min(height, width) != self.shortest_edge:
            scale = self.shortest_edge / min(height, width)
            size = [max(self.shortest_edge, int(height * scale)), max(self.shortest_edge, int(width * scale))]
            images = resized(images, size)
            height, width = size
        images = as_float(images)
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        images = images[..., top : top + self.crop, left : left + self.crop]
        mean, std = images.new_tensor(self.mean).view(3, 1, 1), images.new_tensor(self.std).view(3, 1, 1)
        return (images - mean) / std


def resized(images: torch.Tensor, size: Sequence[int], *, antialias: bool = True) -> torch.Tensor:
    """(B, 3, H, W) float in [0, 1] or uint8 → the same of another size, bicubic."""
    if images.dtype == torch.uint8:
        # only the CPU resizes bytes, and so every machine gets the same ones
        images = images.cpu()
    out = F.interpolate(images, size=list(size), mode="bicubic", antialias=antialias, align_corners=False)
    return out if images.dtype == torch.uint8 else out.clamp(0, 1)


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 → float32 in [0, 1]; float images as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


class ClipReward(Reward):
    """A CLIP model as a reward.

    Args:
        folder: ``save_pretrained`` folder of CLIPModel, AutoTokenizer and image processor.
        name: the reward's name.
        form: ``cosine`` is cos(image, text); ``pickscore`` is exp(logit_scale) * cos, as PickScore prints it
            (Kirstain et al., arXiv 2305.01569).
        family: backbone and training data.
        device: where the model runs.
        processor: folder of tokeniser and image processor, where they are kept apart.
        preprocess: in place of the image processor's.
        weights: the files with weights, where they are not in transformers' layout; ``load`` reads them.

    Raises:
        UserError: the folder is missing or incomplete, or a file of weights is cut off.
    """

    def __init__(
        self, folder: Path, name: str, form: Form, *, family: str, licence: str = "", device: str = "cpu",
        processor: Path | None = None, preprocess: Preprocessing | None = None, weights: Sequence[Path] = (),
        load: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        files = weights or weights_in(folder)
        if not files:
            raise UserError(f"the weights of reward {name!r} are missing: no model.safetensors in {folder}",
                            valid="a save_pretrained folder of a CLIPModel")  # fmt: skip
        for path in files:
            check_whole(path)
        self.name, self.family, self.licence = name, family, licence
        self.form: Form = form
        self.unit = "cosine" if form == "cosine" else "exp(logit_scale) * cosine"
        self.value_range = (-1.0, 1.0) if form == "cosine" else None
        self.weights_sha256 = sha256_of_all(files)
        self.device = torch.device(device)
        self._processor = processor or folder
        self.preprocess: Preprocessing = preprocess or Preprocess.read(self._processor)
        self.input_px = self.preprocess.input_px
        self.tower = f"clip-{self.weights_sha256[:16]}-{digest(self.preprocess, 16)}"
        """Names weights and preprocessing of the image tower: what cached image features are keyed by. Rewards on one
        backbone share them."""
        self._load = load or functools.partial(_from_pretrained, folder)
        self._texts: dict[str, torch.Tensor] = {}

    @functools.cached_property
    def model(self) -> Any:
        """The CLIPModel, frozen, on the device."""
        return self._load().eval().requires_grad_(False).to(self.device)

    @functools.cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with quiet():
            return AutoTokenizer.from_pretrained(self._processor)

    @functools.cached_property
    def reader(self) -> str:
        """Names weights and vocabulary: what cached text features are keyed by."""
        words = {p.name: file_sha256(p) for p in sorted(self._processor.iterdir()) if p.suffix in (".json", ".txt")}
        return f"text-{self.weights_sha256[:16]}-{digest(words, 16)}-unpadded"

    def prepare(self) -> None:
        _ = self.model, self.tokenizer

    @property
    def max_tokens(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def network(self) -> str:
        """Names reward, weights and preprocessing, as passports do."""
        return f"{self.name}-{self.weights_sha256[:16]}-{digest(self.preprocess, 8)}"

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        return self.compare(self.image_features(images), prompts)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float in [0, 1], or stored images as uint8 → (B, D) float32 of length 1 (float64 for a model in
        float64). Only float images have a gradient."""
        if images.dtype != torch.uint8:
            images = images.to(self.device, self.model.dtype)
        pixels = self.preprocess(images).to(self.device, self.model.dtype)
        return self._unit(_tensor(self.model.get_image_features(pixel_values=pixels)))

    def compare(self, image_features: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The measure from (B, D) image features of length 1 and one prompt for each: (B,) float32."""
        cosine = (image_features.to(self.device) * self.text_features(prompts)).sum(dim=-1)
        return cosine if self.form == "cosine" else cosine * self.model.logit_scale.to(cosine.dtype).exp()

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """(B, D) float32 of length 1, each prompt encoded once.

        Prompts go through one at a time: the features of a prompt do not depend on which others came with it, so a
        resumed run scores bit for bit as an uninterrupted one. The published ways pad each to 77 tokens; attention in
        the text tower looks back only and the feature is the end token's, so what would stand behind it is left out.
        """
        for prompt in prompts:
            if prompt not in self._texts:
                tokens = self.tokenizer(
                    [prompt], truncation=True, max_length=self.max_tokens, return_tensors="pt"
                ).to(self.device)
                self._check_end(prompt, tokens.input_ids)
                features = _tensor(self.model.get_text_features(
                    input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
                ))  # fmt: skip
                self._texts[prompt] = self._unit(features)[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def _check_end(self, prompt: str, ids: torch.Tensor) -> None:
        """transformers takes the feature at the first end token, and at the first of all tokens where there is none.

        Raises:
            UserError: the tokeniser ended this prompt with no end token.
        """
        end = self.model.config.text_config.eos_token_id
        # 2 stands in old configurations for "the highest id", which needs no name
        if isinstance(end, int) and end != 2 and not (ids == end).any():
            raise UserError(f"the tokeniser of {self.name} ends {prompt[:40]!r} without the model's end token ({end})",
                            valid="the tokeniser that the CLIP model was published with")  # fmt: skip

    def remember(self, prompts: Sequence[str], features: torch.Tensor) -> None:
        """Takes ``text_features`` that another process, or another reward with this ``reader``, computed."""
        self._texts.update(zip(prompts, features.to(self.device), strict=True))

    def _unit(self, features: torch.Tensor) -> torch.Tensor:
        """Of length 1 in float32, whatever narrower type the tower runs in."""
        wide = torch.float64 if features.dtype == torch.float64 else torch.float32
        return F.normalize(features.to(wide), dim=-1)

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


def _from_pretrained(folder: Path) -> Any:
    """Raises UserError where weights are damaged, of another model, or some are absent (transformers draws those)."""
    from transformers import CLIPModel

    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model, info = CLIPModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as err:
        reason = next((line for line in str(err).splitlines() if line.strip()), type(err).__name__)
        raise UserError(f"{folder} does not load as a CLIP model: {reason}",
                        valid="a complete save_pretrained folder of a CLIPModel") from err  # fmt: skip
    if absent := sorted(info["missing_keys"]):
        raise UserError(f"{folder} has no weights for {len(absent)} tensors of a CLIP model, such as {absent[0]}",
                        valid="a complete save_pretrained folder of a CLIPModel")  # fmt: skip
    return model


def _tensor(output: Any) -> torch.Tensor:
    """The embedding out of ``get_*_features``: a tensor up to transformers 4, an object around it since 5."""
    result = output if isinstance(output, torch.Tensor) else output.pooler_output
    assert isinstance(result, torch.Tensor)
    return result
