"""The record: what one run left behind, and the only thing that boards are made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Literal["tunebench/record"] = "tunebench/record"
SCHEMA_VERSION = 5
"""2 adds adapter scales, sampling cost and micro-batch. 3 adds the cluster job of an attempt, images from elsewhere and
human studies. 4 adds how a model was computed, and prompts that were cut. 5 adds the hardware. Every addition has a
default, so that older records are read as having none of it."""

HUMAN_METRICS = ("human", "human-rank", "human-scale")
"""Kinds of figures that ``bench study import`` writes: win rate, mean rank, mean score."""


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
    n_truncated: int | None = None
    """Prompts whose end the base model's text encoders did not read; None where it was not counted."""


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
    hardware: str = ""
    """The name of the processor or GPU; "" in records of before it was noted."""
    exit: str
    """done · interrupted · failed: why."""
    lost: dict[str, float] = Field(default_factory=dict)
    """Work of earlier attempts that this one had to do again."""
    job_id: str | None = None
    """Of the Slurm job it ran in, as squeue shows it: ``12`` or ``12_3``."""
    token: str | None = None
    """What it held the run's fence with."""
    stage: Literal["all", "tune", "evaluate"] = "all"
    checkpoints: int | None = None
    """How many it saved; None where it was killed or of before this was counted."""
    checkpoint_s: float | None = None
    """Wall-clock seconds that they took, the ledger's files included."""


class Provenance(_Strict):
    commit: str | None
    dirty: bool | None
    packages: dict[str, str]
    python: str
    platform: str
    device: str
    hardware: str = ""
    """What spent the run's device-seconds: the name of the processor or GPU of process 0, ``A + B`` where attempts on
    several have updates in the result; for images from elsewhere what scored them. "" where it was not noted."""
    n_threads: int
    world_size: int
    """Processes that tuned together."""
    micro_batch: int | None = None
    """Samples per forward while tuning, after halvings for want of memory; None in records of before."""
    command: str
    execution: dict[str, Any] = Field(default_factory=dict)
    """How the base model was computed, where that is not float32, whole and eager: ``dtype`` bf16 or fp16 of its frozen
    weights, ``gradient_checkpointing``, ``attention_slicing``, ``vae_slicing``, ``vae_tiling``, ``compile``."""


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


class ExternalEntry(_Strict):
    """Images that no run of ours made (``bench eval``): nothing was tuned, so there is no budget and no ledger.

    The record's ``spec`` then holds the suite's own conditions, which say what the images are compared with.
    """

    name: str
    """What boards call it, such as ``midjourney-5.2``."""
    note: str = ""
    """What the user says of the images' origin."""
    n_per_prompt: int
    """Images of each prompt, at most the suite's noise seeds; they share no noise with the base model's."""
    sizes: dict[str, int]
    """Images by size as they came, such as ``{"1024x1024": 64}``."""
    resize: str
    """What was done to bring them to one size; metrics resize further by their own stated rule."""
    index_sha256: str
    """Digest of the index file that mapped prompts to images."""


class StudyEntry(_Strict):
    """A human study that judged this run's images; the votes lie in the run folder, un-blinded."""

    study: str
    """The study's id."""
    kind: Literal["pairwise", "rank", "scale"]
    votes: str
    """Path in the run folder: every vote, excluded raters' too."""
    sha256: str
    contestants: list[str]
    """``base``, or run ids."""
    n_raters: int
    """Raters whose votes count."""
    n_excluded: int
    """Raters left out by the study's attention rule."""
    n_votes: int
    """Answered trials that count, checks and repeats apart."""


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
    external: ExternalEntry | None = None
    """Set for images from elsewhere; such a record is shown beside the board's rows, without a budget."""
    studies: list[StudyEntry] = Field(default_factory=list)
    """In order of study id; their figures are the metrics ``human…``."""
    error: ErrorEntry | None = None

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of ``record.json`` at this version."""
    return Record.model_json_schema(by_alias=True, mode="serialization") | {"$id": f"{SCHEMA}/{SCHEMA_VERSION}"}


def is_human(entry: MetricEntry) -> bool:
    """Whether people made the figure: scoring the images again does not make it again, so it is kept."""
    return entry.name.partition("/")[0] in HUMAN_METRICS


def upgrade(data: Any) -> Record:
    """Reads a record of this or an older schema version; a newer one is refused with what to do."""
    from bench.core.errors import UserError

    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version < 1 or data.get("schema") != SCHEMA:
        raise UserError("this is no TuneBench record", valid=f'"schema": "{SCHEMA}"')
    if version > SCHEMA_VERSION:
        raise UserError(
            f"record schema {version} is newer than this program reads ({SCHEMA_VERSION})",
            hint="pip install --upgrade tunebench",
        )
    return Record.model_validate(data)
