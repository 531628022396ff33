"""Reading transformers models from local folders: whatever is wrong with the files is a user error, never a guess."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError
from bench.diffusion.models import quiet

WHOLE = "a complete save_pretrained folder of this model"
VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
"""Files that a tokenizer can be made from."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the libraries raise over missing, truncated or foreign files into one sentence.

    Raises:
        UserError: names ``path`` and the first line of the library's complaint.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError,
            AttributeError, EOFError) as err:  # fmt: skip
        lines = [line for line in str(err).splitlines() if line.strip()] or [""]
        raise UserError(f"{path} cannot be read: {type(err).__name__}: {lines[0]}", valid=WHOLE) from err


def load_tokenizer(folder: Path, cls: Any = None) -> Any:
    """The tokenizer of a folder; call it within ``reading``.

    Raises:
        UserError: no vocabulary is there; transformers 5 would make an empty one from the model's configuration.
    """
    from transformers import AutoTokenizer

    if not any(all((folder / name).is_file() for name in names) for names in VOCABULARIES):
        raise UserError(f"{folder} holds no tokenizer", valid=" or ".join(" with ".join(n) for n in VOCABULARIES))
    with quiet():
        return (cls or AutoTokenizer).from_pretrained(folder, local_files_only=True)


def load_pretrained(cls: Any, folder: Path, *, unused: str | None = None, **options: Any) -> Any:
    """``cls.from_pretrained(folder, **options)``, in float32 unless they name another ``dtype``, from safetensors or,
    where there are none, a pickle of tensors alone; call it within ``reading``.

    Args:
        unused: beginning of the names of tensors that the caller never computes with and that may be absent.

    Raises:
        UserError: weights that the model needs are not in the files; transformers would draw random ones.
    """
    with quiet(), torch.random.fork_rng(devices=[]):
        model, info = cls.from_pretrained(
            folder, use_safetensors=any(folder.glob("*.safetensors")), local_files_only=True, weights_only=True,
            output_loading_info=True, **{"dtype": torch.float32, **options},
        )  # fmt: skip
    if absent := sorted(key for key in info["missing_keys"] if unused is None or not key.startswith(unused)):
        raise UserError(f"{folder} has no weights for {len(absent)} tensors of {cls.__name__}, such as {absent[0]}",
                        valid=WHOLE)  # fmt: skip
    return model
