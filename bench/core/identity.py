"""Identity: canonical JSON and the hashes made from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IDENTITY_VERSION = 2
"""Part of every run id. Raise it only when the meaning of an id changes: all ids change with it."""


_AS_IT_IS = frozenset({str, int, bool, type(None)})


def plain(value: Any) -> Any:
    """``value`` as plain JSON data: dataclasses become dicts, tuples lists; NaN and unknown types are refused."""
    kind = type(value)  # the common types first: a site of thousands of runs asks for a million of them
    if kind in _AS_IT_IS or (kind is float and math.isfinite(value)):
        return value
    if kind is dict:
        return {k if type(k) is str else str(k): plain(v) for k, v in value.items()}
    if kind is list:
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} has no place in canonical JSON: use null and a reason")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is not JSON data")


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, UTF-8 kept, ``1.0`` and ``1`` told apart by type."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, n_hex: int = 64) -> str:
    """SHA-256 of the canonical JSON of ``value``, the first ``n_hex`` digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:n_hex]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
