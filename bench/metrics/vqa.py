"""VQA models that answer questions about pictures: the tiny world's reader, BLIP, and other transformers models.

BLIP's image tower runs once for each picture, and in a batch of questions so does what the question encoder makes of
the image states: keys and values of its cross-attention, six sevenths of what a question costs in BLIP base. Questions
are read in padded batches and answered in batches of one length in tokens. In a padded batch an answer would depend on
what came with it: BLIP's decoder attends to the states of padding, since transformers 5.23 loses the mask of its
cross-attention on the way (``BlipTextLayer`` hands it on as ``attention_mask``, which ``BlipTextSelfAttention``
replaces by the mask that it was not given).
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

import bench
from bench.assets import need
from bench.assets.files import sha256_of_all, weights_in
from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256
from bench.core.judging import Judging
from bench.diffusion.models import quiet
from bench.diffusion.pretrained import load_pretrained, load_tokenizer, reading
from bench.metrics.panel import VQA as PUBLISHED
from bench.tiny import weights_dir

if TYPE_CHECKING:
    from bench.tiny.reader import Reader

MAX_ANSWER_TOKENS = 10
QUESTION_BATCH = 64
_FOLDER = "a save_pretrained folder of a BLIP, ViLT or BLIP-2 that answers questions, with tokeniser and processor"


class VQA(Protocol):
    """Answers questions about pictures."""

    name: str
    """Part of the column's name: values of two readers share no scale."""
    sha256: str
    """Digest of the weights."""
    key: str
    """Names all that an answer depends on beside picture and question: what answers are kept under."""

    def answers(self, images: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        """(B, 3, H, W) float32 in [0, 1] and the questions about each: the answers in the same shape.

        Each picture goes through the image tower once, however many questions there are.
        """
        ...


class TinyVQA:
    """The reader of the tiny world: parses a picture once, then answers every question from what it saw.

    Raises:
        UserError: the weights are not there.
    """

    name = "tiny-vqa"

    def __init__(self, device: str) -> None:
        from bench.tiny.models import load_reader, reader_weights

        folder = weights_dir() / self.name
        self.sha256 = file_sha256(reader_weights(folder))
        self.key = digest([bench.__version__, self.sha256], 32)
        self.device = device
        self.reader: Reader = load_reader(folder, device)

    def answers(self, images: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        from bench.tiny.reader import answer_from

        scenes = self.reader.parse(images.to(self.device))
        return [[answer_from(scene, text) for text in asked] for scene, asked in zip(scenes, questions, strict=True)]


class BlipVQA:
    """BLIP (Li et al., arXiv 2201.12086) as ``BlipForQuestionAnswering``: free answers, decoded greedily."""

    def __init__(self, folder: Path, name: str, device: str = "cpu") -> None:
        from transformers import BlipForQuestionAnswering

        self.name, self.device = name, torch.device(device)
        self.sha256 = sha256_of_all(weights_in(folder))
        self.key = _key(folder, self)
        self.prepare = _Square.read(folder)
        with reading(folder):
            self.tokenizer: Any = load_tokenizer(folder)
            model: Any = load_pretrained(BlipForQuestionAnswering, folder)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.max_tokens = int(model.config.text_config.max_position_embeddings)
        self._projections = _share_projections(self.model.text_encoder)

    @torch.no_grad()
    def answers(self, images: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        # each question about a picture once, those about one picture together
        pairs = sorted({(i, text) for i, asked in enumerate(questions) for text in asked})
        read: defaultdict[int, list[tuple[tuple[int, str], torch.Tensor]]] = defaultdict(list)
        if pairs:
            seen = self.model.vision_model(pixel_values=self.prepare(images).to(self.device)).last_hidden_state
        for at in range(0, len(pairs), QUESTION_BATCH):
            part = pairs[at : at + QUESTION_BATCH]
            for pair, states in zip(part, self.encoded(seen, *zip(*part, strict=True)), strict=True):
                read[len(states)].append((pair, states))
        said: dict[tuple[int, str], str] = {}
        for _, same in sorted(read.items()):
            for at in range(0, len(same), QUESTION_BATCH):
                group = same[at : at + QUESTION_BATCH]
                answers = self._decode(torch.stack([states for _, states in group]))
                said.update(zip((pair for pair, _ in group), answers, strict=True))
        return [[said[i, text] for text in asked] for i, asked in enumerate(questions)]

    def encoded(self, seen: torch.Tensor, rows: Sequence[int], texts: Sequence[str]) -> list[torch.Tensor]:
        """States of each question, (its tokens, D), from the states (N, patches, D) of pictures and which of them each
        question is about."""
        tokens = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens).input_ids
        ids = pad_sequence([torch.tensor(t) for t in tokens], batch_first=True).to(self.device)
        lengths = torch.tensor([len(t) for t in tokens], device=self.device)
        pictures, which = torch.unique(torch.tensor(rows, device=self.device), return_inverse=True)
        seen = seen[pictures]
        for projection in self._projections:
            projection.of = (seen, which)
        try:
            states = self.model.text_encoder(
                input_ids=ids, encoder_hidden_states=seen[which],
                attention_mask=(torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long(),
                encoder_attention_mask=torch.ones(len(ids), seen.shape[1], dtype=torch.long, device=self.device),
            )[0]  # fmt: skip
        finally:
            for projection in self._projections:
                projection.of = None
        return [row[: len(t)] for row, t in zip(states, tokens, strict=True)]

    def _decode(self, states: torch.Tensor) -> list[str]:
        """Question states (B, tokens, D) of one length to answers."""
        text = self.model.config.text_config
        start = torch.full((len(states), 1), self.model.decoder_start_token_id, device=self.device)
        ids = self.model.text_decoder.generate(
            input_ids=start, attention_mask=torch.ones_like(start), eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id, encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=self.device), do_sample=False,
            num_beams=1, max_new_tokens=MAX_ANSWER_TOKENS,
        )  # fmt: skip
        return [answer.strip() for answer in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


class _OncePerPicture(torch.nn.Module):
    """A projection of image states that is computed once for a picture and handed to each question about it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.of: tuple[torch.Tensor, torch.Tensor] | None = None
        """States of the pictures (P, patches, D), and which of them each row is about (R,)."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States by row (R, patches, D) → their projection, row by row."""
        pictures, which = self.of or (states, slice(None))
        projected: torch.Tensor = self.inner(pictures)[which]
        return projected


def _share_projections(text_encoder: torch.nn.Module) -> list[_OncePerPicture]:
    """Keys and values of all cross-attentions of a question encoder, each in place of the module that it holds."""
    attentions = [module for name, module in text_encoder.named_modules() if name.endswith("crossattention.self")]
    made = []
    for attention in attentions:
        for name in ("key", "value"):
            made.append(_OncePerPicture(getattr(attention, name)))
            setattr(attention, name, made[-1])
    return made


class OtherVQA:
    """Any other VQA model of transformers through its own processor: a picture and a question at a time.

    A classifier (ViLT) answers with its most probable label; a generator is asked "Question: … Answer:".
    """

    def __init__(self, folder: Path, name: str, device: str = "cpu") -> None:
        from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

        self.name, self.device = name, device
        self.sha256 = sha256_of_all(weights_in(folder))
        self.key = _key(folder, self)
        with reading(folder):
            try:
                with quiet():
                    self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
                model: Any = load_pretrained(AutoModelForVisualQuestionAnswering, folder)
            except (ValueError, KeyError, ImportError) as err:
                raise UserError(f"{folder} holds no VQA model that transformers knows: {str(err).splitlines()[0]}",
                                valid=_FOLDER) from err  # fmt: skip
        self.model = model.eval().requires_grad_(False).to(device)
        self.classifies = hasattr(model, "classifier")

    @torch.no_grad()
    def answers(self, images: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        pictures = (images.cpu() * 255).round().to(torch.uint8)
        return [[self._answer(picture, text) for text in asked]
                for picture, asked in zip(pictures, questions, strict=True)]  # fmt: skip

    def _answer(self, picture: torch.Tensor, question: str) -> str:
        text = question if self.classifies else f"Question: {question} Answer:"
        inputs = self.processor(images=picture, text=text, return_tensors="pt").to(self.device)
        if self.classifies:
            return str(self.model.config.id2label[int(self.model(**inputs).logits[0].argmax())])
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)[0]
        said = self.processor.decode(ids, skip_special_tokens=True)
        return str(said.rpartition("Answer:")[2]).strip()


class _Square:
    """BLIP's preprocessing: bicubic to a square as PIL does it on 8-bit pixels (to two levels), mean and deviation."""

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.side = side
        self.mean, self.std = (torch.tensor(list(x)).view(3, 1, 1) for x in (mean, std))

    @classmethod
    def read(cls, folder: Path) -> _Square:
        path = folder / "preprocessor_config.json"
        try:
            config = json.loads(path.read_text("utf-8"))
            size = config["size"]
            side = size if isinstance(size, int) else int(size["height"])
            return cls(side, config["image_mean"], config["image_std"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise UserError(f"{path} cannot be read as BLIP's preprocessing: {type(err).__name__}: {err}",
                            valid="size, image_mean and image_std as transformers writes them") from err  # fmt: skip

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float in [0, 1] → (B, 3, side, side) on the CPU."""
        pixels = (images.cpu() * 255).round().to(torch.uint8)
        if pixels.shape[-2:] != (self.side, self.side):
            pixels = F.interpolate(pixels, size=(self.side, self.side), mode="bicubic", antialias=True)
        return (pixels.float() / 255 - self.mean) / self.std


def _key(folder: Path, reader: BlipVQA | OtherVQA) -> str:
    """Weights, tokeniser, preprocessing, and how we ask."""
    small = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.suffix in (".json", ".txt")}
    return digest([type(reader).__name__, reader.sha256, small, QUESTION_BATCH, MAX_ANSWER_TOKENS, "padded"], 32)


@functools.lru_cache(maxsize=1)
def tiny_vqa(device: str) -> VQA:
    """The tiny world's reader, loaded once a process."""
    return TinyVQA(device)


@functools.lru_cache(maxsize=1)
def load_vqa(folder: Path, name: str, device: str) -> VQA:
    """The VQA model of a ``save_pretrained`` folder, loaded once a process.

    Raises:
        UserError: no such folder, or none of the models that are known here.
    """
    if not weights_in(folder) or not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no VQA model", valid=_FOLDER)
    with reading(folder / "config.json"):
        kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    return BlipVQA(folder, name, device) if kind == "blip" else OtherVQA(folder, name, device)


def reader_of(judging: Judging, device: str) -> VQA:
    """Who answers: the tiny world's reader, the user's model, or the published one.

    Raises:
        UserError: its weights are not on this machine.
    """
    if judging.vqa:
        return load_vqa(Path(judging.vqa), Path(judging.vqa).name, device)
    return tiny_vqa(device) if judging.world == "tiny" else load_vqa(need(PUBLISHED), PUBLISHED, device)
