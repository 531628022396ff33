"""Which program makes the site: what was made by another one is made again."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable

_CODE = ("leaderboard", "bench.core")
_LIBRARIES = ("jinja2", "pandas", "numpy", "pydantic", "vl-convert-python")


@cache
def program() -> str:
    """Digest of the code, templates and assets that pages are made with, and of the libraries under them."""
    found = hashlib.sha256()
    for package in _CODE:
        for path, file in sorted(_files(resources.files(package)), key=lambda item: item[0]):
            found.update(f"{package}/{path}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    for name in _LIBRARIES:
        found.update(f"{name} {metadata.version(name)}\0".encode())
    return found.hexdigest()


def _files(folder: Traversable, under: str = "") -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            found += _files(entry, f"{under}{entry.name}/")
        elif entry.is_file():
            found.append((f"{under}{entry.name}", entry))
    return found
