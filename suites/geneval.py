"""GenEval (Ghosh et al., arXiv 2310.11513): 553 prompts of six tasks, four images each."""

from __future__ import annotations

from pathlib import Path

from bench.core.types import Prompt, Suite
from suites._files import Row
from suites._load import load


def suite(
    edition: str = "full", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None,
    train_list: str = "",
) -> Suite:  # fmt: skip
    """GenEval: 553 prompts about objects, counts, colours and positions; its detector is external; full only."""
    return load("geneval", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    return [Prompt(f"{i:05d}", row["prompt"], {"task": row["tag"]}) for i, row in enumerate(rows)]
