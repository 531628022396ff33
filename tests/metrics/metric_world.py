"""A suite of three prompts and folders of small images for it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from bench.core.budget import Budget
from bench.core.contract import ImageFolder, ImageRef
from bench.core.types import Prompt, Question, SamplerSpec, Suite, SuiteSpec
from bench.metrics.images import write_index

PROMPTS = ("a red circle", "two blue squares", "a green star")
SEEDS = (0, 1)


def picture(seed: int, side: int = 16, contrast: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
    return np.clip(128 + contrast * (noise - 128.0), 0, 255).astype(np.uint8)


def save_images(root: Path, pictures: Callable[[int], np.ndarray], keys: list[tuple[str, int]]) -> ImageFolder:
    (root / "images").mkdir(parents=True)
    refs = []
    for i, (prompt_id, seed) in enumerate(keys):
        file = io.BytesIO()
        Image.fromarray(pictures(i)).save(file, "PNG")
        path = f"images/{i:06d}.png"
        (root / path).write_bytes(file.getvalue())
        refs.append(ImageRef(prompt_id, seed, path, hashlib.sha256(file.getvalue()).hexdigest()))
    return write_index(root, refs)


def make_suite(
    questions: tuple[Question, ...] = (), edition: Literal["sample", "full"] = "sample", seeds: tuple[int, ...] = SEEDS
) -> Suite:
    spec = SuiteSpec(
        name="toy", edition=edition, version=1, variant="", title="", source="", licence="", n_prompts=len(PROMPTS),
        n_train_prompts=0, prompt_hash="0" * 64, train_prompt_hash="", sampler=SamplerSpec(),
        train_sampler=SamplerSpec(), global_batch=1, budget=Budget(denoiser_u=1.0), eval_seeds=seeds,
        fractions=(0.0, 1.0), metrics=(), reward="symmetry", model="tiny-sd",
    )  # fmt: skip
    prompts = tuple(Prompt(f"p{i}", text) for i, text in enumerate(PROMPTS))
    return Suite(spec, prompts, (), questions)


def suite_keys(suite: Suite) -> list[tuple[str, int]]:
    return [(prompt.id, seed) for prompt in suite.prompts for seed in suite.spec.eval_seeds]
