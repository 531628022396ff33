"""The tiny world: procedural 64x64 scenes with exact ground truth, and models small enough to store beside the code.

Importing this package is cheap. `world`, `render` and `language` never import torch; the models in `weights/` load
through the same `from_pretrained` calls as Stable Diffusion, CLIP and PickScore do.
"""

from __future__ import annotations

from pathlib import Path

MODELS = ("tiny-sd", "tiny-clip", "tiny-pick", "tiny-judge", "tiny-vqa")
"""Folder names below `weights_dir()`."""


def is_tiny_world(model_name: str) -> bool:
    """Whether a base model draws the tiny world, by the name of its source: `tiny-sd`, or `tiny-sd=FOLDER`'s."""
    return model_name == MODELS[0]


def weights_dir() -> Path:
    """Folder that holds the stored models, one `save_pretrained` folder for each name of `MODELS`."""
    return Path(__file__).resolve().parent / "weights"
