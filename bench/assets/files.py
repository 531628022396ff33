"""Is a file of weights whole, and is it the published one? Answered without torch, and for each file once.

Digests are remembered under the user's cache by (path, size, time of change), so that a plan does not read four
gigabytes again. A remembered digest is a convenience: where the cache cannot be written, files are hashed each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
"""Endings of torch's own checkpoints, which are pickles in a zip, or bare ones from before torch 1.6."""


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/tunebench``, by default ``~/.cache/tunebench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunebench"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits; hashed once while its size and time of change stay."""
    path = path.resolve()
    known = _stamp(path)
    with contextlib.suppress(OSError, ValueError):
        remembered = json.loads(_memo(path).read_text("utf-8"))
        if isinstance(remembered, dict) and {k: remembered.get(k) for k in known} == known:
            return str(remembered["sha256"])
    found = file_sha256(path)
    remember(path, found)
    return found


def remember(path: Path, sha256: str) -> None:
    """Keeps the digest of a file as it is now."""
    path = path.resolve()
    memo = _memo(path)
    with contextlib.suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memo.parent, delete=False, encoding="utf-8") as new:
            json.dump({**_stamp(path), "sha256": sha256}, new)
        Path(new.name).replace(memo)


def _stamp(path: Path) -> dict[str, str | int]:
    stat = path.stat()
    return {"path": str(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _memo(path: Path) -> Path:
    return cache_dir() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


def sha256_of_all(paths: Sequence[Path]) -> str:
    """One digest for the files of one set of weights: of a single file its own."""
    return sha256_of(paths[0]) if len(paths) == 1 else digest([sha256_of(path) for path in paths])


def weights_in(folder: Path) -> list[Path]:
    """The files with weights that ``from_pretrained`` reads in a model's folder: safetensors before pickles."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin", "diffusion_pytorch_model*.safetensors"):
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found
    return []


def check_whole(path: Path) -> None:
    """Finds a cut-off or damaged file by its structure, in a few reads.

    Raises:
        UserError: names the file and what is wrong with it.
    """
    if path.suffix == ".safetensors":
        _check_safetensors(path)
    elif path.suffix in PICKLES:
        with path.open("rb") as f:
            magic = f.read(2)
        if not magic or (magic == b"PK" and not zipfile.is_zipfile(path)):
            raise _cut(path, "its table of contents, which stands at the end, is missing")
    elif path.suffix == ".json":
        try:
            json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as err:
            raise UserError(f"{path} cannot be read: {err}", valid="a complete copy of the file") from err


def _check_safetensors(path: Path) -> None:
    n_bytes = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        n_header = struct.unpack("<Q", start)[0] if len(start) == 8 else n_bytes
        if 8 + n_header > n_bytes:
            raise _cut(path, "its header is not complete")
        try:
            header = json.loads(f.read(n_header))
            end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
            raise UserError(f"{path} is no safetensors file: {type(err).__name__}: {err}",
                            valid="a complete copy of the file") from err  # fmt: skip
    if 8 + n_header + end != n_bytes:
        raise _cut(path, f"it has {n_bytes:,} bytes and its header promises {8 + n_header + end:,}")


def _cut(path: Path, why: str) -> UserError:
    return UserError(f"{path} is cut off: {why}", valid="a complete copy of the file")
