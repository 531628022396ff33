"""Images that somebody else made, and the index file that says which prompt each is of. All problems are told at once.

``index.csv`` with the heading ``prompt_id,path`` (or ``prompt_id,seed,path``), or ``index.jsonl`` with the same fields
in each line. Paths are relative to the folder. A prompt may have several images, all prompts equally many; where
``seed`` is given it only orders them, since nobody else's noise is ours.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from bench.core.errors import UserError
from bench.core.types import Suite
from bench.store import atomic

INDEXES = ("index.csv", "index.jsonl")
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
_SHOWN = 12


@dataclass(frozen=True)
class Elsewhere:
    """A complete set: the same number of images for each prompt of a suite."""

    index: Path
    files: Mapping[str, tuple[Path, ...]]
    """Absolute paths by prompt id, in suite order."""
    n_per_prompt: int


def read_index(folder: Path, suite: Suite) -> Elsewhere:
    """The images of ``folder``, by prompt.

    Raises:
        UserError: no index; prompts without an image, images of prompts that the suite does not have, files that are
            missing or in no line, lines twice. Each with the prompt ids or file names.
    """
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    if index is None:
        raise UserError(f"there is no index in {folder}", valid=" or ".join(INDEXES) + ": prompt_id,path in each line",
                        hint=f"bench eval --suite {suite.spec.name} --prompts-to prompts.csv")  # fmt: skip
    rows = _rows(index)
    problems = _problems(folder, rows, suite)
    if problems:
        raise UserError(f"{index} does not fit {suite.spec.id}: " + "; ".join(problems),
                        valid=f"every prompt once, or each equally often up to {len(suite.spec.eval_seeds)} times, "
                              "and no file that no line names")  # fmt: skip
    by_prompt: dict[str, list[tuple[int, Path]]] = {p.id: [] for p in suite.prompts}
    for prompt_id, seed, path in rows:
        by_prompt[prompt_id].append((seed, (folder / path).resolve()))
    files = {p: tuple(path for _, path in sorted(found, key=lambda f: f[0])) for p, found in by_prompt.items()}
    return Elsewhere(index, files, len(next(iter(files.values()))))


_Row = tuple[str, int, str]
"""Prompt id, seed (the line's number where none is given), path."""


def _rows(index: Path) -> list[_Row]:
    try:
        if index.suffix == ".csv":
            lines = list(csv.DictReader(io.StringIO(index.read_text("utf-8-sig"))))
        else:
            lines = atomic.read_jsonl(index)
    except (csv.Error, UnicodeDecodeError) as err:
        raise UserError(f"{index} cannot be read: {err}") from err
    rows = []
    for number, line in enumerate(lines, 1):
        prompt_id, path = (
            str((line.get(key) if isinstance(line, dict) else None) or "") for key in ("prompt_id", "path")
        )
        try:
            seed = int(line["seed"]) if line.get("seed") not in (None, "") else number
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{index}, entry {number}: its seed is no whole number") from None
        if not prompt_id or not path:
            raise UserError(f"{index}, entry {number} lacks prompt_id or path", valid="prompt_id,path or with seed")
        rows.append((prompt_id, seed, path))
    return rows


def _problems(folder: Path, rows: Sequence[_Row], suite: Suite) -> list[str]:
    known = {p.id for p in suite.prompts}
    counts = Counter(prompt_id for prompt_id, _, _ in rows)
    n = min(max(counts.values(), default=1), len(suite.spec.eval_seeds))
    root = folder.resolve()
    named = Counter((folder / path).resolve() for _, _, path in rows)
    found = {p.resolve() for p in folder.rglob("*") if p.suffix.lower() in _IMAGES and p.is_file()}
    checks = [
        ("no image of prompt", [p.id for p in suite.prompts if not counts[p.id]]),
        ("prompts that the suite does not have", sorted(set(counts) - known)),
        (f"not {n} image(s) of prompt", [p for p in counts if p in known and counts[p] != n]),
        (
            "one seed twice for prompt",
            sorted({p for (p, _), k in Counter((p, s) for p, s, _ in rows).items() if k > 1}),
        ),
        ("files outside the folder", [p for _, _, p in rows if not (folder / p).resolve().is_relative_to(root)]),
        ("no such file for prompt", [p for p, _, path in rows if not (folder / path).is_file()]),
        ("files named twice", [str(p.relative_to(root)) for p, k in named.items() if k > 1 and p.is_relative_to(root)]),
        ("files in no line", sorted(str(p.relative_to(root)) for p in found - set(named))),
    ]
    return [f"{what}: {_some(names)}" for what, names in checks if names]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def decode(images: Elsewhere, resolution: int | None) -> tuple[dict[str, list[bytes]], dict[str, int], str]:
    """Every image as PNG bytes of 8-bit RGB, all of one size.

    Args:
        resolution: side in pixels to crop and resize to; None keeps the images, which must then be of one size.

    Returns:
        PNGs by prompt, images by size as they came, and what was done to them, in words.

    Raises:
        UserError: images that cannot be decoded, by prompt id; several sizes without a resolution.
    """
    made: dict[str, list[bytes]] = {}
    sizes: Counter[str] = Counter()
    broken: list[str] = []
    for prompt_id, paths in images.files.items():
        made[prompt_id] = []
        for path in paths:
            try:
                with Image.open(path) as file:
                    picture = ImageOps.exif_transpose(file).convert("RGB")
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
                broken.append(f"{prompt_id} ({path.name}: {err})")
                continue
            sizes["x".join(map(str, picture.size))] += 1
            made[prompt_id].append(_png(picture, resolution))
    if broken:
        raise UserError(f"{len(broken)} images cannot be decoded, of prompts: {_some(broken)}",
                        valid="whole image files; none is left out")  # fmt: skip
    if resolution is None and len(sizes) > 1:
        raise UserError("the images differ in size: " + ", ".join(f"{n} of {size}" for size, n in sizes.most_common(6)),
                        valid="one size, or --resolution N", hint="--resolution 512")  # fmt: skip
    done = "none" if resolution is None else f"cropped to the middle square, PIL LANCZOS to {resolution}x{resolution}"
    return made, dict(sorted(sizes.items())), done


def _png(picture: Image.Image, resolution: int | None) -> bytes:
    if resolution is not None:
        picture = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
