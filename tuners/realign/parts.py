"""Who finds what stage 2 needs, behind small protocols; ``NAME`` or ``NAME=FOLDER`` in a setting chooses one."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.core.errors import UserError
from bench.diffusion.models import quiet
from bench.diffusion.sources import folder_digest
from bench.tiny import weights_dir
from tuners.realign.plan import Found, Plan, Plans
from tuners.realign.words import ClosedWorld, Rules


class Tagger(Protocol):
    """Names what is in a picture (the paper: RAM)."""

    def tags(self, images: torch.Tensor) -> list[list[str]]:
        """(B, 3, H, W) float32 in [0, 1] → the tags of each picture; a tag's last word is its noun."""
        ...


class Judge(Protocol):
    """Says how likely each tag is in the prompt's scene (the paper: GPT-4)."""

    def scores(self, prompt: str, tags: Sequence[str]) -> list[float]:
        """s_i: 2, 0.5 or 0 for each tag (eq. 6)."""
        ...


class LocalCaptioner(Protocol):
    """Describes each tagged object as the prompt wants it (the paper: GPT-4)."""

    def captions(self, prompt: str, tags: Sequence[str]) -> list[str]:
        """l_i for each tag."""
        ...


class Segmenter(Protocol):
    """Finds where each tag is (the paper: Grounded-SAM)."""

    def masks(self, image: torch.Tensor, tags: Sequence[str]) -> list[torch.Tensor]:
        """(3, H, W) float32 in [0, 1] → m_i (H, W) bool for each tag, empty where it was not found."""
        ...


@dataclass(frozen=True)
class Part:
    """One choice of a kind."""

    make: Callable[[Path, str], Any]
    """Folder of its weights and device → the part."""
    version: int = 1
    """Raise it with every change of its answers: it is part of cached plans' keys."""
    weights: Path | None = None
    """Where its weights are, for parts that bring their own."""
    needs_folder: bool = False
    """Whether the user names the folder: ``NAME=FOLDER``."""
    tiny_only: bool = False
    """Whether it knows the tiny world and nothing else."""


def _module(module: str, attribute: str) -> Callable[[Path, str], Any]:
    """A part out of a module that is imported when it is made."""

    def make(folder: Path, device: str) -> Any:
        return getattr(importlib.import_module(f"tuners.realign.{module}"), attribute)(folder, device)

    return make


_TINY_SIGHT = Part(_module("tiny", "TinySight"), weights=weights_dir() / "tiny-vqa", tiny_only=True)
_RULES = Part(lambda folder, device: Rules())
_LLM = Part(_module("scale", "LanguageModel"), needs_folder=True)

KINDS: Mapping[str, Mapping[str, Part]] = {
    "tagger": {"tiny": _TINY_SIGHT, "clip": Part(_module("scale", "ClipTagger"), needs_folder=True)},
    "judge": {"tiny": Part(lambda folder, device: ClosedWorld(), tiny_only=True), "rules": _RULES, "llm": _LLM},
    "captioner": {"rules": _RULES, "llm": _LLM},
    "segmenter": {"tiny": _TINY_SIGHT, "grounded-sam": Part(_module("scale", "GroundedSam"), needs_folder=True)},
}


def problems(kind: str, choice: str, *, tiny_world: bool = True) -> list[str]:
    """What is wrong with a part's setting, each as one sentence with what is valid."""
    name, sign, folder = choice.partition("=")
    known = KINDS[kind] if tiny_world else {n: part for n, part in KINDS[kind].items() if not part.tiny_only}
    valid = ", ".join(f"{n}=FOLDER" if part.needs_folder else n for n, part in known.items())
    if name in KINDS[kind] and name not in known:
        return [f"{kind} = {name} knows the tiny world only: choose among {valid}"]
    if name not in known:
        return [f"{kind} = {choice!r} is none of {valid}"]
    if known[name].needs_folder and not (folder and Path(folder).is_dir()):
        return [f"{kind} = {choice!r} names no folder that is here: {name}=FOLDER, or another of {valid}"]
    if sign and not known[name].needs_folder:
        return [f"{kind} = {choice!r}: {name} takes no folder; valid are {valid}"]
    return []


def folder_of(choice: str) -> Path | None:
    """The folder that a setting names.

    >>> folder_of("llm=models/x"), folder_of("rules")
    (PosixPath('models/x'), None)
    """
    folder = choice.partition("=")[2]
    return Path(folder) if folder else None


@functools.lru_cache(maxsize=32)
def identity(kind: str, choice: str) -> str:
    """Names a part with its version and the digest of its weights, without loading it."""
    name = choice.partition("=")[0]
    part = KINDS[kind][name]
    weights = folder_of(choice) or part.weights
    return f"{name}-{part.version}" + (f"-{folder_digest(weights)[:16]}" if weights else "")


class Planner:
    """Tagger, judge, captioner and segmenter as settings name them, loaded when a picture is new to all caches.

    Args:
        choices: kind → ``NAME`` or ``NAME=FOLDER``.
    """

    def __init__(self, choices: Mapping[str, str], folder: Path | None = None) -> None:
        for kind in KINDS:
            if wrong := problems(kind, choices[kind]):
                raise UserError(f"realigndiff: {wrong[0]}")
        self.choices = dict(choices)
        self.device = "cpu"
        self.plans = Plans({kind: identity(kind, choices[kind]) for kind in KINDS}, folder)

    def plan(self, images: torch.Tensor, prompts: Sequence[str]) -> list[Plan]:
        """A plan for each picture (B, 3, H, W) in [0, 1]; parts are loaded to where the pictures are."""
        self.device = str(images.device)
        return [self.plans.get(x, p, lambda x=x, p=p: self._make(x, p)) for x, p in zip(images, prompts, strict=True)]  # type: ignore[misc]

    def _make(self, image: torch.Tensor, prompt: str) -> Plan:
        (tags,) = self.tagger.tags(image[None])
        if not tags:
            return Plan(prompt, ())
        scores, captions = self.judge.scores(prompt, tags), self.captioner.captions(prompt, tags)
        masks = self.segmenter.masks(image, tags)
        rows = zip(tags, scores, captions, masks, strict=True)
        return Plan(prompt, tuple(Found(*row) for row in rows if row[3].any()))

    @cached_property
    def tagger(self) -> Tagger:
        part: Tagger = self._load("tagger")
        return part

    @cached_property
    def judge(self) -> Judge:
        part: Judge = self._load("judge")
        return part

    @cached_property
    def captioner(self) -> LocalCaptioner:
        # one model that judges and describes answers once for both
        part: LocalCaptioner = self.judge if self._same("captioner", "judge") else self._load("captioner")  # type: ignore[assignment]
        return part

    @cached_property
    def segmenter(self) -> Segmenter:
        part: Segmenter = self.tagger if self._same("segmenter", "tagger") else self._load("segmenter")  # type: ignore[assignment]
        return part

    def _same(self, a: str, b: str) -> bool:
        return self.choices[a] == self.choices[b]

    def _load(self, kind: str) -> Any:
        choice = self.choices[kind]
        part = KINDS[kind][choice.partition("=")[0]]
        with quiet():
            return part.make(folder_of(choice) or part.weights or Path(), self.device)
