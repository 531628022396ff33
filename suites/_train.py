"""The training prompts of full editions: ReFL's list (ImageReward, Xu et al., arXiv 2304.05977)."""

from __future__ import annotations

from pathlib import Path

from bench.core.types import Prompt
from suites._files import Published, read
from suites._text import clean

REFL = Published(
    path="imagereward/refl_data.json",
    dialect="json-objects",
    n_rows=10_000,
    url="https://raw.githubusercontent.com/THUDM/ImageReward/c1392c6dd0fd6ecd6d416c96959ab744a6d0a8fb/data/refl_data.json",
    licence="Apache-2.0",
    columns=("text", "image"),
    sha256="47cc5f5c0faa36167c5bd10cdc3aee0b1072147b44d3ae18f77bd98f377ecbb8",
)


def refl_prompts(root: Path) -> tuple[list[Prompt], str]:
    """(the list, the note about it). 10,000 rows, 9,803 of them distinct as published; ids are rows of the file.

    The text rule makes 5 more of them equal; they stay, so that the number is the one that everybody counts.
    """
    first: dict[str, int] = {}
    for i, row in enumerate(read(REFL, root)):
        first.setdefault(row["text"], i)
    prompts = [Prompt(f"refl-{i:05d}", clean(text)) for text, i in first.items()]
    n_clean = len({prompt.text for prompt in prompts})
    note = (
        f"training prompts: ReFL's list ({REFL.path}), {len(prompts):,} distinct of {REFL.n_rows:,} rows "
        f"({n_clean:,} distinct once stripped)"
    )
    return prompts, note
