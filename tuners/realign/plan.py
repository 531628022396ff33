"""What was found in a first picture, as plain data: all that stage 2 needs to know of tagger, judge and segmenter."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError
from bench.core.identity import canonical_json, digest

ENVIRONMENT = "TUNEBENCH_PLANS"
"""Folder that keeps plans between processes. Files are named by their content's key, so it changes no answer."""


@dataclass(frozen=True, eq=False)
class Found:
    """One object of a picture."""

    tag: str
    """What the tagger calls it."""
    score: float
    """s_i: 2 certain, 0.5 possible, 0 unlikely to be in the prompt's scene (eq. 6)."""
    caption: str
    """l_i: its local caption."""
    mask: torch.Tensor
    """m_i: (H, W) bool."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the mask as run lengths in rows, beginning with False."""
        return {
            "tag": self.tag, "score": self.score, "caption": self.caption, "size": list(self.mask.shape),
            "runs": runs(self.mask),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """How one picture is to be sampled again."""

    prompt: str
    objects: tuple[Found, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``plan_from_json`` gives back an equal plan."""
        return {"prompt": self.prompt, "objects": [o.to_json() for o in self.objects]}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """Inverse of ``Plan.to_json``.

    Raises:
        UserError: not a plan.
    """
    try:
        objects = tuple(
            Found(str(o["tag"]), float(o["score"]), str(o["caption"]), mask_of(o["runs"], *o["size"]))
            for o in data["objects"]
        )
        return Plan(str(data["prompt"]), objects)
    except (KeyError, TypeError, ValueError) as err:
        raise UserError(f"this is no plan of realigndiff: {type(err).__name__}: {err}",
                        valid="what Plan.to_json writes") from err  # fmt: skip


def runs(mask: torch.Tensor) -> list[int]:
    """Run lengths of a mask (H, W) bool read row by row: False, True, False …

    >>> runs(torch.tensor([[True, True], [False, True]]))
    [0, 2, 1, 1]
    """
    flat = mask.flatten().tolist()
    lengths = [(value, len(list(group))) for value, group in itertools.groupby(flat)]
    return [*([0] if flat and flat[0] else []), *(length for _, length in lengths)]


def mask_of(lengths: list[int], height: int, width: int) -> torch.Tensor:
    """Inverse of ``runs``. Raises ValueError where the lengths do not fill the mask."""
    values = torch.tensor([bool(k % 2) for k in range(len(lengths))], dtype=torch.bool)
    return values.repeat_interleave(torch.tensor(lengths, dtype=torch.long)).view(height, width)


def image_key(image: torch.Tensor) -> str:
    """Digest of a picture (3, H, W) in [0, 1] at 8 bits."""
    array = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().contiguous().numpy()
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


class Plans:
    """Plans by what they were made from: the picture, the prompt, and who looked at it.

    Args:
        parts: what names the tagger, judge, captioner and segmenter, weights included.
        folder: where they are kept on disk; None is the environment's ``TUNEBENCH_PLANS``, or no folder.
    """

    def __init__(self, parts: Mapping[str, str], folder: Path | None = None) -> None:
        self.parts = dict(parts)
        named = os.environ.get(ENVIRONMENT)
        self.folder = folder or (Path(named) if named else None)
        self._known: dict[str, Plan] = {}

    def key(self, image: torch.Tensor, prompt: str) -> str:
        return digest({"image": image_key(image), "prompt": prompt, "parts": self.parts}, 32)

    def get(self, image: torch.Tensor, prompt: str, make: Callable[[], Plan]) -> Plan:
        """The plan of this picture (3, H, W) for this prompt, made where it is not known yet."""
        key = self.key(image, prompt)
        if key not in self._known:
            self._known[key] = self._read(key) or self._write(key, make())
        return self._known[key]

    def _read(self, key: str) -> Plan | None:
        path = self.folder / f"{key}.json" if self.folder else None
        if path is None or not path.is_file():
            return None
        try:
            return plan_from_json(json.loads(path.read_text("utf-8")))
        except ValueError as err:
            raise UserError(f"the plan {path} cannot be read: {err}", hint="delete it: it will be made again") from err

    def _write(self, key: str, plan: Plan) -> Plan:
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            making = self.folder / f".{key}.{os.getpid()}"
            making.write_text(canonical_json(plan.to_json()), "utf-8")
            making.replace(self.folder / f"{key}.json")
        return plan
