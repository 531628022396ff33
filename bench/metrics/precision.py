"""Feature networks in whole float32, also where a GPU would round their convolutions' factors to TF32's ten bits.

torch does that to convolutions unless told otherwise, and to no matrix product. A score must not depend on the machine
more than summation order makes it, and a feature network costs a fraction of the images that it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def whole_float32() -> Iterator[None]:
    """Convolutions inside do not use TF32. The base model's decoder is left to torch's own choice."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
