"""What lies beside a record in its run folder: prompts, questions, per-image scores, images. All of it is checked
before use, and what cannot be used is named."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from bench.core.errors import UserError
from bench.store import atomic
from leaderboard.run import Metric, Run, Snapshot, real

THUMBNAIL_PX = 320
"""Images with a longer side are shown reduced to it: a site of thousands of runs still fits a USB stick."""
_JPEG_QUALITY = 90
_PNG = b"\x89PNG\r\n\x1a\n"

T = TypeVar("T")
Key = tuple[str, int]
"""Prompt id and noise seed."""


@dataclass(frozen=True)
class PromptLine:
    id: str
    text: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Question:
    """One question about a prompt's image, as TIFA asks it."""

    prompt_id: str
    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Score:
    """One image's value under one metric."""

    value: float | None
    reason: str


@dataclass(frozen=True)
class Picture:
    """An image that the site takes in under the digest of the scored file."""

    name: str
    data: bytes
    width: int
    height: int
    full: tuple[int, int]
    """Width and height of the scored image where this is a thumbnail of it, else its own."""

    @property
    def reduced(self) -> bool:
        return self.full != (self.width, self.height)


@dataclass(frozen=True)
class Shot:
    """One model's image of one prompt and noise, or why there is none to show."""

    picture: Picture | None
    problem: str = ""


@dataclass(frozen=True)
class Differences:
    """One metric's per-image values of two models, paired by prompt and noise seed."""

    entry: Metric
    """Of the first of the two."""
    keys: tuple[Key, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]

    @cached_property
    def by_key(self) -> dict[Key, float]:
        """First minus second."""
        return {key: a - b for key, a, b in zip(self.keys, self.first, self.second, strict=True)}


class Evidence:
    """The files of one run; ``problems`` collects what could not be read, for the page to tell."""

    def __init__(self, run: Run, only: str | None = None) -> None:
        """
        Args:
            only: a prompt's id; of scores, questions and images the lines of no other prompt are parsed.
        """
        self.run = run
        self._only = only
        self.problems: list[str] = []
        self._scores: dict[str, dict[Key, Score]] = {}

    @cached_property
    def prompts(self) -> dict[str, PromptLine]:
        """By id, in the suite's order."""
        return {prompt.id: prompt for prompt in self._lines("prompts.jsonl", _prompt_line)}

    def questions(self, prompt_id: str) -> list[Question]:
        """What is asked about one prompt; suites without questions have an empty file or none."""
        if not (self.run.folder / "questions.jsonl").is_file():
            return []
        return [q for q in self._lines("questions.jsonl", _question) if q.prompt_id == prompt_id]

    def scores(self, entry: Metric) -> dict[Key, Score]:
        """Per-image values of one metric of one snapshot, in file order; empty where there are none."""
        if entry.scores is None:
            return {}
        if entry.scores not in self._scores:
            self._scores[entry.scores] = dict(self._lines(entry.scores, lambda line: (_key(line), _score(line))))
        return self._scores[entry.scores]

    def shot(self, index: Mapping[Key, tuple[str, str]], key: Key) -> Shot:
        """The image of ``key``; a missing or changed one is told on the page in its place and among the problems."""
        if key not in index:
            return Shot(None, self._problem(f"prompt {key[0]}, noise seed {key[1]}", "no image in the index"))
        name, sha256 = index[key]
        try:
            data = self.run.inside(name).read_bytes()
            if hashlib.sha256(data).hexdigest() != sha256:
                raise UserError("not the image that was scored: its digest differs")
            return Shot(_picture(data, sha256))
        except FileNotFoundError:
            return Shot(None, self._problem(name, "the file is not there"))
        except (UserError, OSError, ValueError) as err:
            return Shot(None, self._problem(name, str(err)))

    def index(self, snapshot: Snapshot | None) -> dict[Key, tuple[str, str]]:
        """Path and digest of every image of a snapshot, in index order."""
        if snapshot is None:
            return {}
        folder = snapshot.images
        return dict(self._lines(f"{folder}/index.jsonl",
                                lambda i: (_key(i), (f"{folder}/{i['path']}", str(i["sha256"])))))  # fmt: skip

    def _lines(self, name: str, take: Callable[[dict[str, Any]], T]) -> list[T]:
        """What ``take`` makes of every line; nothing, and a problem told, when one of them is not as it should be."""
        try:
            path = self.run.inside(name)
            if self._only is None or name == "prompts.jsonl":
                return [take(line) for line in atomic.read_jsonl(path)]
            return [take(line) for line in _lines_with(path, self._only) if line["prompt_id"] == self._only]
        except FileNotFoundError:
            self._problem(name, "the file is not there")
        except (UserError, OSError) as err:
            self._problem(name, str(err))
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            self._problem(name, f"a line is not of the expected form ({err})")
        return []

    def _problem(self, name: str, reason: str) -> str:
        reason = " ".join(reason.split()).replace(f"{real(self.run.root)}/", "")
        if f"{name}: {reason}" not in self.problems:
            self.problems.append(f"{name}: {reason}")
        return reason


@dataclass(frozen=True)
class Side:
    """One model's images and figures: a snapshot of a run."""

    evidence: Evidence
    snapshot: Snapshot | None

    @classmethod
    def base(cls, evidence: Evidence) -> Side:
        return cls(evidence, evidence.run.base)

    @classmethod
    def tuned(cls, evidence: Evidence) -> Side:
        return cls(evidence, evidence.run.final)

    @cached_property
    def entries(self) -> dict[str, Metric]:
        return self.evidence.run.entries(self.snapshot)

    @cached_property
    def index(self) -> dict[Key, tuple[str, str]]:
        return self.evidence.index(self.snapshot)

    def shot(self, key: Key) -> Shot:
        return self.evidence.shot(self.index, key)


def differences(first: Side, second: Side, metrics: Iterable[str] | None = None) -> dict[str, Differences]:
    """Every metric with per-image values on both sides, by name; images that one side lacks a value for take no part.

    The caller answers for the protocols: values made under different ones are no pair.
    """
    found = {}
    for name in sorted(first.entries.keys() & second.entries.keys() if metrics is None else metrics):
        a, b = first.evidence.scores(first.entries[name]), second.evidence.scores(second.entries[name])
        rows = [(key, a[key].value, b[key].value) for key in a if key in b]
        pairs = [(key, x, y) for key, x, y in rows if x is not None and y is not None]
        if pairs:
            keys, xs, ys = zip(*pairs, strict=True)
            found[name] = Differences(first.entries[name], keys, xs, ys)
    return found


def traces(run: Run) -> list[Any]:
    """What changes when a file beside the record does: name, size and time of change, nothing where it is not there.

    Of images the folder's index counts and the folder itself; their bytes are held against the index when shown.
    """
    snapshots = run.snapshots
    names = {"prompts.jsonl", "questions.jsonl", *(s.images for s in snapshots)}
    names |= {f"{s.images}/index.jsonl" for s in snapshots}
    names |= {m.scores for m in run.metrics if m.scores is not None}
    found: list[Any] = []
    folder = os.fspath(run.folder)
    for name in sorted(names):
        try:
            # Not through ``run.inside``, which resolves every link of the way: a size and a time tell nobody anything.
            facts = os.stat(f"{folder}/{name}")
        except (OSError, ValueError):
            continue
        found.append([name, facts.st_size, facts.st_mtime_ns])
    return found


def _lines_with(path: Path, prompt_id: str) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file that may be about a prompt: parsing every line of every metric of every run
    would take most of a site's time."""
    needles = {json.dumps(prompt_id), json.dumps(prompt_id, ensure_ascii=False)}
    lines = path.read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines if any(needle in line for needle in needles)]


def _picture(data: bytes, sha256: str) -> Picture:
    """The PNG as it is, or a smaller picture of a large one. Raises UserError when it is none, OSError when broken."""
    if data[:8] != _PNG or len(data) < 24:
        raise UserError("the image is no PNG")
    width, height = struct.unpack(">II", data[16:24])
    if max(width, height) <= THUMBNAIL_PX:
        return Picture(f"{sha256[:20]}.png", data, width, height, (width, height))
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return Picture(f"{sha256[:20]}-{THUMBNAIL_PX}.jpg", packed.getvalue(), *small.size, (width, height))


def _key(line: dict[str, Any]) -> Key:
    return str(line["prompt_id"]), int(line["seed"])


def _prompt_line(line: dict[str, Any]) -> PromptLine:
    tags = line.get("tags") or {}
    return PromptLine(str(line["id"]), str(line["text"]), {str(k): str(v) for k, v in tags.items()})


def _question(line: dict[str, Any]) -> Question:
    return Question(str(line["prompt_id"]), str(line["kind"]), str(line["question"]), str(line["answer"]))


def _score(line: dict[str, Any]) -> Score:
    value = line["value"]
    return Score(None if value is None else float(value), str(line.get("reason") or ""))
