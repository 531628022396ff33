"""A file for a new tuner, from the commented template: ``bench new tuner NAME``."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

from bench.core.errors import UserError


def new_tuner(name: str, folder: Path) -> Path:
    """Writes ``<name>.py``, a commented tuner that works and passes its checks; returns its path.

    Raises:
        UserError: a name that is no Python name, or a file that exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r} is no name for a tuner's file", valid="lower-case letters, digits and _")
    path = folder / f"{name}.py"
    if path.exists():
        raise UserError(f"{path} exists", valid="a name that is free", hint=f"bench new tuner {name}_2")
    text = importlib.resources.files("tuners").joinpath("template.py.txt").read_text("utf-8")
    words = "".join(part.capitalize() for part in name.split("_"))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(
        text.replace("__NAME__", name.replace("_", "-")).replace("__CLASS__", words).replace("__FILE__", str(path)),
        "utf-8",
    )
    return path
