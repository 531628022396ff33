"""JSON text of data that came out of JSON, for keys and digests of thousands of records."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from bench.core.identity import canonical_json

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def spelled(value: Any) -> str:
    """The text of ``bench.core.identity.canonical_json``, which looks at every value for types of ours: data out of
    JSON has none and takes a tenth of the time here. Keys of mappings must be text.

    Raises:
        TypeError, ValueError: no data, or NaN.
    """
    try:
        return _ENCODE(value)
    except TypeError:
        return canonical_json(value)


def short_digest(value: Any, n_hex: int) -> str:
    """``bench.core.identity.digest`` of such data."""
    return hashlib.sha256(spelled(value).encode("utf-8", "surrogatepass")).hexdigest()[:n_hex]
