"""Arrays kept on disk under what they are made from. A damaged or foreign file is made again, never believed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.identity import canonical_json, digest
from bench.store import atomic


def cached(folder: Path, key: Mapping[str, Any], compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array for ``key``: read from ``folder`` if it is there, else computed and kept.

    Args:
        folder: holds one ``.npz`` for each key; made when needed.
        key: everything the array depends on, as plain JSON data; stored in the file and compared on reading.
        compute: makes the array.
    """
    found = stored(folder, key)
    if found is not None:
        return found
    array = compute()
    file = io.BytesIO()
    np.savez(file, array=array, key=np.array(canonical_json(key)))
    atomic.write_bytes(_path(folder, key), file.getvalue(), flush=False)
    return array


def stored(folder: Path, key: Mapping[str, Any]) -> NDArray[Any] | None:
    """The array that ``folder`` keeps for ``key``, None where it has none or a damaged one."""
    try:
        with _path(folder, key).open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return np.asarray(kept["array"]) if str(kept["key"]) == canonical_json(key) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _path(folder: Path, key: Mapping[str, Any]) -> Path:
    return folder / f"{digest(key, 32)}.npz"
