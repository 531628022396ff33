"""The word-level tokenizer shared by all text towers.

Each word of `language.vocabulary()` is one token; every other word, number, sign or emoji is one unknown token, so that
free text passes through. (`CLIPTokenizer`'s byte-pair backend would spend one unknown token on each letter.)
"""

from __future__ import annotations

from functools import lru_cache

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bench.tiny.vocabulary import vocabulary

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
START_ID, END_ID, UNKNOWN_ID = 0, 1, 2
MAX_LENGTH = 32


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; padding is the end token, as in CLIP."""
    ids = {token: index for index, token in enumerate((START, END, UNKNOWN, *vocabulary()))}
    inner = Tokenizer(models.WordLevel(vocab=ids, unk_token=UNKNOWN))
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]"), behavior="removed", invert=True
    )
    inner.post_processor = processors.RobertaProcessing((END, END_ID), (START, START_ID), False, False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )


def vocabulary_size() -> int:
    """Words, marks and the three special tokens."""
    return len(vocabulary()) + 3


def token_ids(texts: list[str]) -> torch.Tensor:
    """(B, 32) int64, padded and truncated with the end token kept."""
    out = tokenizer()(texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    ids: torch.Tensor = out["input_ids"]
    return ids
