"""An image folder: one image for each prompt and noise seed, written so that a kill loses at most one batch."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench.core.contract import ImageFolder, ImageRef, Patch
from bench.core.identity import digest, file_sha256
from bench.core.types import Prompt, RunSpec, Suite
from bench.diffusion.generate import generate
from bench.diffusion.meters import denoiser_rows
from bench.diffusion.models import BaseModel
from bench.engine.progress import Progress
from bench.engine.shards import BATCH, BLOCK, Shard
from bench.metrics.images import content_hash, read_folder, write_index
from bench.store import atomic
from bench.store.lock import exclusive

WHOLE = Shard()
BASE = Patch(adapter=False)
WAIT_S = 24 * 3600.0

COST = "cost.json"
"""Beside the images: what sampling one took, measured on those that the last attempt made."""


def u_per_image(folder: Path) -> float | None:
    """U that sampling one image of ``folder`` took; None for folders of before this was measured."""
    return float(atomic.read_json(folder / COST)["u_per_image"]) if (folder / COST).exists() else None


def n_truncated(folder: Path) -> int | None:
    """Prompts of ``folder`` whose end was cut; None for folders of before this was counted."""
    found = atomic.read_json(folder / COST).get("n_truncated") if (folder / COST).exists() else None
    return None if found is None else int(found)


def pairs_of(suite: Suite) -> list[tuple[Prompt, int]]:
    """(prompt, noise seed) in the order of the index: prompts outer, seeds inner."""
    return [(prompt, seed) for prompt in suite.prompts for seed in suite.spec.eval_seeds]


def n_blocks(suite: Suite) -> int:
    """Of one image folder."""
    return -(-len(pairs_of(suite)) // BLOCK)


def _names(suite: Suite) -> dict[tuple[str, int], str]:
    """File name by (prompt id, seed), in the order of the index."""
    return {(prompt.id, seed): f"{i:06d}.png" for i, (prompt, seed) in enumerate(pairs_of(suite))}


def missing(folder: Path, suite: Suite, shard: Shard = WHOLE) -> list[tuple[str, int]]:
    """(prompt id, seed) of the shard's images that are not in ``folder``."""
    if (folder / "index.jsonl").exists():
        return []
    names = list(_names(suite).items())
    return [key for i in shard.images(len(names), BLOCK) for key, name in [names[i]] if not (folder / name).exists()]


def make_images(
    folder: Path, model: BaseModel, spec: RunSpec, suite: Suite, patch: Patch, progress: Progress, title: str,
    stop: Callable[[], None],
) -> ImageFolder:  # fmt: skip
    """Fills ``folder`` with PNGs and writes its index last; what a killed attempt left there is kept.

    Args:
        stop: called between batches; raises when the attempt is to end.
    """
    if not (folder / "index.jsonl").exists():
        make_part(folder, model, spec, suite, patch, progress, title, stop)
    return complete(folder, suite)


def make_part(
    folder: Path, model: BaseModel, spec: RunSpec, suite: Suite, patch: Patch, progress: Progress, title: str,
    stop: Callable[[], None], shard: Shard = WHOLE,
) -> None:  # fmt: skip
    """``make_images`` for one shard, without the index. A file that is there is never replaced, so that several
    processes may fill a folder, and one that was given up cannot touch what was counted."""
    names = _names(suite)
    mine = set(shard.images(len(names), BLOCK))
    there = {key for key, name in names.items() if (folder / name).exists()}
    elsewhere = {key for i, key in enumerate(names) if i not in mine}
    folder.mkdir(parents=True, exist_ok=True)
    n_made, n_there, n_rows = 0, len(there - elsewhere), 0
    with denoiser_rows(model) as tally, progress.stage(shard.title(title), len(mine), "images", done=n_there) as stage:

        def smaller(text: str) -> None:
            progress.say(text)
            tally.take()  # what did not fit is no image's cost

        for made in generate(
            model, suite.prompts, spec.eval_seeds, spec.sampler, patch, batch_size=BATCH, done=there | elsewhere,
            say=smaller,
        ):  # fmt: skip
            stop()
            n_rows += int(tally.take().get("denoiser_fwd", 0))
            key = (made.prompt.id, made.seed)
            atomic.write_new(folder / names[key], encode_png(made.image))
            stage.advance(key not in there)
            n_made += 1
    if n_made:
        n_cut = sum(model.family.is_cut(prompt.text) for prompt in suite.prompts)
        atomic.write_json(folder / COST, {"u_per_image": n_rows / n_made, "n_truncated": n_cut})


def complete(folder: Path, suite: Suite) -> ImageFolder:
    """Writes the index of a folder in which every image is, where it is not there yet. Safe to repeat."""
    if not (folder / "index.jsonl").exists():
        write_index(folder, part_of(folder, suite).refs)
    return read_folder(folder)


def part_of(folder: Path, suite: Suite, shard: Shard = WHOLE) -> ImageFolder:
    """The shard's images, index or not. Raises OSError where one is missing."""
    names = list(_names(suite).items())
    refs = tuple(
        ImageRef(prompt_id=prompt, seed=seed, path=name, sha256=file_sha256(folder / name))
        for (prompt, seed), name in (names[i] for i in shard.images(len(names), BLOCK))
    )
    return ImageFolder(folder, refs, content_hash(refs))


def drop_damaged(folder: Path) -> None:
    """Removes what is not as the index says, and the index with it, so that ``make_images`` makes it again."""
    index = folder / "index.jsonl"
    rows = {row["path"]: row["sha256"] for row in atomic.read_jsonl(index)} if index.exists() else {}
    damaged = [p for p, sha in rows.items() if not (folder / p).exists() or file_sha256(folder / p) != sha]
    if damaged or not rows:
        index.unlink(missing_ok=True)
    for path in damaged:
        (folder / path).unlink(missing_ok=True)


def encode_png(image: torch.Tensor) -> bytes:
    """(3, H, W) float32 in [0, 1] → PNG bytes; rounded to 8 bits, not truncated."""
    array = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def base_images(
    folder: Path, store: Path, load_model: Callable[[], BaseModel], spec: RunSpec, suite: Suite, progress: Progress,
    stop: Callable[[], None],
) -> ImageFolder:  # fmt: skip
    """The base model's images: made once for all runs that share a ``base_store``, then linked into ``folder``."""
    if (folder / "index.jsonl").exists():
        return read_folder(folder)
    with exclusive(store.with_suffix(".lock"), "the base model's images", wait_s=WAIT_S):
        drop_damaged(store)
        if missing(store, suite):
            made = make_images(store, load_model(), spec, suite, BASE, progress, "generate base", stop)
        else:
            made = complete(store, suite)
    cost = [COST] if (store / COST).exists() else []
    _link([*(ref.path for ref in made.refs), *cost, "index.jsonl"], store, folder)
    return read_folder(folder)


def base_part(
    store: Path, load_model: Callable[[], BaseModel], spec: RunSpec, suite: Suite, progress: Progress,
    stop: Callable[[], None], shard: Shard,
) -> None:  # fmt: skip
    """One shard of the base model's images."""
    with part_turn(store, shard):
        if missing(store, suite, shard):
            make_part(store, load_model(), spec, suite, BASE, progress, "generate base", stop, shard)


def part_turn(store: Path, shard: Shard) -> AbstractContextManager[None]:
    """Inside, the same shard of another run waits for this one's instead of doing it too."""
    lock = store.with_name(f"{store.name}-{shard.number}-{shard.of}.lock")
    return exclusive(lock, "a part of the base model's images", wait_s=WAIT_S)


def base_store(cache: Path, spec: RunSpec, computed: Mapping[str, Any]) -> Path:
    """Where the images of a base model are kept for all runs that share model, prompts, noise and sampler.

    Args:
        computed: how the model is computed where that is not the plain way (``Execution.to_json``).
    """
    return cache / "images" / digest({
        "model": spec.model, "revision": spec.model_revision, "prompts": spec.prompt_hash, "limit": spec.limit,
        "sampler": spec.sampler, "eval_seeds": spec.eval_seeds, "batch": BATCH,
        **({"computed": dict(computed)} if computed else {}),
    }, 16)  # fmt: skip


def _link(names: Sequence[str], source: Path, target: Path) -> None:
    """Hard links where the file system has them, else copies; the index goes last."""
    with atomic.disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (target / name).exists():
                continue
            try:
                os.link(source / name, target / name)
            except OSError:
                atomic.write_bytes(target / name, (source / name).read_bytes())
