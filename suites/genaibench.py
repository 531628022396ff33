"""GenAI-Bench (Li et al., arXiv 2406.13743): 1,600 prompts with the skills that each asks for.

Neither TIGER-Lab's GenAI-Bench nor the package ``genai-bench``, a load tester, which go by the same name.
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
    """GenAI-Bench: 1,600 prompts tagged with 12 skills; variant 527 is its first list; full only."""
    return load("genaibench", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    """The published id is the prompt's number in the skill lists, from 0 in the 1,600 and from 1 in the 527."""
    return [Prompt(row["name"], row["prompt"]) for row in rows]
