"""PartiPrompts (Parti, Yu et al., arXiv 2206.10789): 1,632 prompts by category and challenge.

The file is tab-separated without any quoting: a reader with quoting on silently changes the one prompt that begins with
a quotation mark.
"""

from __future__ import annotations

from pathlib import Path

from bench.core.types import Prompt, Suite
from suites._files import Row
from suites._load import load


def suite(
    edition: str = "sample", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None,
    train_list: str = "",
) -> Suite:  # fmt: skip
    """PartiPrompts: 1,632 prompts in 12 categories and 11 challenges; variant People (177, as HG-DPO)."""
    return load("parti", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    return [
        Prompt(f"{i:05d}", row["Prompt"],
               {name.lower(): row[name] for name in ("Category", "Challenge", "Note") if row[name]})
        for i, row in enumerate(rows)
    ]  # fmt: skip
