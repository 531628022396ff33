"""What a plug-in must be: tuners, rewards, metrics, suites. Types only; torch appears in annotations alone.

One image contract everywhere: ``images: (B, 3, H, W) float32 in [0, 1]``.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from bench.core.afford import Need
from bench.core.budget import Budget, Charge
from bench.core.errors import UserError, unknown_name
from bench.core.judging import Judging
from bench.core.types import Prompt, SamplerSpec, Suite

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.diffusion.models import BaseModel

Scalars = Mapping[str, float]


def setting(
    default: Any, *, unit: str, source: str, help: str, choices: Sequence[Any] = (), low: float | None = None,
    high: float | None = None,
) -> Any:  # fmt: skip
    """A field of a tuner's config: default, unit, source in the paper, help, and what is valid."""
    meta = {"unit": unit, "source": source, "help": help, "choices": tuple(choices), "low": low, "high": high}
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class Report:
    """What one unit of work did; the harness logs it. Costs are not in it: the meters count those."""

    scalars: Scalars = field(default_factory=dict)
    """Logged against the ledger, such as ``reward``, ``grad_norm``, ``n_trained``."""
    n_steps: int = 1
    """Optimiser steps taken by this unit (0 for building data)."""


@dataclass
class Phase:
    """A resumable stretch of tuning: units of work with safe points between them."""

    name: str
    unit: Callable[[], Report]
    """Does one piece of work."""
    done: Callable[[], bool]
    """True when nothing is left; most online tuners never end by themselves: the budget ends them."""
    next_cost: Callable[[], Charge | None] = lambda: None
    """What the next unit will cost, where that is known before it starts; a unit that does not fit is not started."""


@dataclass(frozen=True)
class Patch:
    """All that generation ever sees of a tuner."""

    adapter: bool = True
    """Whether the model's adapter takes part; False generates with the untouched base."""
    adapter_scale: float = 1.0
    """LoRA scale at inference."""
    hooks: tuple[Any, ...] = ()
    """Sampling hooks (``bench.diffusion.generate.SamplingHook``): attention modulation, latent hooks. Generation runs
    in a later stage than tuning, so hooks are rebuilt there by ``Tuner.sampling_hooks`` from the settings alone."""


@dataclass(frozen=True)
class Setup:
    """What a plan knows of a run before anything is loaded, for ``Tuner.problems``."""

    train_sampler: SamplerSpec
    sampler: SamplerSpec
    """Of the evaluation images."""
    global_batch: int
    budget: Budget
    n_train_prompts: int
    reward: str
    """Canonical expression."""
    model: str
    seed: int = 0
    """Root of the run's draws: what the first update draws, and so costs, is known before the run."""


class Reward(ABC):
    """Scores images. ``score`` is always higher-is-better; a cost declares ``minimise`` once and is negated here."""

    name: str
    """The name with all that changes its value, such as ``symmetry`` or ``tiny-pick``."""
    differentiable: bool = True
    """Whether gradient flows from the score to the image tensor. Plans read it without loading weights, so a registered
    function that makes a reward without one is annotated to return that reward's class."""
    minimise: bool = False
    family: str = ""
    """Backbone and training data; a metric of the trained reward's family is *related*, not held-out."""
    unit: str = ""
    licence: str = ""
    weights_sha256: str = ""
    """Digest of the weights file, "" when there are none."""
    input_px: int = 0
    """Side in pixels of what its network sees; 0 takes images as they are."""
    value_range: tuple[float, float] | None = None
    """Bounds of the measure, where it has any."""
    cost_gmac: float = 0.0
    """10^9 multiply-accumulates of one image through its network; 0 where nobody counted."""

    tie_eps: float = 0.0
    """Two images whose measures differ by at most this are a tie: half a win."""
    part_names: tuple[str, ...] = ()
    """What the measure is made of, where it can be told apart: TreeReward's dimensions."""

    @classmethod
    def prompt_problems(cls, prompts: Sequence[str]) -> list[str]:
        """What keeps it from scoring images of these prompts, each as one sentence with what is valid; asked at plan
        time, of the class (see ``differentiable``)."""
        return []

    def prepare(self) -> None:
        """Loads what it computes with, where it did not at once: after this, no call waits for a file. A plan, which
        wants no more than ``identity``, leaves it out."""
        return

    @abstractmethod
    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The published quantity in its own unit and direction: images (B, 3, H, W) → (B,) float32."""

    def measure_parts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The value of each of ``part_names``: images (B, 3, H, W) → (B, K) float32."""
        raise LookupError(f"{self.name} has no parts")

    def n_truncated(self, prompts: Iterable[str]) -> int:
        """Distinct prompts whose end it does not read, as they are longer than its text encoder."""
        return 0

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Higher is better: images (B, 3, H, W) float32 in [0, 1] → (B,) float32."""
        value = self.measure(images, prompts)
        return -value if self.minimise else value

    def identity(self) -> Mapping[str, Any]:
        """What must agree for two scores to be comparable."""
        ties = {"tie_eps": self.tie_eps} if self.tie_eps else {}
        return {"name": self.name, "weights_sha256": self.weights_sha256, **ties}


class Context(Protocol):
    """What a tuner sees of the run. There is no way from here to the evaluation prompts."""

    model: BaseModel
    """The frozen base model. A tuner puts its adapter on with ``model.attach_adapter``; U-Net, decoder, optimiser steps
    and rewards are metered by hooks."""
    sampler: SamplerSpec
    """The suite's training rollout: scheduler, steps, guidance."""
    global_batch: int
    """Samples per optimiser step, fixed by the suite."""
    micro_batch: int
    """Samples per forward that fit; gradients accumulate to the global batch."""
    budget: Budget
    """The run's limits, for tuners that size their data by it."""
    work_dir: Path
    """The only folder a tuner may write to. It is there again when a killed run resumes, possibly holding more than
    the restored state knows of, and is removed when the run is done."""

    def prompts(self, update: int, n: int) -> Sequence[Prompt]:
        """The training prompts of one update: a seeded shuffle without replacement, epoch by epoch."""
        ...

    def reward(self, name: str | None = None) -> Reward:
        """The run's reward, or another one by name; every image scored is charged."""
        ...

    def own_reward(self, reward: Reward) -> Reward:
        """A reward that the tuner made itself; every image it scores is charged as the run's reward charges."""
        ...

    def charge_flops(self, name: str, rows: int, one_row: Callable[[], object]) -> None:
        """Charges ``rows`` times the FLOPs of ``one_row``: a tuner's own network on one row, forward and, where it
        trains, backward. It is called once for each ``name``, off the books, and must leave no gradient behind."""
        ...

    def share(self, n: int) -> range:
        """Which of the ``n`` samples of an update are this process's: all of them on one device. Draws are named by
        the sample's number, so that the world size changes no draw."""
        ...

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sums each tensor over all processes, in place; nothing to do on one."""
        ...

    def remaining(self) -> Mapping[str, float]:
        """What is left of each limited budget kind (read only)."""
        ...

    def seed(self, purpose: str, **axes: int | str) -> int:
        """The number behind ``rng``, for the noise of one sample (``bench.diffusion.samplers.Noise``)."""
        ...

    def rng(self, purpose: str, **axes: int | str) -> torch.Generator:
        """A fresh CPU generator for one named draw; the same names give the same numbers in every attempt."""
        ...


class Tuner(ABC):
    """An algorithm: an ordered list of resumable phases and the patch they result in."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raise it with every change of defaults or of the update: it is part of the run id."""
    paper: ClassVar[str] = ""
    """Citation and arXiv number."""
    equations: ClassVar[str] = ""
    deviations: ClassVar[tuple[str, ...]] = ()
    """Known differences to the paper, each with its reason."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """differentiable-reward · black-box-reward · pairs · images · reference · attention"""
    Config: ClassVar[type]
    """A frozen dataclass of ``setting`` fields."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings; ``--tuner drtune-noes`` is preset ``drtune-noes`` of tuner ``drtune``."""
    check_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that ``bench check tuner`` lays over every preset, to keep its tiny world (4 sampler steps, batches of
    2, 16x16 images) to seconds: a pool of four, two steps of fitting. Sizes only, never what the algorithm is."""

    def __init__(self, config: Any, ctx: Context) -> None:
        self.config = config
        self.ctx = ctx

    @classmethod
    def problems(cls, config: Any, setup: Setup) -> list[str]:
        """What would make this run fail, each as one sentence with what is valid; asked at plan time."""
        return []

    @classmethod
    def needs_of(cls, config: Any) -> frozenset[str]:
        """``needs`` with these settings."""
        return cls.needs

    @classmethod
    def first_update(cls, config: Any, setup: Setup) -> Sequence[Need]:
        """All that must be done up to the end of the first update, in order and at its exact cost: a plan refuses a
        budget that does not hold it. Asked where ``problems`` has none. Empty where that is not known (a run without
        an update is then not ranked), or where nothing is tuned."""
        return ()

    @classmethod
    def trained_reward(cls, config: Any, model: str) -> str:
        """The reward that it tunes for on this base model where the user names none; "" leaves that to the suite."""
        return ""

    @classmethod
    def own_reward_family(cls, config: Any, model: str) -> str | None:
        """Family of the reward that it fits for itself and tunes for instead of the run's, so that judges get their
        true roles; None where it tunes for the run's."""
        return None

    def kept(self) -> Mapping[str, Any]:
        """What the result needs beside the adapter, as tensors and plain data, such as a reward that was fitted; asked
        when tuning is over."""
        return {}

    @classmethod
    def own_rewards(cls, config: Any, kept: Mapping[str, Any], device: str) -> Mapping[str, Reward]:
        """From ``kept``, the rewards that the run fitted for itself, by name: they score its images too, as what was
        trained on."""
        return {}

    @classmethod
    def related_families(cls, config: Any) -> frozenset[str]:
        """Families of models that it looks with beside the reward, tuning or sampling: their judges are related."""
        return frozenset()

    @classmethod
    def files(cls, config: Any) -> Sequence[Path]:
        """Files and folders named in the settings, whose content is part of the run's identity. What is not there, or
        is no valid setting, is left to ``problems``."""
        return ()

    @classmethod
    def sampling_hooks(cls, config: Any) -> Sequence[Any]:
        """What generation needs beside the adapter (``bench.diffusion.generate.SamplingHook``), fresh objects."""
        return ()

    @abstractmethod
    def phases(self) -> list[Phase]:
        """In order. What must come before the first update is in phases before the last: contract checks run those to
        their ends, and a few units of the last."""

    def patch(self) -> Patch:
        return Patch(hooks=tuple(self.sampling_hooks(self.config)))

    def snapshot_weights(self) -> AbstractContextManager[None]:
        """Inside, the adapter holds the weights that are to be kept and evaluated, such as a moving average."""
        return nullcontext()

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes between units, as tensors and plain data (``torch.load(weights_only=True)``)."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def make_config(tuner: type[Tuner], settings: Mapping[str, Any]) -> Any:
    """A tuner's config with ``settings`` over the defaults; strings from the command line are converted.

    Raises:
        UserError: unknown setting (closest names), wrong type, value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(tuner.Config)}
    values: dict[str, Any] = {}
    for key, raw in settings.items():
        if key not in fields:
            raise unknown_name(f"setting of {tuner.name}", key, fields, f"bench show tuner {tuner.name}")
        values[key] = _convert(tuner.name, fields[key], raw)
    return tuner.Config(**values)


def _convert(tuner: str, f: dataclasses.Field[Any], raw: Any) -> Any:
    kind: type = type(f.default)
    where = f"{tuner}.{f.name}"
    hint = f"bench show tuner {tuner}"
    try:
        if kind is bool:
            value: Any = {"true": True, "1": True, "false": False, "0": False}[str(raw).lower()]
        elif kind is int:
            value = int(str(raw))
        elif kind is float:
            value = float(raw)
            if not math.isfinite(value):
                raise ValueError
        else:
            value = str(raw)
    except (ValueError, KeyError):
        raise UserError(f"{where} = {raw!r} is not a {kind.__name__}", valid=f"a {kind.__name__}, default {f.default}",
                        hint=hint) from None  # fmt: skip
    choices, low, high = (f.metadata.get(k) for k in ("choices", "low", "high"))
    if choices and value not in choices:
        raise UserError(f"{where} = {value!r}", valid=", ".join(map(str, choices)), hint=hint)
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = " and ".join(s for s, b in ((f"at least {low}", low), (f"at most {high}", high)) if b is not None)
        raise UserError(f"{where} = {value!r} is out of range", valid=bounds, hint=hint)
    return value


def changed_settings(tuner: type[Tuner], config: Any) -> dict[str, Any]:
    """The difference to the defaults, so that a new setting renames no old run."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(tuner.Config)
            if getattr(config, f.name) != f.default}  # fmt: skip


@dataclass(frozen=True)
class ImageRef:
    """One generated image: identity is in the index file, never in the file name."""

    prompt_id: str
    seed: int
    path: str
    """Relative to the image folder."""
    sha256: str

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt_id, self.seed


@dataclass(frozen=True)
class ImageFolder:
    """A complete set of images: one for every prompt and noise seed of the suite."""

    root: Path
    refs: tuple[ImageRef, ...]
    """In suite order: prompts outer, seeds inner."""
    content_hash: str
    """Digest over (prompt id, seed, image digest): what caches are keyed by."""


class Images(Protocol):
    """Images as metrics read them: decoded once, asked once per network.

    What a network says is kept on disk batch by batch, under the batch's content and ``network``, so ``network`` names
    weights digest and preprocessing. Which process asked makes no difference: see ``Metric.precompute``.
    """

    folder: ImageFolder

    def batches(self, n: int = 64) -> Iterator[torch.Tensor]:
        """(B, 3, H, W) uint8 in the order of ``folder.refs``."""
        ...

    def features(
        self, network: str, extract: Callable[[torch.Tensor], torch.Tensor], *, n_batch: int = 64
    ) -> np.ndarray:
        """(N, D) float32, one row an image, from ``extract`` on uint8 batches of ``n_batch``."""
        ...

    def judged(
        self, network: str, extract: Callable[[torch.Tensor, Sequence[str]], torch.Tensor], texts: Sequence[str]
    ) -> np.ndarray:
        """``features`` of each image under a text of its own."""
        ...

    def of_texts(
        self, network: str, read: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str]
    ) -> np.ndarray:
        """What ``read`` makes of each image's text alone, likewise: the same for all images of these texts."""
        ...

    def answers(
        self, network: str, ask: Callable[[torch.Tensor, Sequence[Sequence[str]]], Sequence[Sequence[str]]],
        questions: Sequence[Sequence[str]],
    ) -> list[list[str]]:  # fmt: skip
        """What ``ask`` answers to the questions about each image, likewise."""
        ...


@dataclass(frozen=True)
class Scene:
    """What a metric may look at."""

    suite: Suite
    tuned: Images
    base: Images
    """The same prompts and noise through the untouched base model. For the base itself it *is* ``tuned``."""
    trained_reward: str
    """Canonical reward expression of the run."""
    device: str
    cache_dir: Path
    """For reference statistics, shared by runs."""
    own_rewards: Mapping[str, Reward] = field(default_factory=dict)
    """What the run fitted for itself and was tuned for, by name."""
    judging: Judging = field(default_factory=Judging)
    """Which judges are asked, and what the user chose about them."""


@dataclass(frozen=True)
class Measured:
    """One metric's answer."""

    name: str
    """Column name with everything that changes the scale: ``fid``, ``clipscore/tiny-clip``, ``winrate/tiny-judge``."""
    value: float | None
    higher_is_better: bool
    n: int
    """Images behind the value."""
    unit: str = ""
    ci_low: float | None = None
    ci_high: float | None = None
    per_image: tuple[float | None, ...] | None = None
    """One value for each ``folder.refs``, where the metric has one."""
    reasons: tuple[str, ...] | None = None
    """A sentence of reason for each image, where the metric has one (TIFA: which questions failed)."""
    passport: Mapping[str, Any] = field(default_factory=dict)
    """All that must agree for two values to share a column."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Breakdowns: accuracy per question kind, wins / ties / losses …"""
    family: str = ""
    """Family of the judge behind it; decides trained-on / related / held-out."""
    judge: str = ""
    """Name of the reward behind it, if one is."""
    warnings: tuple[str, ...] = ()


class Metric(ABC):
    """A column of the board (or a few that share a pass over the images)."""

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    when: ClassVar[Literal["final", "curve"]] = "final"
    """``curve`` metrics are scored for every snapshot, ``final`` ones for the base and the last snapshot."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions it needs beyond the core; ``plan`` looks for them."""

    @abstractmethod
    def score(self, scene: Scene) -> list[Measured]: ...

    def precompute(self, scene: Scene) -> None:
        """Asks ``scene.tuned`` what ``score`` will ask of each image by itself, so that several processes share it.

        Here ``scene.tuned``, which is also ``scene.base``, holds a part of the images. Its answers stay where ``score``
        finds them when it asks the same of all images. A metric without this is computed by one process alone.
        """
        return

    @classmethod
    def depends(cls, scene: Scene) -> Any:
        """What an answer depends on beside images, prompts and the trained reward, as plain data: reference statistics,
        weights found on this machine. Cached answers are looked up by it; asked without loading a network."""
        return None
