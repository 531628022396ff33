"""HPSv2's benchmark prompts (Wu et al., arXiv 2306.09341): four styles of 800.

Not the 400 of HPDv2's ``test.json``, which go under the same name. Style order is that of the ``hpsv2`` package; prompt
N of a style has the id ``<style>-NNNNN``, where the official scorer looks for ``<style>/NNNNN.jpg``.
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
    """HPSv2 prompts: 3,200 in four styles; variants first100 (hpsv2-400), each style alone, hpdv2-test400."""
    return load("hpsv2", _prompts, edition, variant, data_dir, limit, train_list)


STYLES = ("anime", "concept-art", "paintings", "photo")
"""In the order of the ``hpsv2`` package."""


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    if key == "hpdv2-test400":
        # bare lines, 100 a style in this order
        return [Prompt(f"{i:05d}", row["text"], {"style": STYLES[i // 100]}) for i, row in enumerate(rows)]
    return [Prompt(f"{key}-{i:05d}", row["text"], {"style": key}) for i, row in enumerate(rows)]
