"""What lies beside a record in its run folder: prompts, per-image scores, images. All of it is checked before use."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench.core.errors import UserError
from bench.core.record import MetricEntry, SnapshotEntry
from bench.store import atomic
from leaderboard.read import Run
from leaderboard.stats import clustered_mean
from leaderboard.wording import METRIC_KINDS, kind_of

N_FIRST = 8
N_EXTREME = 4
MIN_PROMPTS_A_VALUE = 3
"""A tag with fewer prompts a value on average, such as a pair number, names no category."""
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
class Picture:
    """A PNG that the site takes in under the digest of its bytes."""

    name: str
    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Pair:
    """The same prompt and noise through the base and the tuned model."""

    prompt: PromptLine
    seed: int
    base: Picture
    tuned: Picture
    change: float | None
    """Tuned minus base under the gallery's judge."""


@dataclass(frozen=True)
class Gallery:
    rule: str
    judge: MetricEntry | None
    groups: tuple[tuple[str, tuple[Pair, ...]], ...]


@dataclass(frozen=True)
class Change:
    """Tuned minus base within one category."""

    value: float
    low: float | None
    high: float | None
    n_prompts: int


@dataclass(frozen=True)
class CategoryTable:
    """One tag of the prompts: categories × metrics."""

    tag: str
    metrics: tuple[MetricEntry, ...]
    rows: tuple[tuple[str, int, dict[str, Change]], ...]
    """Category, prompts in it, change by metric."""


def traces(run: Run) -> list[Any]:
    """What changes when a file beside the record does: name, size and time of change, nothing where it is not there.

    Of images the folder's index counts and the folder itself; their bytes are held against the index when shown.
    """
    snapshots = [s for s in (run.base, run.final) if s is not None]
    names = {"prompts.jsonl", *(s.images for s in snapshots), *(f"{s.images}/index.jsonl" for s in snapshots)}
    names |= {m.scores for s in snapshots for m in run.entries(s).values() if m.scores is not None}
    found: list[Any] = []
    for name in sorted(names):
        try:
            facts = run.inside(name).stat()
        except (UserError, OSError, ValueError):
            continue
        found.append([name, facts.st_size, facts.st_mtime_ns])
    return found


class Evidence:
    """The files of one run; ``problems`` collects what could not be read, for the page to tell."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.problems: list[str] = []
        self.prompts = self._prompts()
        self._scores: dict[str, dict[Key, float]] = {}

    def scores(self, entry: MetricEntry) -> dict[Key, float]:
        """Per-image values of one metric of one snapshot, in file order; empty where there are none."""
        if entry.scores is None:
            return {}
        if entry.scores not in self._scores:
            lines = self._lines(entry.scores, lambda i: (_key(i), None if i["value"] is None else float(i["value"])))
            self._scores[entry.scores] = {key: value for key, value in lines if value is not None}
        return self._scores[entry.scores]

    def changes(self, metric: str) -> dict[Key, float]:
        """Tuned minus base for every image that both have a value for."""
        base, tuned = self.run.entries(self.run.base).get(metric), self.run.entries(self.run.final).get(metric)
        if base is None or tuned is None:
            return {}
        before, after = self.scores(base), self.scores(tuned)
        return {key: after[key] - before[key] for key in after if key in before}

    def judge(self) -> MetricEntry | None:
        """The held-out metric that chooses extremes: a judge's own score before boards' columns, then by name."""
        found = [
            m for name, m in self.run.entries(self.run.final).items() if m.role == "held-out" and self.changes(name)
        ]
        return min(found, key=lambda m: (not m.judge, kind_of(m.name) in METRIC_KINDS, m.name), default=None)

    def gallery(self) -> Gallery:
        """The first prompts of the suite, and the largest and smallest changes under the held-out judge."""
        base, tuned = self._index(self.run.base), self._index(self.run.final)
        both = [key for key in tuned if key in base]
        order = {prompt_id: i for i, prompt_id in enumerate(self.prompts)}
        both.sort(key=lambda key: order.get(key[0], len(order)))  # stable: seeds stay in index order
        rule = f"The first {N_FIRST} prompts of the suite in its own order, at the first noise seed"
        chosen: list[tuple[str, list[Key]]] = [(f"First {N_FIRST} prompts", _one_a_prompt(both, set())[:N_FIRST])]
        judge = self.judge()
        changes: dict[Key, float] = {}
        if judge is None:
            rule += ". No held-out metric has scores for every image, so no extremes are shown."
        else:
            changes = {key: value for key, value in self.changes(judge.name).items() if key in base and key in tuned}
            sign = 1.0 if judge.higher_is_better else -1.0
            ranked = sorted(changes, key=lambda key: (-sign * changes[key], key))
            best = _one_a_prompt(ranked, set())[:N_EXTREME]
            worst = _one_a_prompt(ranked[::-1], {key[0] for key in best})[:N_EXTREME]
            rule += (f"; then the {N_EXTREME} best and the {N_EXTREME} worst changes under {judge.name}, a held-out "
                     "metric, at most one image a prompt. Nothing is chosen by hand.")  # fmt: skip
            chosen += [(f"{N_EXTREME} best changes under {judge.name}", best),
                       (f"{N_EXTREME} worst changes under {judge.name}", worst)]  # fmt: skip
        groups = []
        for title, keys in chosen:
            pairs = [pair for key in keys if (pair := self._pair(key, base, tuned, changes.get(key))) is not None]
            if pairs:
                groups.append((title, tuple(pairs)))
        return Gallery(rule=rule, judge=judge, groups=tuple(groups))

    def categories(self) -> list[CategoryTable]:
        """Changes by every tag that has few enough values to be a category."""
        tags = sorted({tag for prompt in self.prompts.values() for tag in prompt.tags})
        changes = {name: found for name in sorted(self.run.entries(self.run.final)) if (found := self.changes(name))}
        entries = self.run.entries(self.run.final)
        tables = []
        for tag in tags if changes else []:
            members: dict[str, set[str]] = {}
            for prompt in self.prompts.values():
                if tag in prompt.tags:
                    members.setdefault(prompt.tags[tag], set()).add(prompt.id)
            n_prompts = sum(len(ids) for ids in members.values())
            if len(members) < 2 or n_prompts < MIN_PROMPTS_A_VALUE * len(members):
                continue
            rows = []
            for category in sorted(members):
                cells = {}
                for name, values in changes.items():
                    mine = [(value, key[0]) for key, value in values.items() if key[0] in members[category]]
                    if mine:
                        mean, low, high = clustered_mean([v for v, _ in mine], [c for _, c in mine])
                        cells[name] = Change(mean, low, high, len({c for _, c in mine}))
                rows.append((category, len(members[category]), cells))
            tables.append(CategoryTable(tag, tuple(entries[name] for name in changes), tuple(rows)))
        return tables

    def _prompts(self) -> dict[str, PromptLine]:
        return {prompt.id: prompt for prompt in self._lines("prompts.jsonl", _prompt_line)}

    def _index(self, snapshot: SnapshotEntry | None) -> dict[Key, tuple[str, str]]:
        """Path and digest of every image of a snapshot, in index order."""
        if snapshot is None:
            return {}
        folder = snapshot.images
        return dict(self._lines(f"{folder}/index.jsonl",
                                lambda i: (_key(i), (f"{folder}/{i['path']}", str(i["sha256"])))))  # fmt: skip

    def _lines(self, name: str, take: Callable[[dict[str, Any]], T]) -> list[T]:
        """What ``take`` makes of every line; nothing, and a problem told, when one of them is not as it should be."""
        try:
            return [take(line) for line in atomic.read_jsonl(self.run.inside(name))]
        except (UserError, OSError) as err:
            self._problem(name, str(err) if not isinstance(err, FileNotFoundError) else "the file is not there")
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            self._problem(name, f"a line is not of the expected form ({err})")
        return []

    def _pair(
        self, key: Key, base: dict[Key, tuple[str, str]], tuned: dict[Key, tuple[str, str]], change: float | None
    ) -> Pair | None:
        before, after = self._picture(*base[key]), self._picture(*tuned[key])
        if before is None or after is None:
            return None
        prompt = self.prompts.get(key[0], PromptLine(key[0], f"(prompt {key[0]})", {}))
        return Pair(prompt=prompt, seed=key[1], base=before, tuned=after, change=change)

    def _picture(self, name: str, sha256: str) -> Picture | None:
        try:
            data = self.run.inside(name).read_bytes()
            found = hashlib.sha256(data).hexdigest()
            if found != sha256:
                raise UserError("the image is not the one that was scored: its digest differs")
            if data[:8] != _PNG or len(data) < 24:
                raise UserError("the image is no PNG")
        except (UserError, OSError) as err:
            self._problem(name, str(err) if not isinstance(err, FileNotFoundError) else "the file is not there")
            return None
        width, height = struct.unpack(">II", data[16:24])
        return Picture(name=f"{found[:20]}.png", data=data, width=width, height=height)

    def _problem(self, name: str, reason: str) -> None:
        text = f"{name}: {' '.join(reason.split())}".replace(f"{self.run.root.resolve()}/", "")
        if text not in self.problems:
            self.problems.append(text)


def _key(line: dict[str, Any]) -> Key:
    return str(line["prompt_id"]), int(line["seed"])


def _prompt_line(line: dict[str, Any]) -> PromptLine:
    tags = line.get("tags") or {}
    return PromptLine(str(line["id"]), str(line["text"]), {str(k): str(v) for k, v in tags.items()})


def _one_a_prompt(keys: Sequence[Key], taken: set[str]) -> list[Key]:
    """The first key of every prompt that is not ``taken``, in order."""
    first: dict[str, Key] = {}
    for key in keys:
        if key[0] not in taken:
            first.setdefault(key[0], key)
    return list(first.values())
