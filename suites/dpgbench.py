"""DPG-Bench (ELLA, Hu et al., arXiv 2403.05135): 1,065 long, dense prompts.

A prompt's id is the name of its published file without ``.txt``, which is what the official scorer looks images up by;
the letters that it begins with tell where the prompt comes from.
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
    """DPG-Bench: 1,065 prompts of 37 to 130 words; its question answering is external; full only."""
    return load("dpgbench", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    prompts = []
    for row in rows:
        name = row["name"].removesuffix(".txt")
        letters = name.rstrip("0123456789")
        # COCOval2014000000403792: the year is part of the number
        prompts.append(Prompt(name, row["text"], {"source": letters or "plain"}))
    return prompts
