"""The record: what one run left behind, and the only thing that boards are made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Literal["tunebench/record"] = "tunebench/record"
SCHEMA_VERSION = 2
"""2 adds adapter scales, sampling cost and micro-batch; records of version 1 are read as having none."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Interval(_Strict):
    """A figure with its 95 % interval."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None


class MetricEntry(_Strict):
    """One metric of one snapshot."""

    name: str
    snapshot: str
    """``f000`` is the base model, ``f100`` the result."""
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int
    """Images behind the value."""
    unit: str = ""
    higher_is_better: bool
    role: Literal["trained-on", "related", "held-out"]
    judge: str = ""
    family: str = ""
    difference: Interval | None = None
    """Tuned minus base, paired by prompt and noise seed; absent for the base and for set-level metrics."""
    passport: dict[str, Any] = Field(default_factory=dict)
    detail: dict[str, Any] = Field(default_factory=dict)
    scores: str | None = None
    """Per-image values: path in the run folder, or None."""
    warnings: list[str] = Field(default_factory=list)
    error: str | None = None
    """Why there is no value."""


class SnapshotEntry(_Strict):
    """The adapter and images at one share of the budget."""

    name: str
    fraction: float
    """Share of the primary budget asked for."""
    spent: dict[str, float]
    """The ledger when the adapter was taken."""
    adapter: str | None
    """Folder that ``pipe.load_lora_weights`` opens; None for the base."""
    images: str
    """Folder with index.jsonl."""
    n_images: int
    content_hash: str
    adapter_scale: float = 1.0
    """LoRA scale that the images were sampled with."""
    u_per_image: float | None = None
    """U-Net evaluations that sampling one image took, hooks included; None where it was not measured."""


class ScaledEntry(_Strict):
    """The last snapshot, sampled and scored once more with another LoRA scale; boards show the tuner's own."""

    snapshot: SnapshotEntry
    """Named ``f100-s050`` for scale 0.5; its adapter is that of ``f100``."""
    metrics: list[MetricEntry]


class LedgerEntry(_Strict):
    budget: dict[str, Any]
    spent: dict[str, float]
    lost: dict[str, float]
    evaluation_s: dict[str, float] = Field(default_factory=dict)
    """Wall-clock seconds off the budget's clock, by stage."""


class AttemptEntry(_Strict):
    number: int
    started: str
    """ISO 8601, UTC."""
    ended: str | None
    host: str
    device: str
    exit: str
    """done · interrupted · failed: why."""
    lost: dict[str, float] = Field(default_factory=dict)
    """Work of this attempt that the next one had to do again."""


class Provenance(_Strict):
    commit: str | None
    dirty: bool | None
    packages: dict[str, str]
    python: str
    platform: str
    device: str
    n_threads: int
    world_size: int
    """Processes that tuned together."""
    micro_batch: int | None = None
    """Samples per forward while tuning; None in records of before."""
    command: str


class Curve(_Strict):
    """Scalars of tuning against the ledger, thinned to at most 400 rows."""

    columns: list[str]
    rows: list[list[float | None]]


class Artifact(_Strict):
    path: str
    sha256: str


class ErrorEntry(_Strict):
    type: str
    message: str
    tail: str = ""


class Record(_Strict):
    """``record.json``"""

    schema_: Literal["tunebench/record"] = Field(default=SCHEMA, alias="schema")
    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Literal["done", "failed", "interrupted", "lost", "diverged"]
    reason: str
    """Why tuning ended: ``budget:denoiser_u``, ``phases done``, ``hard limit`` …"""
    spec: dict[str, Any]
    """The RunSpec."""
    settings: dict[str, Any]
    """Every setting of the tuner, defaults included."""
    suite: dict[str, Any]
    """The SuiteSpec, so that a record explains itself."""
    notes: list[str] = Field(default_factory=list)
    ranked: bool = True
    unranked_reason: str | None = None
    ledger: LedgerEntry
    provenance: Provenance
    attempts: list[AttemptEntry]
    snapshots: list[SnapshotEntry]
    metrics: list[MetricEntry]
    scales: list[ScaledEntry] = Field(default_factory=list)
    """By ``bench score --adapter-scale``, in order of the scale."""
    curve: Curve
    artifacts: list[Artifact]
    error: ErrorEntry | None = None

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)


def upgrade(data: Any) -> Record:
    """Reads a record of this or an older schema version; a newer one is refused with what to do."""
    from bench.core.errors import UserError

    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or data.get("schema") != SCHEMA:
        raise UserError("this is no TuneBench record", valid=f'"schema": "{SCHEMA}"')
    if version > SCHEMA_VERSION:
        raise UserError(
            f"record schema {version} is newer than this program reads ({SCHEMA_VERSION})",
            hint="pip install --upgrade tunebench",
        )
    return Record.model_validate(data)
