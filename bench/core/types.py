"""The facts that travel between rooms: frozen dataclasses that are plain JSON underneath."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.core.budget import Budget
from bench.core.identity import IDENTITY_VERSION, digest

Role = Literal["trained-on", "related", "held-out"]
Status = Literal["done", "failed", "interrupted", "lost", "diverged"]


@dataclass(frozen=True)
class Prompt:
    """One line of a suite. ``id`` is its place in the official file, never parsed out of a file name."""

    id: str
    text: str
    """What the model is given: normalised by the suite's named rule."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """category, challenge, style, pair … where the original has them."""


@dataclass(frozen=True)
class Question:
    """One TIFA question (Hu et al., arXiv 2303.11897) about the image of one prompt."""

    prompt_id: str
    question: str
    choices: tuple[str, ...]
    answer: str
    kind: str
    """TIFA's element type: color, shape, counting, spatial, …"""


@dataclass(frozen=True)
class GraphQuestion(Question):
    """A question that makes sense only where others were answered as they should be (DSG, arXiv 2310.18235)."""

    number: int = 1
    """Its place among the prompt's questions, from 1."""
    parents: tuple[int, ...] = ()
    """Numbers of the questions that it depends on."""


@dataclass(frozen=True)
class SamplerSpec:
    """How images are sampled."""

    scheduler: str = "ddim"
    """ddim · ddpm · euler · euler-a · dpmpp-2m; flow-euler of flow models"""
    n_steps: int = 50
    guidance: float = 7.5
    """Classifier-free guidance w: eps_u + w (eps_c - eps_u); 1 turns the unconditional branch off."""
    eta: float = 0.0
    """DDIM's eta; others ignore it and must leave it 0."""
    resolution: int | None = None
    """Image side in pixels; None is the base model's own."""

    @property
    def branches(self) -> int:
        """U-Net rows a sample costs at one step: 2 with guidance, 1 without."""
        return 1 if self.guidance == 1 else 2


@dataclass(frozen=True)
class SuiteSpec:
    """All of a suite that changes an answer, without its prompts (those are in ``Suite``)."""

    name: str
    edition: Literal["sample", "full"]
    version: int
    variant: str
    """A named list or subset of the suite, such as ``mlperf5k`` or ``People``; "" is the default."""
    title: str
    source: str
    licence: str
    n_prompts: int
    n_train_prompts: int
    prompt_hash: str
    """Digest over ids, texts and questions of the evaluation prompts, in order."""
    train_prompt_hash: str
    sampler: SamplerSpec
    """For evaluation images."""
    train_sampler: SamplerSpec
    """For the rollouts of tuners."""
    global_batch: int
    """Samples per optimiser step; world size and memory change the accumulation only."""
    budget: Budget
    eval_seeds: tuple[int, ...]
    """Noise seeds for each prompt: n_images = n_prompts * len(eval_seeds)."""
    fractions: tuple[float, ...]
    """Shares of the budget at which the adapter is kept and scored; starts at 0 (the base), ends at 1."""
    metrics: tuple[str, ...]
    reward: str
    """The reward tuned for unless the user names another."""
    model: str
    limit: int | None = None
    """Only the first ``limit`` prompts were taken: such a result is never ranked."""

    @property
    def id(self) -> str:
        """``coco-sample@1`` · ``hpsv2.first100-full@1``"""
        variant = f".{self.variant}" if self.variant else ""
        return f"{self.name}{variant}-{self.edition}@{self.version}"


@dataclass(frozen=True)
class Suite:
    """A suite ready to run."""

    spec: SuiteSpec
    prompts: tuple[Prompt, ...]
    train_prompts: tuple[Prompt, ...]
    questions: tuple[Question, ...] = ()
    notes: tuple[str, ...] = ()
    """What the record must say: normalisations, duplicates, leaks that were found and removed."""


@dataclass(frozen=True)
class RunSpec:
    """What is asked for: everything that changes the answer, and nothing else.

    Launcher, paths, device, number of workers and log level stay out: they do not change the answer.
    """

    suite: str
    """``SuiteSpec.id``"""
    suite_name: str
    edition: str
    variant: str
    prompt_hash: str
    train_prompt_hash: str
    limit: int | None
    model: str
    model_revision: str
    """Digest or pinned revision of the base model's files."""
    model_defaults: Mapping[str, Any]
    """What settings at 0 take from the base model, such as ``lr`` and ``rank``: the same for every tuner."""
    tuner: str
    tuner_version: int
    label: str
    """What boards call it: the preset whose settings these are, else the tuner's name."""
    tuner_sha256: str
    """Digest of the file of a tuner given by path; "" for installed ones."""
    settings: Mapping[str, Any]
    """Difference to the tuner's defaults."""
    reward: str
    """Canonical reward expression, such as ``symmetry + 0.5*tiny-clip``."""
    budget: Budget
    sampler: SamplerSpec
    train_sampler: SamplerSpec
    global_batch: int
    eval_seeds: tuple[int, ...]
    fractions: tuple[float, ...]
    metrics: tuple[str, ...]
    seed: int
    reward_revision: str = ""
    """Digest over what the reward says of itself: weights, preprocessing, version."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digest of each file or folder that the settings name, by the name given."""
    identity_version: int = IDENTITY_VERSION

    def identity(self) -> dict[str, Any]:
        return {
            "identity_version": self.identity_version,
            "suite": self.suite, "prompts": self.prompt_hash, "train_prompts": self.train_prompt_hash,
            "limit": self.limit, "model": self.model, "revision": self.model_revision,
            "model_defaults": self.model_defaults,
            "tuner": self.tuner, "tuner_version": self.tuner_version,
            "tuner_sha256": self.tuner_sha256, "settings": self.settings,
            "reward": self.reward, "reward_revision": self.reward_revision,
            "budget": self.budget.to_json(), "sampler": self.sampler, "train_sampler": self.train_sampler,
            "global_batch": self.global_batch,
            "eval_seeds": self.eval_seeds, "fractions": self.fractions, "seed": self.seed,
            **({"files": self.files} if self.files else {}),
        }  # fmt: skip

    @property
    def run_id(self) -> str:
        return digest(self.identity(), 12)
