"""Open the stored models: thin wrappers over `from_pretrained`, everything in float32.

The same folders open with the library classes directly, for instance
`StableDiffusionPipeline.from_pretrained(weights_dir() / "tiny-sd", dtype=torch.float32)`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel

from bench.tiny import weights_dir
from bench.tiny.reader import Reader


def load_pipeline(folder: Path | None = None) -> StableDiffusionPipeline:
    """tiny-sd, in evaluation mode, without a progress bar."""
    pipe: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        folder or weights_dir() / "tiny-sd", dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_scorer(name: str, folder: Path | None = None) -> CLIPModel:
    """tiny-clip, tiny-pick or tiny-judge, frozen; score with `scorers.scores`."""
    model: CLIPModel = CLIPModel.from_pretrained(folder or weights_dir() / name, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def load_reader(folder: Path | None = None) -> Reader:
    """tiny-vqa, frozen; ask with `Reader.answer`."""
    model: Reader = Reader.from_pretrained(folder or weights_dir() / "tiny-vqa", dtype=torch.float32)
    model.eval().requires_grad_(False)
    return model
