"""DrawBench (Imagen, Saharia et al., arXiv 2205.11487): 200 prompts in 11 categories.

"Gary Marcus et al. " has a trailing space in the file; the tag has not.
"""

from __future__ import annotations

from pathlib import Path

from bench.core.types import Prompt, Suite
from suites._files import Row
from suites._load import load


def suite(
    edition: str = "full", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None,
    train_list: str = "",
) -> Suite:  # fmt: skip
    """DrawBench: 200 prompts in 11 categories, 150 of them in ViLG-300; full edition only."""
    return load("drawbench", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    return [Prompt(f"{i:05d}", row["Prompts"], {"category": row["Category"].strip()}) for i, row in enumerate(rows)]
