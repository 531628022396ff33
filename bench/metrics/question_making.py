"""Questions about prompts, made by a language model and kept until a person has reviewed them (TIFA, section 3).

The model is shown two worked prompts and continues the third; what it writes is read line by line, and lines that are
no question with an answer among its choices are dropped and counted. A second model, where one is given, answers each
question from the caption alone: what it does not answer as expected is dropped (TIFA's filter with UnifiedQA).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.assets.files import sha256_of_all, weights_in
from bench.core.errors import UserError
from bench.core.types import Prompt
from bench.diffusion.pretrained import load_pretrained, load_tokenizer, reading

KINDS = ("object", "human", "animal", "food", "activity", "attribute", "counting", "color", "material", "spatial",
         "location", "shape", "other")  # fmt: skip
MAX_NEW_TOKENS = 400

_TASK = """Write questions that check whether a picture shows what its caption says. One question a line:
kind | question | choices with ; between | answer
Kinds: {kinds}.

Caption: two black cats asleep on a wooden bench
animal | are there cats? | yes; no | yes
counting | how many cats are there? | 1; 2; 3; 4 | 2
color | what color are the cats? | black; white; grey; orange | black
activity | what are the cats doing? | sleeping; eating; running; jumping | sleeping
material | what is the bench made of? | wood; stone; metal; plastic | wood
spatial | are the cats on the bench? | yes; no | yes

Caption: a watercolour of a lighthouse at dusk
object | is there a lighthouse? | yes; no | yes
other | what is the picture? | watercolour; photograph; sculpture; sketch | watercolour
location | what time of day is it? | dusk; noon; morning; midnight | dusk

Caption: {caption}
"""


class Writer(Protocol):
    """Continues a text."""

    sha256: str

    def write(self, prompt: str) -> str:
        """What follows ``prompt``."""
        ...


class LanguageModel:
    """A transformers language model, decoder-only or with an encoder (UnifiedQA), decoded greedily.

    Raises:
        UserError: the folder holds none.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        valid = "a save_pretrained folder of a text-generation model of transformers, with its tokeniser"
        if not weights_in(folder) or not (folder / "config.json").is_file():
            raise UserError(f"{folder} holds no language model", valid=valid, hint="--llm FOLDER")
        with reading(folder):
            self.encodes = bool(AutoConfig.from_pretrained(folder, local_files_only=True).is_encoder_decoder)
            self.tokenizer: Any = load_tokenizer(folder)
            kind = AutoModelForSeq2SeqLM if self.encodes else AutoModelForCausalLM
            model: Any = load_pretrained(kind, folder, dtype="auto")
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device
        self.name = folder.resolve().name
        self.sha256 = sha256_of_all(weights_in(folder))

    @torch.no_grad()
    def write(self, prompt: str) -> str:
        tokens = self.tokenizer([prompt], return_tensors="pt").to(self.device)
        ids = self.model.generate(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, do_sample=False, num_beams=1,
            max_new_tokens=MAX_NEW_TOKENS, pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )[0]  # fmt: skip
        new = ids if self.encodes else ids[tokens.input_ids.shape[1] :]
        return str(self.tokenizer.decode(new, skip_special_tokens=True))


@dataclass(frozen=True)
class Made:
    """Questions in the rows of TIFA's file, and what became of the rest."""

    rows: list[dict[str, Any]]
    dropped: dict[str, int]
    """Reason → how many lines."""
    without: list[str]
    """Prompts that no question was found for."""


def make_questions(
    prompts: Sequence[Prompt], writer: Writer, check: Writer | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> Made:  # fmt: skip
    """Asks the model about each prompt.

    Args:
        check: answers each question from the caption alone; None keeps all.
        advance: told of each prompt that is done.
    """
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    without: list[str] = []
    for prompt in prompts:
        found = parse(writer.write(_TASK.format(kinds=", ".join(KINDS), caption=prompt.text)), dropped)
        if check is not None:
            kept = [row for row in found if answerable(prompt.text, row, check)]
            dropped["not answered from the caption as expected"] += len(found) - len(kept)
            found = kept
        rows += [{"id": prompt.id, "caption": prompt.text, **row} for row in found]
        without += [] if found else [prompt.text]
        advance(1)
    return Made(rows, {reason: n for reason, n in sorted(dropped.items()) if n}, without)


def parse(text: str, dropped: Counter[str] | None = None) -> list[dict[str, Any]]:
    """The questions in a model's answer, up to the first empty line or next caption; each question once."""
    dropped = Counter() if dropped is None else dropped
    found: dict[str, dict[str, Any]] = {}
    for line in text.strip().splitlines():
        if not line.strip() or line.startswith("Caption:"):
            break
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 4:
            dropped["not four parts"] += 1
            continue
        kind, question, offered, answer = parts
        choices = list(dict.fromkeys(c.strip() for c in offered.split(";") if c.strip()))
        if answer not in choices or len(choices) < 2:
            dropped["the answer is none of the choices"] += 1
        elif question in found:
            dropped["asked twice"] += 1
        else:
            found[question] = {"question": question, "choices": choices, "answer": answer,
                               "element_type": kind.lower() if kind.lower() in KINDS else "other"}  # fmt: skip
    return list(found.values())


def answerable(caption: str, row: dict[str, Any], model: Writer) -> bool:
    """TIFA's filter: the answer chosen from the caption is the expected one and, unless it is yes or no, the free
    answer shares words with it, F1 above 0.6. Prompts are in UnifiedQA's form."""
    letters = "abcdefghij"
    offered = " ".join(f"({letters[i % 10]}) {choice}" for i, choice in enumerate(row["choices"]))
    chosen = model.write(f"{row['question']} \\n {offered} \\n {caption}".lower()).strip()
    if chosen.lower() != row["answer"].lower():
        return False
    if row["answer"].lower() in ("yes", "no"):
        return True
    return word_f1(model.write(f"{row['question']} \\n {caption}".lower()), row["answer"]) > 0.6


_NUMBERS = {word: str(i) for i, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
)}  # fmt: skip


def word_f1(a: str, b: str) -> float:
    """F1 of the words of two answers, small numbers as digits, articles and punctuation left out."""
    left, right = (Counter(_words(text)) for text in (a, b))
    common = (left & right).total()
    return 2 * common / (left.total() + right.total()) if common else 0.0


def _words(text: str) -> list[str]:
    words = re.findall(r"[\w']+", text.lower())
    return [_NUMBERS.get(word, word) for word in words if word not in ("a", "an", "the")]
