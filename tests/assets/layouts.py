"""Folders in the layouts of published weights: their files, a few bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def write(path: Path, content: bytes = b"{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def safetensors(n: int = 4) -> bytes:
    """A whole safetensors file with n float32 numbers."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * n)


def transformers_folder(folder: Path, weights: str = "model.safetensors") -> Path:
    write(folder / "config.json")
    write(folder / weights, safetensors() if weights.endswith(".safetensors") else b"\x80\x02}q\x00.")
    return folder


def pipeline_folder(folder: Path) -> Path:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None]}  # fmt: skip
    write(folder / "model_index.json", json.dumps(index).encode())
    for part in ("unet", "vae"):
        write(folder / part / "config.json")
        write(folder / part / "diffusion_pytorch_model.safetensors", safetensors())
    return folder
