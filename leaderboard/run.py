"""A run as boards see it: the facts and figures of its record without curves, provenance and details.

Thousands of these are in memory at one time, so metrics are tuples; the whole record is read again where a page
needs it.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pydantic_core

from bench.core.budget import Budget
from bench.core.errors import UserError
from bench.core.record import Record, upgrade
from bench.store.runs import RunFolder
from leaderboard.wording import budget_text


class Change(NamedTuple):
    """Tuned minus base with its 95 % interval."""

    value: float
    ci_low: float | None
    ci_high: float | None


class Metric(NamedTuple):
    """One metric of one snapshot: the fields of ``bench.core.record.MetricEntry`` that boards use."""

    name: str
    snapshot: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    unit: str
    higher_is_better: bool
    role: str
    judge: str
    family: str
    difference: Change | None
    passport: dict[str, Any]
    scores: str | None
    error: str | None
    warnings: list[str]
    detail: dict[str, Any]
    """Only what is one figure or word, and the parts of a reward that has some (``parts/style``); other tables are in
    the record."""


class Snapshot(NamedTuple):
    """One share of the budget: the fields of ``bench.core.record.SnapshotEntry`` that boards use."""

    name: str
    fraction: float
    spent: dict[str, float]
    images: str
    n_images: int
    content_hash: str
    adapter_scale: float
    u_per_image: float | None


class Scaled(NamedTuple):
    """The last snapshot, sampled and scored once more with another LoRA scale."""

    snapshot: Snapshot
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A record with the facts that boards group by."""

    root: Path
    """The runs folder; nothing outside it is ever read."""
    folder: Path
    digest: str
    """SHA-256 of ``record.json``."""
    run_id: str
    suite: str
    edition: str
    model: str
    tuner: str
    """What boards call it: the preset's name, else the tuner's."""
    reward: str
    seed: int
    changed: dict[str, Any] = field(compare=False)
    """Settings that are not the tuner's defaults."""
    budget: Budget
    hardware: str
    """What it was tuned on; "" where that was not recorded."""
    status: str
    reason: str
    """Why tuning ended, or the error."""
    ranked: bool
    unranked_reason: str | None
    spec: dict[str, Any] = field(compare=False)
    suite_title: str
    spent: dict[str, float] = field(compare=False)
    lost: dict[str, float] = field(compare=False)
    snapshots: tuple[Snapshot, ...] = field(compare=False)
    metrics: tuple[Metric, ...] = field(compare=False)
    scales: tuple[Scaled, ...] = field(compare=False)
    external: str | None
    """Set for images from elsewhere, which nobody here tuned: the note on where they come from, or nothing."""
    n_raters: int
    """People whose votes count in the run's human studies."""
    own_rewards: tuple[str, ...]
    """Rewards that the run fitted for itself and was tuned for, instead of the one that was asked for."""

    @property
    def record(self) -> Record:
        """The whole record, read from disk; only the last few are kept in memory.

        Raises:
            UserError: it was written anew since the build began.
        """
        return _record(self.folder, self.digest)

    def record_at(self, *snapshots: Snapshot | None) -> Record:
        """The record with the metrics of these snapshots alone, which costs half: what a page of thousands needs.

        Raises:
            UserError: as ``record``.
        """
        names = {s.name for s in snapshots if s is not None}
        data = _read(self.folder, self.digest)
        metrics = [m for m in data["metrics"] if m["snapshot"] in names]
        found = upgrade({**data, "metrics": metrics, "curve": _NO_CURVE})
        found.curve.columns, found.curve.rows = data["curve"]["columns"], data["curve"]["rows"]  # long, and checked
        return found

    @property
    def device_class(self) -> str:
        """The hardware, where the budget has a limit in device-seconds: those of one device are not those of another,
        where U are U everywhere."""
        return self.hardware if self.budget.limit("device_s") is not None else ""

    @property
    def terms(self) -> str:
        """The budget in words, and on what."""
        return budget_text(self.budget) + (f" on {self.device_class}" if self.device_class else "")

    @property
    def place(self) -> str:
        """The run's folder, relative to the runs folder."""
        return self.folder.relative_to(self.root).as_posix()

    @property
    def base(self) -> Snapshot | None:
        """The untouched model: the snapshot at fraction 0."""
        return next((s for s in self.snapshots if s.fraction == 0), None)

    @property
    def final(self) -> Snapshot | None:
        """The last snapshot of the tuned model, at whatever share of the budget it was taken."""
        tuned = [s for s in self.snapshots if s.fraction > 0]
        return max(tuned, key=lambda s: s.fraction) if tuned else None

    @property
    def trained_reward(self) -> str:
        """What the run was tuned for: ``tree (its own)`` where it fitted that for itself, else the reward asked for."""
        return f"{' + '.join(self.own_rewards)} (its own)" if self.own_rewards else self.reward

    def entries(self, snapshot: Snapshot | None) -> dict[str, Metric]:
        """The metrics of one snapshot by name."""
        return {} if snapshot is None else {m.name: m for m in self.metrics if m.snapshot == snapshot.name}

    def inside(self, *parts: str) -> Path:
        """A path below the run's folder.

        Raises:
            UserError: it leads out of the runs folder, which no honest record does.
        """
        path = _below(real(self.folder), "/".join(parts)) or os.path.realpath(os.path.join(self.folder, *parts))
        if not path.startswith(f"{real(self.root)}{os.sep}"):
            raise UserError(f"{'/'.join(parts)!r} leads out of the runs folder")
        return Path(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes. Tuples of plain data go as one text of ``marshal``'s, which takes a fifth of the time of
        naming each one's class; both ends are one program."""
        told = [getattr(self, name) for name in _PLAIN]
        metrics, scales = _bare(self.metrics), [(tuple(s.snapshot), _bare(s.metrics)) for s in self.scales]
        packed = marshal.dumps((told, [tuple(s) for s in self.snapshots], metrics, scales))
        return _unpacked, (os.fspath(self.root), os.fspath(self.folder), self.budget, packed)


def _bare(metrics: Sequence[Metric]) -> list[tuple[Any, ...]]:
    return [(*m[:_CHANGE], None if m.difference is None else tuple(m.difference), *m[_CHANGE + 1 :]) for m in metrics]


def _unpacked(root: str, folder: str, budget: Budget, packed: bytes) -> Run:
    told, snapshots, metrics, scales = marshal.loads(packed)

    def whole(found: list[tuple[Any, ...]]) -> tuple[Metric, ...]:
        changes = [None if m[_CHANGE] is None else Change._make(m[_CHANGE]) for m in found]
        return tuple(Metric._make((*m[:_CHANGE], change, *m[_CHANGE + 1 :]))
                     for m, change in zip(found, changes, strict=True))  # fmt: skip

    return Run(
        root=Path(root), folder=Path(folder), budget=budget, snapshots=tuple(map(Snapshot._make, snapshots)),
        metrics=whole(metrics), scales=tuple(Scaled(Snapshot._make(s), whole(found)) for s, found in scales),
        **dict(zip(_PLAIN, told, strict=True)),
    )  # fmt: skip


@lru_cache(maxsize=64)
def real(folder: Path) -> str:
    """The folder's path without links on its way."""
    return os.path.realpath(folder)


def _below(folder: str, name: str) -> str:
    """The path of ``folder/name`` where no part of the name is a link; empty where that has to be looked into."""
    path = folder
    for part in name.split("/"):
        path = f"{path}/{part}"
        if part in ("", ".", "..") or "\0" in part or os.path.islink(path):
            return ""
    return path


@lru_cache(maxsize=4)
def _record(folder: Path, digest: str) -> Record:
    return upgrade(_read(folder, digest))


def _read(folder: Path, digest: str) -> dict[str, Any]:
    """The record's JSON, which was checked when its digest became known."""
    data = RunFolder(folder).record_path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{folder}/record.json changed while its pages were made", hint="bench report")
    found: dict[str, Any] = pydantic_core.from_json(data, allow_inf_nan=False, cache_strings="all")
    return found


def summary_of(record: Record) -> dict[str, Any]:
    """What ``run_of`` needs of a record, as JSON data; lists in the order of the tuples' fields.

    Raises:
        UserError: the record's spec lacks what a board needs.
    """
    spec = record.spec
    missing = [key for key in ("suite", "edition", "model", "tuner", "reward", "seed", "budget") if key not in spec]
    if missing:
        raise UserError(f"its spec lacks {', '.join(missing)}")
    Budget.from_json(spec["budget"])
    passports: list[dict[str, Any]] = []  # each goes as text: readers of thousands parse those that are new to them

    def passport(value: dict[str, Any]) -> int:
        if value not in passports:
            passports.append(value)
        return passports.index(value)

    def metric(m: Any) -> list[Any]:
        change = m.difference and [m.difference.value, m.difference.ci_low, m.difference.ci_high]
        plain = {k: v for k, v in m.detail.items() if v is None or isinstance(v, bool | int | float | str)}
        parts = m.detail.get("parts")
        for part, leaf in parts.items() if isinstance(parts, dict) else ():
            value = leaf.get("value") if isinstance(leaf, dict) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                plain[f"parts/{part}"] = value
        return [m.name, m.snapshot, m.value, m.ci_low, m.ci_high, m.n, m.unit, m.higher_is_better, m.role, m.judge,
                m.family, change, passport(m.passport), m.scores, m.error, m.warnings, plain]  # fmt: skip

    def snapshot(s: Any) -> list[Any]:
        return [s.name, s.fraction, s.spent, s.images, s.n_images, s.content_hash, s.adapter_scale, s.u_per_image]

    return {
        "run_id": record.run_id, "status": record.status, "ranked": record.ranked,
        "hardware": record.provenance.hardware,
        "reason": record.error.message if record.error else record.reason, "unranked_reason": record.unranked_reason,
        "spec": spec, "suite_title": str(record.suite.get("title") or spec["suite"]),
        "spent": record.ledger.spent, "lost": record.ledger.lost,
        "snapshots": [snapshot(s) for s in record.snapshots], "metrics": [metric(m) for m in record.metrics],
        "scales": [[snapshot(e.snapshot), [metric(m) for m in e.metrics]] for e in record.scales],
        "external": record.external.note if record.external is not None else None,
        "n_raters": sum(study.n_raters for study in record.studies),
        "passports": [json.dumps(p, sort_keys=True, allow_nan=False, separators=(",", ":")) for p in passports],
    }  # fmt: skip


class Runs:
    """Makes runs of summaries; equal passports of different runs are one object."""

    def __init__(self) -> None:
        self._passports: dict[str, dict[str, Any]] = {}

    def run(self, root: Path, folder: Path, digest: str, summary: Mapping[str, Any]) -> Run:
        """Raises KeyError, TypeError, ValueError, AttributeError or UserError when ``summary`` is of another form."""
        spec = summary["spec"]
        passports = [self._passport(text) for text in summary["passports"]]
        metrics = tuple(_metric(m, passports) for m in summary["metrics"])
        return Run(
            root=root, folder=folder, digest=digest, run_id=str(summary["run_id"]),
            suite=str(spec["suite"]),
            edition=str(spec["edition"]), model=str(spec["model"]),
            tuner=str(spec.get("label") or spec["tuner"]), reward=str(spec["reward"]),
            seed=int(spec["seed"]), changed=dict(spec.get("settings") or {}), budget=Budget.from_json(spec["budget"]),
            hardware=summary["hardware"], status=summary["status"], reason=summary["reason"], ranked=summary["ranked"],
            unranked_reason=summary["unranked_reason"], spec=spec, suite_title=summary["suite_title"],
            spent=summary["spent"], lost=summary["lost"],
            snapshots=tuple(Snapshot(*s) for s in summary["snapshots"]),
            metrics=metrics,
            scales=tuple(
                Scaled(Snapshot(*s), tuple(_metric(m, passports) for m in found)) for s, found in summary["scales"]
            ),
            external=summary["external"], n_raters=summary["n_raters"], own_rewards=_own_rewards(metrics),
        )  # fmt: skip

    def _passport(self, text: str) -> dict[str, Any]:
        if text not in self._passports:
            self._passports[text] = pydantic_core.from_json(text)
        return self._passports[text]


def _own_rewards(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Judges that were trained on and whose win rates' passports say that each run fits its own."""
    rewards = ((m.judge, m.passport.get("reward")) for m in metrics if m.role == "trained-on")
    return tuple(sorted({judge for judge, p in rewards if isinstance(p, dict) and p.get("fitted_by")}))


def _metric(m: list[Any], passports: list[dict[str, Any]]) -> Metric:
    """A third of a million of these in a big site: without the checks of a call by name."""
    if m[_CHANGE] is not None:
        m[_CHANGE] = Change._make(m[_CHANGE])
    m[_PASSPORT] = passports[m[_PASSPORT]]
    return Metric._make(m)


_NO_CURVE: dict[str, Any] = {"columns": [], "rows": []}
_CHANGE, _PASSPORT = Metric._fields.index("difference"), Metric._fields.index("passport")
_OTHERS = frozenset({"root", "folder", "budget", "snapshots", "metrics", "scales"})
_PLAIN = tuple(name for name in Run.__slots__ if name not in _OTHERS)
"""The fields of a run that are plain data as they are."""
