"""Seeds by purpose and axes: every random draw in the project names what it is for."""

from __future__ import annotations

import hashlib

from bench.core.identity import canonical_json


def derive_seed(root: int, purpose: str, **axes: int | str) -> int:
    """A 63-bit seed from the run's root seed, the purpose of the draw and its axes.

    Two draws with different purposes or axes are independent; the same names give the same seed on every machine.

    >>> derive_seed(0, "init-noise", prompt="p1", seed=0) == derive_seed(0, "init-noise", seed=0, prompt="p1")
    True
    """
    text = canonical_json({"root": root, "purpose": purpose, "axes": axes})
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
