"""CC-500 (Structured Diffusion Guidance, Feng et al., arXiv 2212.05032): "a red car and a blue boat" and its exchange.

The file has 602 lines; its README says that lines 1-446 are the concept-conjunction set. Lines 433-442 are out of step,
so partners are found by content, not by line number.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.core.types import Prompt, Suite
from suites._files import Row
from suites._load import load

N_CONJUNCTIONS = 446
"""Lines of the file that are the benchmark; the other 156 are unrelated."""

_CONJUNCTION = re.compile(r"an? (\w+) (.+) and (?:an? )?(\w+) (.+)", re.IGNORECASE)


def suite(
    edition: str = "sample", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None,
    train_list: str = "",
) -> Suite:  # fmt: skip
    """CC-500: 446 conjunctions of two coloured objects, in pairs with the colours exchanged."""
    return load("cc500", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    texts = [row["text"] for row in rows[:N_CONJUNCTIONS]]
    return [
        Prompt(f"{i:05d}", text, {"pair": f"{pair:04d}", "member": member})
        for i, (text, (pair, member)) in enumerate(zip(texts, pair_up(texts), strict=True))
    ]


def pair_up(texts: list[str]) -> list[tuple[int, str]]:
    """(number of its pair, "a" or "b") for each text: a text joins the earliest open one with its colours exchanged.

    >>> pair_up(["A red car and a blue boat", "a tan dog and a pink cat", "a blue car and a red boat"])
    [(0, 'a'), (1, 'a'), (0, 'b')]
    """
    open_pairs: dict[tuple[str, ...], list[int]] = {}
    found: list[tuple[int, str]] = []
    n_pairs = 0
    for text in texts:
        match = _CONJUNCTION.fullmatch(text.strip())
        colour_1, thing_1, colour_2, thing_2 = match.groups() if match else (text, "", "", "")
        waiting = open_pairs.get((colour_2.lower(), thing_1, colour_1.lower(), thing_2))
        if waiting:
            found.append((waiting.pop(0), "b"))
        else:
            open_pairs.setdefault((colour_1.lower(), thing_1, colour_2.lower(), thing_2), []).append(n_pairs)
            found.append((n_pairs, "a"))
            n_pairs += 1
    return found
