"""Stage 2's parts for photographs, from local folders in transformers' layout: a tagger in the place of RAM, a language
model in that of GPT-4, Grounding DINO and SAM as Grounded-SAM.

Pictures are prepared on tensors, so no image library and no torchvision is needed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.core.errors import UserError
from tuners.realign.words import CERTAIN, POSSIBLE, UNLIKELY

MOST_TAGS = 8
LEAST_SHARE = 0.05
"""A tag counts as seen when it holds this share of the softmax over the vocabulary."""
BOX_THRESHOLD = 0.35
"""Grounding DINO's own choice for a phrase's box."""


class ClipTagger:
    """Zero-shot tags by CLIP over a vocabulary: RAM-like in what it gives, not RAM's network.

    Args:
        folder: CLIPModel, AutoTokenizer, preprocessor_config.json, and ``tags.txt`` with a tag a line.

    Raises:
        UserError: a file is missing.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        path = _need(folder / "tags.txt", "a vocabulary for the tagger, a tag a line, such as RAM's list")
        self.vocabulary = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
        if not self.vocabulary:
            raise UserError(f"{path} holds no tags", valid="a tag a line")
        self.model: Any = _load(CLIPModel, folder).to(device)
        self.device = device
        self.mean, self.std = _normalisation(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = [f"a photo of a {tag}" for tag in self.vocabulary]
        most = int(self.model.config.text_config.max_position_embeddings)
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=most, return_tensors="pt")
        with torch.no_grad():
            self._texts = _unit(self.model.get_text_features(**tokens.to(device)))

    @torch.no_grad()
    def tags(self, images: torch.Tensor) -> list[list[str]]:
        """The likeliest tags of each picture (B, 3, H, W), likeliest first."""
        side = int(self.model.config.vision_config.image_size)
        short = min(images.shape[-2:])
        top, left = ((n - short) // 2 for n in images.shape[-2:])
        square = images[..., top : top + short, left : left + short].to(self.device, torch.float32)
        small = F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        seen = _unit(self.model.get_image_features(pixel_values=_normalise(small, self.mean, self.std)))
        share = (self.model.logit_scale.exp() * seen @ self._texts.T).softmax(-1)
        order = share.topk(min(MOST_TAGS, len(self.vocabulary)))
        return [
            [self.vocabulary[k] for k, p in zip(ks, ps, strict=True) if p >= LEAST_SHARE]
            for ks, ps in zip(order.indices.tolist(), order.values.tolist(), strict=True)
        ]


ASK = """A picture was made for the prompt: {prompt}
In the picture these things were recognised: {tags}.
For each of them, in this order, write one line of JSON such as
{{"tag": "dog", "likelihood": "certain", "caption": "a black dog"}}
with "likelihood" certain, possible or unlikely: how likely the thing is in the scene that the prompt describes; and
with "caption" a short description of the thing as the prompt wants it. Write nothing else."""

SCORES = {"certain": CERTAIN, "possible": POSSIBLE, "unlikely": UNLIKELY}


class LanguageModel:
    """Judge and local captioner in one: a causal language model is asked once a picture, and decodes greedily.

    A thing that the answer does not speak of is unlikely, which leaves it alone: the paper counts such answers as
    failures (Table IV).

    Args:
        folder: AutoModelForCausalLM and AutoTokenizer; the chat template is used where there is one.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = _load(AutoModelForCausalLM, folder).to(device)
        self.device = device
        self._answers: dict[str, str] = {}

    def scores(self, prompt: str, tags: Sequence[str]) -> list[float]:
        """s_i of each tag."""
        told = read_answer(self._ask(prompt, tags))
        return [told[tag.lower()][0] if tag.lower() in told else UNLIKELY for tag in tags]

    def captions(self, prompt: str, tags: Sequence[str]) -> list[str]:
        """l_i of each tag."""
        told = read_answer(self._ask(prompt, tags))
        return [told[tag.lower()][1] if tag.lower() in told else tag for tag in tags]

    @torch.no_grad()
    def _ask(self, prompt: str, tags: Sequence[str]) -> str:
        question = ASK.format(prompt=prompt, tags=", ".join(tags))
        if question not in self._answers:
            text = question
            if self.tokenizer.chat_template:
                turn = [{"role": "user", "content": question}]
                text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            tokens = self.tokenizer(text, add_special_tokens=not self.tokenizer.chat_template, return_tensors="pt")
            ids = tokens.input_ids.to(self.device)
            out = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40 * len(tags),
                pad_token_id=self.tokenizer.eos_token_id,
            )  # fmt: skip
            self._answers[question] = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return self._answers[question]


def read_answer(answer: str) -> dict[str, tuple[float, str]]:
    """tag in lower case → (s_i, l_i), out of the lines that are what was asked for.

    >>> read_answer('Sure! {"tag": "Pen", "likelihood": "certain", "caption": "a yellow pen"} {"tag": "dog"')
    {'pen': (2.0, 'a yellow pen')}
    """
    told: dict[str, tuple[float, str]] = {}
    for found in re.findall(r"\{[^{}]*\}", answer):
        try:
            row = json.loads(found)
            told.setdefault(
                str(row["tag"]).lower(), (SCORES[str(row["likelihood"]).lower()], str(row["caption"]).strip())
            )
        except (ValueError, KeyError):
            continue
    return {tag: told[tag] for tag in told if told[tag][1]}


class GroundedSam:
    """Boxes of each tag by Grounding DINO (arXiv 2303.05499), their masks by SAM (arXiv 2304.02643).

    Args:
        folder: with ``grounding-dino`` (GroundingDinoForObjectDetection, AutoTokenizer) and ``sam`` (SamModel), each
            with its preprocessor_config.json.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection, SamModel

        dino, sam = (_need(folder / name, "a folder of weights") for name in ("grounding-dino", "sam"))
        self.tokenizer: Any = AutoTokenizer.from_pretrained(dino)
        self.dino: Any = _load(GroundingDinoForObjectDetection, dino).to(device)
        self.sam: Any = _load(SamModel, sam).to(device)
        self.device = device
        self._dino_norm, self._sam_norm = _normalisation(dino), _normalisation(sam)
        size = _config(dino)["size"]
        self._shortest, self._longest = int(size["shortest_edge"]), int(size["longest_edge"])

    @torch.no_grad()
    def masks(self, image: torch.Tensor, tags: Sequence[str]) -> list[torch.Tensor]:
        """m_i (H, W) bool of each tag in a picture (3, H, W): the union of its boxes' masks."""
        image = image.to(self.device, torch.float32)
        boxes = self.boxes(image, tags)
        found = self._segment(image, torch.cat(boxes))
        ends = list(itertools.accumulate(len(own) for own in boxes))
        return [found[end - len(own) : end].any(0) for own, end in zip(boxes, ends, strict=True)]

    def boxes(self, image: torch.Tensor, tags: Sequence[str]) -> list[torch.Tensor]:
        """For each tag its boxes (n, 4): left, top, right, bottom as shares of the picture."""
        ids, spans = self._question(tags)
        height, width = image.shape[-2:]
        scale = min(self._shortest / min(height, width), self._longest / max(height, width))
        pixels = F.interpolate(
            image[None], (round(height * scale), round(width * scale)), mode="bilinear", antialias=True
        )
        out = self.dino(pixel_values=_normalise(pixels, *self._dino_norm), input_ids=ids,
                        attention_mask=torch.ones_like(ids))  # fmt: skip
        p = out.logits[0].sigmoid()
        x, y, w, h = out.pred_boxes[0].unbind(-1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).clamp(0, 1)
        return [corners[p[:, span.start : span.stop].amax(-1) > BOX_THRESHOLD] for span in spans]

    def _question(self, tags: Sequence[str]) -> tuple[torch.Tensor, list[range]]:
        """Token ids (1, L) of "tag . tag .", and which of them are each tag's."""
        start, *_, end = self.tokenizer("a").input_ids
        stop = self.tokenizer(".", add_special_tokens=False).input_ids
        ids: list[int] = [start]
        spans = []
        for tag in tags:
            own = self.tokenizer(tag.lower(), add_special_tokens=False).input_ids
            spans.append(range(len(ids), len(ids) + len(own)))
            ids += [*own, *stop]
        return torch.tensor([[*ids, end]], device=self.device), spans

    def _segment(self, image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Masks (n, H, W) bool on the CPU for boxes (n, 4)."""
        height, width = image.shape[-2:]
        if not len(boxes):
            return torch.zeros(0, height, width, dtype=torch.bool)
        side = int(self.sam.config.vision_config.image_size)
        h, w = (round(n * side / max(height, width)) for n in (height, width))
        pixels = F.interpolate(image[None], (h, w), mode="bilinear", antialias=True)
        pixels = F.pad(_normalise(pixels, *self._sam_norm), (0, side - w, 0, side - h))
        corners = boxes * torch.tensor([w, h, w, h], device=boxes.device)
        out = self.sam(pixel_values=pixels, input_boxes=corners[None], multimask_output=False)
        logits = F.interpolate(out.pred_masks[0], (side, side), mode="bilinear")[..., :h, :w]
        masks: torch.Tensor = F.interpolate(logits, (height, width), mode="bilinear")[:, 0] > 0
        return masks.cpu()


def _load(cls: Any, folder: Path) -> Any:
    try:
        return cls.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval().requires_grad_(False)
    except (OSError, ValueError) as err:
        raise UserError(f"{folder} does not load as {cls.__name__}: {str(err).splitlines()[0]}",
                        valid="a complete save_pretrained folder") from err  # fmt: skip


def _need(path: Path, what: str) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing", valid=what)
    return path


def _config(folder: Path) -> dict[str, Any]:
    path = _need(folder / "preprocessor_config.json", "the image processor's file, as transformers writes it")
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return config


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    config = _config(folder)
    return config["image_mean"], config["image_std"]


def _normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    return (images - images.new_tensor(mean).view(3, 1, 1)) / images.new_tensor(std).view(3, 1, 1)


def _unit(output: Any) -> torch.Tensor:
    """Features of length 1; an object around them since transformers 5."""
    return F.normalize(output if isinstance(output, torch.Tensor) else output.pooler_output, dim=-1)
