"""Human votes, the "Expert" half of the paper's pipeline: a file of JSON lines, one vote a line.

    {"dimension": "color", "prompt": "a red circle", "winner": "img/1.png", "loser": "img/2.png"}

``dimension`` is one of the six leaves; ``winner`` and ``loser`` are image files, relative to the folder of the vote
file. ``loser_prompt`` is optional: the prompt that the losing point has instead, for votes on two captions of one
image. Other keys, such as who voted, are passed over. Reading needs no torch, so a plan can refuse a file by line.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.trees.dimensions import DIMENSIONS

if TYPE_CHECKING:
    import torch

    from bench.trees.pairs import Pair

SCHEMA = 'lines such as {"dimension": "color", "prompt": "...", "winner": "a.png", "loser": "b.png"}'
MIN_VOTES = 2
"""For each leaf that only votes teach: one to fit on and one held out."""


@dataclass(frozen=True)
class Vote:
    """One line."""

    dimension: str
    prompt: str
    loser_prompt: str
    winner: Path
    loser: Path


def read_votes(path: Path, images: Path | None = None) -> list[Vote]:
    """All votes of a file.

    Args:
        path: the file.
        images: folder that its image files are relative to; by default the file's own.

    Raises:
        UserError: no votes, or a line that is no vote, with its number: bad JSON, a key missing, an unknown dimension,
            an image that is not there.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"vote file {path} cannot be read: {err}", valid=SCHEMA) from err
    votes = [_vote(path, images or path.parent, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not votes:
        raise UserError(f"vote file {path} holds no vote", valid=SCHEMA)
    return votes


def missing_dimensions(votes: list[Vote]) -> list[str]:
    """Leaves with fewer than ``MIN_VOTES``."""
    seen = Counter(v.dimension for v in votes)
    return [d for d in DIMENSIONS if seen[d] < MIN_VOTES]


def load_vote(vote: Vote, side: int) -> Pair:
    """The pair of one vote, both images brought to (3, side, side)."""
    from bench.trees.pairs import Pair

    return Pair(
        vote.dimension, "vote", _image(vote.winner, side), vote.prompt, _image(vote.loser, side), vote.loser_prompt
    )


def _vote(path: Path, images: Path, number: int, line: str) -> Vote:
    where = f"vote file {path}, line {number}"
    try:
        data: Any = json.loads(line)
    except ValueError as err:
        raise UserError(f"{where}: not JSON ({err})", valid=SCHEMA) from err
    wanted = ("dimension", "prompt", "winner", "loser")
    absent = [k for k in wanted if not isinstance(data, dict) or not isinstance(data.get(k), str)]
    if absent:
        raise UserError(f"{where}: no text under {absent[0]!r}", valid=SCHEMA)
    if data["dimension"] not in DIMENSIONS:
        raise UserError(f"{where}: unknown dimension {data['dimension']!r}", valid=", ".join(DIMENSIONS))
    files = [images / data[side] for side in ("winner", "loser")]
    for file in files:
        if not file.is_file():
            raise UserError(f"{where}: there is no image {file}", valid=f"a file, relative to {images}")
    return Vote(data["dimension"], data["prompt"], str(data.get("loser_prompt", data["prompt"])), *files)


def _image(path: Path, side: int) -> torch.Tensor:
    import numpy as np
    import torch
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except OSError as err:
        raise UserError(f"image {path} of a vote cannot be read: {err}",
                        valid="an image file that Pillow opens") from err  # fmt: skip
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
