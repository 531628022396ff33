"""How images are judged: what a user may choose. No part of a run's identity, since each value's passport says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

World = Literal["tiny", "published"]

TINY_MODEL = "tiny-sd"
"""Only what this model draws can be read by the tiny judges, whatever the prompts are."""


@dataclass(frozen=True)
class Judging:
    """Plain data, so that a worker elsewhere reads it back; all paths are absolute."""

    world: World = "tiny"
    """``tiny``: judges and readers of the embedded world; ``published``: those published, where they are here."""
    judges: tuple[str, ...] | None = None
    """Rewards to ask in place of the world's own judges; None asks those."""
    vqa: str = ""
    """Folder of the VQA model that TIFA asks; "" is the world's own."""
    references: tuple[str, ...] = ()
    """Files of ``bench refs build``, or pytorch-fid's, in place of the suite's references."""
    subject: str = ""
    """Folder of photographs of whom a personalised model shows, for ``identity``."""
    embedder: str = ""
    """What ``identity`` compares with: a TorchScript file or a transformers folder."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judging:
        """From the request of a run folder; one written before there was a choice is of the tiny world."""
        values = dict(data)
        judges = values.pop("judges", None)
        references = tuple(values.pop("references", ()))
        return cls(judges=None if judges is None else tuple(judges), references=references, **values)


def world_of(model: str, edition: str) -> World:
    """Who can judge the images of that base model on that edition: sample prompts are in the tiny world's grammar."""
    return "tiny" if model == TINY_MODEL or edition == "sample" else "published"
