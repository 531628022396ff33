"""T2I-CompBench++ (Huang et al., arXiv 2307.06350): the validation lists, on which its paper scores.

The other lists of the same folder (700 for training, all 1,000) are not these; with all 1,000, scores come out some 3
points higher (its issue 7).
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
    """T2I-CompBench++: 8 categories of 300 compositions; variants six, each category, color-2023; full only."""
    return load("t2icompbench", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    category = key.removesuffix("-2023")
    return [Prompt(f"{category}-{i:05d}", row["text"], {"category": category}) for i, row in enumerate(rows)]
