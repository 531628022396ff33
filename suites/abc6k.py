"""ABC-6K (Structured Diffusion Guidance, Feng et al., arXiv 2212.05032): COCO captions in pairs, two colours exchanged.

Line 2k-1 is the caption, line 2k the exchanged one, which was tokenised on the way ("light 's", " ."): members of a
pair differ in more than their colours. In 100 pairs the exchange changes no letter (the same colour twice): tagged
``null_pair``.
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
    """ABC-6K: 6,434 COCO captions in pairs with two colours exchanged; variant no-null-pairs."""
    return load("abc6k", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    prompts: list[Prompt] = []
    for k in range(0, len(rows), 2):
        texts = [row["text"] for row in rows[k : k + 2]]
        null = "yes" if len({_letters(text) for text in texts}) == 1 else "no"
        for member, text in zip(("original", "exchanged"), texts, strict=True):
            tags = {"pair": f"{k // 2:04d}", "member": member, "null_pair": null}
            prompts.append(Prompt(f"{len(prompts):05d}", text, tags))
    return prompts


def _letters(text: str) -> str:
    """What is left of a text once white space and punctuation, which the tokeniser moved, are gone."""
    return "".join(c for c in text.lower() if c.isalnum())
