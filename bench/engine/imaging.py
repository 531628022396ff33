"""The generate stage: one image for each prompt and noise seed, written so that a kill loses at most one batch."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from bench.core.contract import ImageFolder, ImageRef, Patch
from bench.core.identity import digest, file_sha256
from bench.core.types import Prompt, RunSpec, Suite
from bench.diffusion.generate import generate
from bench.diffusion.meters import denoiser_rows
from bench.diffusion.models import BaseModel
from bench.engine.progress import Progress
from bench.metrics.images import read_folder, write_index
from bench.store import atomic
from bench.store.lock import exclusive

BATCH = 32
"""Images a batch. Part of the bits on CPU: a batch is made whole or not at all, so that resuming changes nothing."""


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


def make_images(
    folder: Path, model: BaseModel, spec: RunSpec, suite: Suite, patch: Patch, progress: Progress, title: str,
    stop: Callable[[], None],
) -> ImageFolder:  # fmt: skip
    """Fills ``folder`` with PNGs and writes its index last; what a killed attempt left there is kept.

    Args:
        stop: called between batches; raises when the attempt is to end.
    """
    if (folder / "index.jsonl").exists():
        return read_folder(folder)
    names = {(prompt.id, seed): f"{i:06d}.png" for i, (prompt, seed) in enumerate(pairs_of(suite))}
    folder.mkdir(parents=True, exist_ok=True)
    done = {key for key, name in names.items() if (folder / name).exists()}
    n_made = n_rows = 0
    with denoiser_rows(model) as tally, progress.stage(title, len(names), "images", done=len(done)) as stage:

        def smaller(text: str) -> None:
            progress.say(text)
            tally.take()  # what did not fit is no image's cost

        for made in generate(
            model, suite.prompts, spec.eval_seeds, spec.sampler, patch, batch_size=BATCH, done=done, say=smaller
        ):  # fmt: skip
            stop()
            n_rows += int(tally.take().get("denoiser_fwd", 0))
            key = (made.prompt.id, made.seed)
            atomic.write_bytes(folder / names[key], encode_png(made.image))
            stage.advance(key not in done)
            n_made += 1
    if n_made:
        n_cut = sum(model.family.is_cut(prompt.text) for prompt in suite.prompts)
        atomic.write_json(folder / COST, {"u_per_image": n_rows / n_made, "n_truncated": n_cut})
    write_index(folder, [
        ImageRef(prompt_id=prompt, seed=seed, path=name, sha256=file_sha256(folder / name))
        for (prompt, seed), name in names.items()
    ])  # fmt: skip
    return read_folder(folder)


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
    folder: Path, cache: Path, model: BaseModel, spec: RunSpec, suite: Suite, progress: Progress,
    stop: Callable[[], None],
) -> ImageFolder:  # fmt: skip
    """The base model's images: made once for all runs that share model, prompts, noise and sampler, then linked."""
    if (folder / "index.jsonl").exists():
        return read_folder(folder)
    key = digest({
        "model": spec.model, "revision": spec.model_revision, "prompts": spec.prompt_hash, "limit": spec.limit,
        "sampler": spec.sampler, "eval_seeds": spec.eval_seeds, "batch": BATCH,
        **({"computed": model.computed} if model.computed else {}),
    }, 16)  # fmt: skip
    store = cache / "images" / key
    with exclusive(cache / "images" / f"{key}.lock", "the base model's images", wait_s=24 * 3600.0):
        drop_damaged(store)
        made = make_images(store, model, spec, suite, Patch(adapter=False), progress, "generate base", stop)
    cost = [COST] if (store / COST).exists() else []
    _link([*(ref.path for ref in made.refs), *cost, "index.jsonl"], store, folder)
    return read_folder(folder)


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
