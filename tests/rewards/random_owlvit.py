"""A random OWL-ViT of a few thousand weights in the ``save_pretrained`` layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SIDE, PATCH, N_TOKENS = 32, 8, 10


def save_random_owlvit(folder: Path, seed: int = 0) -> Path:
    from transformers import CLIPTokenizer, OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    symbols = ["!", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=N_TOKENS, pad_token="!"
    ).save_pretrained(folder)
    OwlViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config={**tower, "vocab_size": len(vocab), "max_position_embeddings": N_TOKENS, "pad_token_id": 0,
                     "bos_token_id": vocab["<|startoftext|>"], "eos_token_id": vocab["<|endoftext|>"]},
        vision_config={**tower, "image_size": SIDE, "patch_size": PATCH}, projection_dim=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = OwlViTForObjectDetection(config)
        for p in model.parameters():
            p.data += 0.3 * torch.randn_like(p)
        for part in (model.class_head.logit_shift, model.class_head.logit_scale):  # scores away from 0 and 1
            part.weight.data *= 0.1
    model.save_pretrained(folder)
    return folder
