"""Where the weights of rewards lie and whether they are whole; no weight is read."""

from __future__ import annotations

import os
from pathlib import Path

from bench.assets import ENVIRONMENT
from bench.assets.files import check_whole, sha256_of_all, weights_in
from bench.core.errors import UserError


def models_folder(reward: str, name: str, file: str, *, hint: str = "") -> Path:
    """The folder ``name`` in ``TUNEBENCH_MODELS``, which must hold ``file``.

    Raises:
        UserError: the variable is not set, or there is no such folder in it.
    """
    root = os.environ.get(ENVIRONMENT)
    if root is None or not (Path(root) / name / file).is_file():
        there = sorted(path.parent.name for path in Path(root).glob(f"*/{file}")) if root else []
        raise UserError(
            f"reward {reward!r} needs the folder {name} of {ENVIRONMENT}, which is "
            + ("not set" if root is None else f"{root} and has none with {file}"),
            valid=", ".join(there) or f"{ENVIRONMENT}=DIR with {name}/{file}", hint=hint,
        )  # fmt: skip
    return Path(root) / name


def whole_weights(reward: str, folder: Path) -> str:
    """Digest of the weights in a ``save_pretrained`` folder.

    Raises:
        UserError: there are none, or a file is cut off.
    """
    files = weights_in(folder)
    if not files:
        raise UserError(f"the weights of reward {reward!r} are missing in {folder}",
                        valid="a complete save_pretrained folder")  # fmt: skip
    for path in files:
        check_whole(path)
    return sha256_of_all(files)
