"""Open the stored models: thin wrappers over `from_pretrained`, everything in float32.

The same folders open with the library classes directly, for instance
`StableDiffusionPipeline.from_pretrained(weights_dir() / "tiny-sd", dtype=torch.float32)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import CLIPModel

from bench.core.errors import UserError
from bench.diffusion.models import quiet
from bench.tiny import weights_dir
from bench.tiny.reader import Reader

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def load_pipeline(folder: Path | None = None) -> StableDiffusionPipeline:
    """tiny-sd, in evaluation mode, without a progress bar."""
    with quiet():  # its import advises to install torchvision
        from diffusers import StableDiffusionPipeline
    pipe: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        folder or weights_dir() / "tiny-sd", dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_scorer(name: str, folder: Path | None = None) -> CLIPModel:
    """tiny-clip, tiny-pick or tiny-judge, frozen; score with `scorers.scores`."""
    model: CLIPModel = CLIPModel.from_pretrained(folder or weights_dir() / name, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def load_reader(folder: Path | None = None, device: str | torch.device = "cpu") -> Reader:
    """tiny-vqa, frozen; ask with `Reader.answer`.

    Raises:
        UserError: the weights are not there.
    """
    folder = reader_weights(folder).parent
    with quiet():
        model: Reader = Reader.from_pretrained(folder, dtype=torch.float32)
    model.eval().requires_grad_(False).to(device)
    return model


def reader_weights(folder: Path | None = None) -> Path:
    """The file of tiny-vqa's weights, whose digest names the reader. Raises UserError where it is missing."""
    folder = folder or weights_dir() / "tiny-vqa"
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(
            f"the weights of {folder.name} are missing: {path} does not exist", hint="python -m bench.tiny.train"
        )
    return path
