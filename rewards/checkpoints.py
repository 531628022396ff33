"""Torch's own checkpoint files (``.pt``, ``.pth``, ``.bin``): pickles, which may run any code when they are loaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from bench.assets import UNSAFE_PICKLE, allowed
from bench.core.errors import UserError


def read_checkpoint(path: Path, asset: str) -> dict[str, Any]:
    """The mapping in a checkpoint, on the CPU, tensors and plain data only.

    Args:
        path: the file.
        asset: its name in the catalogue, by which a user may allow more.

    Raises:
        UserError: damaged, not a mapping, or in need of code that nobody allowed.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=not allowed(UNSAFE_PICKLE, asset))
    except pickle.UnpicklingError as err:
        raise UserError(
            f"{path} holds more than tensors: loading it would run code that it names",
            valid=f"a checkpoint of tensors, or {UNSAFE_PICKLE}={asset} if you trust its author",
        ) from err
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError) as err:
        reason = next((line for line in str(err).splitlines() if line.strip()), type(err).__name__)
        raise UserError(f"{path} cannot be read: {reason}", valid="a complete copy of the file") from err
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}", valid="a mapping of names to tensors")
    return found
