"""Random networks of a few thousand weights in the classes and file layouts of the published ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 16, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "yes", "no", "red", "blue", "green", "one", "two", "cat", "dog",
         "is", "there", "a", "what", "color", "the", "how", "many", "are", "?", "Question", ":", "Answer")  # fmt: skip


def save_random_dinov2(folder: Path, seed: int = 0) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    seeded(seed, lambda: Dinov2Model(config)).save_pretrained(folder)
    return folder


def save_random_blip_vqa(folder: Path, seed: int = 0) -> Path:
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipImageProcessorPil

    save_words(folder)
    BlipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    text = {**TEXT, "vocab_size": len(WORDS), "max_position_embeddings": 24, "encoder_hidden_size": 16,
            "projection_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2,
            "is_decoder": True}  # fmt: skip
    config = BlipConfig(text_config=text, vision_config={**VISION, "projection_dim": 8}, projection_dim=8)
    seeded(seed, lambda: BlipForQuestionAnswering(config)).save_pretrained(folder)
    return folder


def save_random_vilt(folder: Path, seed: int = 0) -> Path:
    from transformers import ViltConfig, ViltForQuestionAnswering, ViltImageProcessorPil, ViltProcessor

    tokenizer = save_words(folder)
    images = ViltImageProcessorPil(size={"shortest_edge": 16}, size_divisor=8)
    ViltProcessor(images, tokenizer).save_pretrained(folder)
    config = ViltConfig(**{**TEXT, **VISION}, vocab_size=len(WORDS), max_position_embeddings=24, num_labels=3,
                        id2label={0: "yes", 1: "no", 2: "red"}, label2id={"yes": 0, "no": 1, "red": 2})  # fmt: skip
    seeded(seed, lambda: ViltForQuestionAnswering(config)).save_pretrained(folder)
    return folder


def save_random_encoder(folder: Path, seed: int = 0) -> Path:
    """MPNet, the class of all-mpnet-base-v2."""
    from transformers import MPNetConfig, MPNetModel

    save_words(folder)
    config = MPNetConfig(**TEXT, vocab_size=len(WORDS), max_position_embeddings=24, pad_token_id=0)
    seeded(seed, lambda: MPNetModel(config)).save_pretrained(folder)
    return folder


def save_random_llm(folder: Path, seed: int = 0) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    save_words(folder)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=2048, n_embd=16, n_layer=1, n_head=2, bos_token_id=1,
                        eos_token_id=2)  # fmt: skip
    seeded(seed, lambda: GPT2LMHeadModel(config)).save_pretrained(folder)
    return folder


def save_words(folder: Path) -> Any:
    """A tokeniser of whole words, [CLS] before and [SEP] after each text as BERT's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
                                        unk_token="[UNK]", mask_token="[MASK]", eos_token="[SEP]")  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    """The model with weights large enough that answers differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        for p in model.parameters():
            p.data += 0.4 * torch.randn_like(p)
    return model
