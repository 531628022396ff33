"""A folder of weights that lacks a layer, or is cut or garbled, is refused by name: nothing is drawn in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from random_clip import save_random_clip
from random_networks import (
    save_random_blip_vqa,
    save_random_dinov2,
    save_random_encoder,
    save_random_llm,
    save_random_vilt,
)
from safetensors.torch import load_file, save_file

from bench.core.errors import UserError
from bench.metrics.extractors import ClipVision, Dinov2
from bench.metrics.identity import load_embedder
from bench.metrics.question_making import LanguageModel
from bench.metrics.sentences import SentenceEncoder
from bench.metrics.vqa import load_vqa


def save_random_embedder(folder: Path) -> Path:
    from transformers import BitImageProcessorPil

    BitImageProcessorPil(size={"shortest_edge": 28}).save_pretrained(folder)
    return save_random_dinov2(folder)


LOADERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], str]] = {
    "blip": (save_random_blip_vqa, lambda p: load_vqa(p, "x", "cpu"), "text_encoder.encoder.layer.1"),
    "vilt": (save_random_vilt, lambda p: load_vqa(p, "x", "cpu"), "vilt.encoder.layer.1"),
    "dinov2": (save_random_dinov2, Dinov2, "encoder.layer.1"),
    "clip": (save_random_clip, ClipVision, "vision_model.encoder.layers.1"),
    "sentences": (save_random_encoder, lambda p: SentenceEncoder(p, "x"), "encoder.layer.1"),
    "embedder": (save_random_embedder, lambda p: load_embedder(p, "cpu"), "encoder.layer.1"),
    "llm": (save_random_llm, LanguageModel, "h.0.mlp"),
}
"""How a random one is saved, how it is read, a layer."""


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("damage", ["none", "a layer is missing", "weights are cut", "weights are text",
                                    "config is garbage", "config is a list"])  # fmt: skip
def test_a_damaged_folder_is_one_sentence(kind: str, damage: str, tmp_path: Path) -> None:
    save, load, layer = LOADERS[kind]
    folder = tmp_path / kind
    save(folder)
    (file,) = folder.glob("*.safetensors")
    config = folder / "config.json"
    if damage == "none":
        load(folder)
        return
    if damage == "a layer is missing":
        tensors = load_file(file)
        kept = {name: tensor for name, tensor in tensors.items() if layer not in name}
        assert 0 < len(kept) < len(tensors)
        save_file(kept, file, metadata={"format": "pt"})
    elif damage == "weights are cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "weights are text":
        file.write_text("no weights")
    elif damage == "config is garbage":
        config.write_text("{garbage")
    else:
        config.write_text("[1, 2]")
    with pytest.raises(UserError) as err:
        load(folder)
    assert str(folder) in err.value.problem
    assert "\n" not in err.value.problem
    if damage == "a layer is missing":
        assert "has no weights for" in err.value.problem
        assert layer in err.value.problem


def test_a_sentence_encoder_needs_no_pooler(tmp_path: Path) -> None:
    folder = save_random_encoder(tmp_path)
    whole = SentenceEncoder(folder, "x").embed(["red cat"])
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    assert len(kept) < len(tensors)
    save_file(kept, file, metadata={"format": "pt"})
    assert SentenceEncoder(folder, "x").embed(["red cat"]).equal(whole)
