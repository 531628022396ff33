"""Random BLIP and BLIP-2 models of a few thousand weights in the ``save_pretrained`` layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIDE = 16
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": SIDE, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = ("<pad>", "<s>", "</s>", "<image>", "[UNK]", "a", "red", "blue", "circle", "square", "and", "the",
         "picture", "of", "cat")  # fmt: skip


def save_random_blip2(folder: Path, seed: int = 0) -> Path:
    """Captioner and text encoder in one folder, as no published one is."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    _save_rest(folder)
    qformer = {**TEXT, "encoder_hidden_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 12,
               "cross_attention_frequency": 1, "use_qformer_text_input": False}  # fmt: skip
    opt = {"model_type": "opt", "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
           "vocab_size": len(WORDS), "max_position_embeddings": 40, "word_embed_proj_dim": 16, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    config = Blip2Config(
        vision_config=VISION, qformer_config=qformer, text_config=opt, num_query_tokens=3, image_token_index=3,
    )  # fmt: skip
    _seeded(seed, lambda: Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    return folder


def save_random_blip2_texts(folder: Path, seed: int = 1) -> Path:
    """The text encoder alone."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    _save_rest(folder)
    qformer = {**TEXT, "encoder_hidden_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 12,
               "cross_attention_frequency": 1, "use_qformer_text_input": True}  # fmt: skip
    config = Blip2Config(vision_config=VISION, qformer_config=qformer, num_query_tokens=3, image_text_hidden_size=8)
    _seeded(seed, lambda: Blip2ForImageTextRetrieval(config)).save_pretrained(folder)
    return folder


def save_random_blip(folder: Path, seed: int = 2) -> Path:
    from transformers import BlipConfig, BlipForImageTextRetrieval

    _save_rest(folder)
    text = {**TEXT, "vocab_size": len(WORDS), "max_position_embeddings": 12, "encoder_hidden_size": 16,
            "projection_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            "sep_token_id": 2}  # fmt: skip
    config = BlipConfig(text_config=text, vision_config={**VISION, "projection_dim": 8}, projection_dim=8,
                        image_text_hidden_size=8)  # fmt: skip
    _seeded(seed, lambda: BlipForImageTextRetrieval(config)).save_pretrained(folder)
    return folder


def _seeded(seed: int, make: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        for p in model.parameters():  # zeros, such as the query tokens, would hide what does not depend on them
            p.data += 0.3 * torch.randn_like(p)
    return model


def _save_rest(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BlipImageProcessorPil, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="[UNK]",
        additional_special_tokens=["<image>"],
    ).save_pretrained(folder)  # fmt: skip
    BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
