"""Options to plan: the one place where options meet. Reads, decides, and writes nothing."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import registry
from bench.core.afford import shortfalls
from bench.core.contract import Setup, Tuner, changed_settings
from bench.core.errors import UserError, unknown_name
from bench.core.identity import digest, file_sha256
from bench.core.judging import Judging
from bench.core.types import RunSpec, Suite, SuiteSpec
from bench.engine.choosing import ChosenTuner, names, parse_budget, parse_fractions, parse_seeds, tuners_of
from bench.engine.options import Options
from bench.engine.protocol import at_scale, parse_protocol, with_protocol
from bench.metrics.choice import check_used, with_metrics
from bench.store import atomic
from bench.store.runs import RunFolder, run_folder
from bench.tiny import is_tiny_world

if TYPE_CHECKING:
    from bench.diffusion.sources import ModelSource


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan: what, where, whether it is done, and what would stop it."""

    spec: RunSpec
    suite: Suite
    folder: RunFolder
    settings: Mapping[str, Any]
    """Every setting, defaults included."""
    state: str
    """``done`` · ``failed`` · ``diverged`` · ``started`` · ``to do``"""
    tuner_ref: str
    """What ``registry.find`` takes: a name or an absolute path."""
    model_ref: str
    """What ``load_model`` takes: a name or a folder."""
    problems: tuple[str, ...]
    """What would fail later, each with what to do; empty when the run can start."""
    judging: Judging = field(default_factory=Judging)
    absences: tuple[str, ...] = ()
    """Judges and metrics that the record will call absent, as this machine lacks their weights or data."""


@dataclass(frozen=True)
class Plan:
    """Runs in the order they will be carried out."""

    runs: tuple[PlannedRun, ...]
    broken: tuple[str, ...] = ()
    """Installed tuners that do not load, each with the reason; only ``all`` passes over them."""
    skip_invalid: bool = False
    """Whether runs that cannot start are left out instead of stopping the others."""

    @property
    def left_out(self) -> list[str]:
        """What is left out and why, one sentence each."""
        if not self.skip_invalid:
            return []
        return [*self.broken, *dict.fromkeys(problem for run in self.runs for problem in run.problems)]

    def to_start(self) -> tuple[PlannedRun, ...]:
        """The runs that a launcher is given.

        Raises:
            UserError: a run cannot start, and leaving it out was not asked for; or none can.
        """
        kept = tuple(run for run in self.runs if not run.problems)
        if len(kept) < len(self.runs) and not (self.skip_invalid and kept):
            others = " (--skip-invalid carries out the others)" if kept else ""
            raise UserError(self.problems[0], valid=f"{len(self.problems)} problem(s) in this plan{others}")
        return kept

    @property
    def absences(self) -> list[str]:
        """What the records will call absent, one sentence each, with the command that changes it."""
        return list(dict.fromkeys(sentence for run in self.runs for sentence in run.absences))

    @property
    def problems(self) -> list[str]:
        seen: dict[str, None] = {}
        for run in self.runs:
            seen.update(dict.fromkeys(run.problems))
        return list(seen)


def make_plan(options: Options) -> Plan:
    """The runs that ``options`` ask for.

    Raises:
        UserError: unknown names (with the closest), invalid values, unreadable data.
    """
    # suites and tuners first: the cheapest mistakes to make are names
    suites = [_suite(name, options) for name in names(options.suite, "suite")]
    tuners, broken = tuners_of(options)
    seeds = parse_seeds(options.seeds)
    grounds = [_ground(suite, options) for suite in suites]
    runs = [_run(ground, tuner, seed, options) for ground in grounds for tuner in tuners for seed in seeds]
    check_used(
        dict.fromkeys(name for run in runs for name in run.spec.metrics), judges=options.judges, vqa=options.vqa,
        questions=options.questions, reference=options.reference, subject=options.subject, embedder=options.embedder,
    )  # fmt: skip
    # "all" names no tuner, so one that does not fit this suite or reward is no mistake of the user
    skip_invalid = options.skip_invalid or options.tuner == "all"
    return Plan(tuple({run.spec.run_id: run for run in runs}.values()), broken, skip_invalid)


def _suite(name: str, options: Options) -> Suite:
    import suites

    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit} leaves no prompts", valid="a whole number from 1")
    known = registry.entries("suites")
    base, variant = suites.resolve(name)
    if known and base not in known:
        raise unknown_name("suite", base, known, "bench list suites")
    make = registry.load("suites", base)
    edition = suites.edition_of(base, variant, options.edition)
    chosen = {} if options.train_list is None else {"train_list": options.train_list}
    if chosen and "train_list" not in inspect.signature(make).parameters:
        raise UserError(f"the suite {base} has training prompts of its own and takes no list", hint="no --train-list")
    found = make(edition, variant=variant, data_dir=options.data, limit=options.limit, **chosen)
    assert isinstance(found, Suite)
    # before the questions: they are looked for where TIFA is measured
    found = with_metrics(with_protocol(found, parse_protocol(options.protocol)), options.metrics)
    return suites.with_questions(found, options.questions, options.data)


@dataclass(frozen=True)
class _Ground:
    """What all runs on one suite share, looked at once: a thousand seeds would read the same files a thousand times."""

    suite: Suite
    source: ModelSource
    judging: Judging
    problems: tuple[str, ...]
    leaks: tuple[str, ...]
    absences: tuple[str, ...]


def _ground(suite: Suite, options: Options) -> _Ground:
    from bench.diffusion.sources import find_source
    from bench.metrics.requirements import absences, missing

    source = find_source(options.model or suite.spec.model)
    suite = with_metrics(at_scale(suite, source.name, own_budget=bool(options.budget)), options.metrics)
    s = suite.spec
    _check_batches(s, options)
    if source.sampler(s.sampler) != s.sampler:
        note = f"flow-euler instead of {s.sampler.scheduler}: {source.name} is a flow model, which takes no other"
        suite = dataclasses.replace(suite, notes=(*suite.notes, note))
    judging = options.judging(source.name, s)
    problems = (*_missing_model(source), *missing(s.metrics, suite, judging))
    return _Ground(suite, source, judging, problems, tuple(_leaks(suite)), tuple(absences(s.metrics, suite, judging)))


def _leaks(suite: Suite) -> list[str]:
    from suites import leaks

    leaked = leaks(suite.train_prompts, suite.prompts)
    if not leaked:
        return []
    n_literal = sum(leak.literal for leak in leaked)
    return [
        f"{len(leaked)} training prompts of {suite.spec.id} are evaluation prompts ({n_literal} literally, the "
        f"others after lower-casing and dropping final stops), such as {leaked[0].train_id}: {leaked[0].text[:60]}"
    ]


def _run(ground: _Ground, tuner: ChosenTuner, seed: int, options: Options) -> PlannedRun:
    from rewards import expression

    source, suite, s = ground.source, ground.suite, ground.suite.spec
    own = tuner.cls.trained_reward(tuner.config, source.name)
    reward = expression.canonical(options.reward or own or s.reward)
    spec = RunSpec(
        suite=s.id, suite_name=s.name, edition=s.edition, variant=s.variant, prompt_hash=s.prompt_hash,
        train_prompt_hash=s.train_prompt_hash, limit=s.limit, model=source.name, model_revision=source.revision(),
        model_defaults=dict(source.tuning_defaults),
        tuner=tuner.cls.name, tuner_version=tuner.cls.version, label=tuner.label, tuner_sha256=tuner.file_sha256,
        settings=changed_settings(tuner.cls, tuner.config), reward=reward, reward_revision=_reward_revision(reward)[0],
        budget=parse_budget(options.budget, s.budget, options.hard_limit_s), sampler=source.sampler(s.sampler),
        train_sampler=source.sampler(s.train_sampler), global_batch=s.global_batch, eval_seeds=s.eval_seeds,
        fractions=parse_fractions(options.fractions, s.fractions),
        metrics=s.metrics, seed=seed, files=_digests(tuner.cls.files(tuner.config)), train_list=suite.train_list,
        protocol=parse_protocol(options.protocol), recipe=options.recipe,
    )  # fmt: skip
    if _fits_its_own(tuner, source) and not is_tiny_world(source.name):
        # the suite's reward judges like any other: its weights, which may come later, change no answer. The tiny
        # world's stand in ids that are out
        spec = dataclasses.replace(spec, reward_revision="")
    folder = run_folder(options.runs, spec)
    return PlannedRun(
        spec=spec, suite=suite, folder=folder, settings=_resolved(tuner.config, source), state=state_of(folder),
        tuner_ref=tuner.ref, model_ref=_absolute(options.model or s.model),
        problems=(*_unused_reward(tuner, source, options), *_problems(ground, tuner, spec)),
        judging=ground.judging, absences=ground.absences,
    )  # fmt: skip


def _digests(paths: Sequence[Path]) -> dict[str, str]:
    """Digest of what each path holds; "" for one that is not there, which is a problem that the tuner states."""
    from bench.diffusion.sources import folder_digest

    found = {}
    for path in paths:
        found[str(path)] = folder_digest(path) if path.is_dir() else file_sha256(path)[:16] if path.is_file() else ""
    return found


def _check_batches(s: SuiteSpec, options: Options) -> None:
    B, n, m = s.global_batch, options.processes, options.micro_batch
    if n < 1 or B % n:
        divisors = [k for k in range(1, B + 1) if B % k == 0]
        raise UserError(f"--processes {n} does not divide the global batch of {s.id}, which is {B} samples",
                        valid=", ".join(map(str, divisors)))  # fmt: skip
    if m is not None and not 1 <= m <= B // n:
        raise UserError(f"--micro-batch {m} with a global batch of {B} and {n} process(es)",
                        valid=f"a whole number from 1 to {B // n}")  # fmt: skip


@functools.cache
def _reward_revision(reward: str) -> tuple[str, UserError | None]:
    """What pins a reward, a digest over its identity, weights included; or why it does not load."""
    from rewards import expression

    try:
        return digest(expression.load_reward(reward, prepare=False).identity(), 12), None
    except UserError as err:
        return "", err


def _resolved(config: Any, source: ModelSource) -> dict[str, Any]:
    """Every setting as the tuner will use it: 0 where the model has a default is that default."""
    return {k: v or source.tuning_defaults.get(k, v) for k, v in dataclasses.asdict(config).items()}


def _absolute(model: str) -> str:
    """A model reference that means the same in a worker started elsewhere."""
    name, sign, folder = model.partition("=")
    if sign:
        return f"{name}={Path(folder).resolve()}"
    return str(Path(name).resolve()) if Path(name, "model_index.json").is_file() else name


def state_of(folder: RunFolder) -> str:
    """What the run folder says of itself."""
    if folder.record_path.exists():
        return folder.read_record().status
    return "started" if folder.spec_path.exists() else "to do"


def _problems(ground: _Ground, tuner: ChosenTuner, spec: RunSpec) -> list[str]:
    from rewards import expression

    suite, source = ground.suite, ground.source
    problems = [*ground.problems, *_sampler_problems(spec, source)]
    setup = Setup(
        train_sampler=spec.train_sampler, sampler=spec.sampler, global_batch=spec.global_batch, budget=spec.budget,
        n_train_prompts=len(suite.train_prompts), reward=spec.reward, model=spec.model, seed=spec.seed,
    )  # fmt: skip
    problems += [f"{tuner.label}: {problem}" for problem in tuner_problems(tuner.cls, tuner.config, setup)]
    if source.is_flow and "attention" in tuner.cls.needs_of(tuner.config):
        problems.append(
            f"{tuner.label} leads the attention of a U-Net, and {source.name} is a transformer that reads image and "
            "text as one: settings without that stage (bench show tuner), or a U-Net (bench list models)"
        )
    if _fits_its_own(tuner, source):
        return [*problems, *ground.leaks]
    terms = [name for _, name in expression.parse(spec.reward)]
    _, missing_reward = _reward_revision(spec.reward)
    if missing_reward:
        return [*problems, str(missing_reward)]
    texts = [p.text for p in suite.train_prompts]
    problems += [problem for name in terms for problem in expression.class_of(name).prompt_problems(texts)]
    black_box = [name for name in terms if not expression.class_of(name).differentiable]
    if black_box and "differentiable-reward" in tuner.cls.needs_of(tuner.config):
        problems.append(
            f"{tuner.label} propagates gradients through the reward and {black_box[0]!r} has none: "
            "choose a differentiable reward (bench list rewards)"
        )
    return [*problems, *ground.leaks]


def tuner_problems(cls: type[Tuner], config: Any, setup: Setup) -> list[str]:
    """What would make this run of a tuner fail: its own reasons, or else a budget without room for one update."""
    # the cost of wrong settings is not known
    return cls.problems(config, setup) or shortfalls(cls.first_update(config, setup), setup.budget)


def _fits_its_own(tuner: ChosenTuner, source: ModelSource) -> bool:
    """Whether the run's reward only judges."""
    return tuner.cls.own_reward_family(tuner.config, source.name) is not None


def _unused_reward(tuner: ChosenTuner, source: ModelSource, options: Options) -> list[str]:
    """A reward that the user named and that would not be tuned for."""
    if options.reward is None or not _fits_its_own(tuner, source):
        return []
    return [
        f"{tuner.label} tunes for a reward that it fits itself, and for no other: leave --reward {options.reward} out"
    ]


def _sampler_problems(spec: RunSpec, source: ModelSource) -> list[str]:
    """What keeps the suite's samplers from running on the model's noise schedule, or, where its files are not here, on
    any of a thousand steps."""
    from bench.diffusion.samplers import check_sampler

    path = source.file("scheduler/scheduler_config.json")
    unknown = {"num_train_timesteps": 1000, "_class_name": "FlowMatchEulerDiscreteScheduler" if source.is_flow else ""}
    config = atomic.read_json(path) if path is not None else unknown
    problems: dict[str, None] = {}
    for sampler in (spec.train_sampler, spec.sampler):
        try:
            check_sampler(sampler, config)
        except UserError as err:
            problems[str(err)] = None
    return list(problems)


def _missing_model(source: ModelSource) -> list[str]:
    """What keeps the base model from loading here."""
    if source.is_folder:
        return []
    if Path(source.location).is_absolute():
        return [f"the files of model {source.name!r} are not in {source.location}"]
    if source.file("model_index.json") is not None:
        return []
    facts = ", ".join(filter(None, (source.location + source.at_revision(), source.licence)))
    known = source.name in registry.entries("models")
    fetch = f"bench assets fetch {source.asset.name}, or " if source.asset else ""
    other, how = ("", f"{source.name}=FOLDER") if known else (", and there is no such folder", "FOLDER")
    return [f"the files of model {source.name!r} ({facts}) are not on this machine{other}: {fetch}--model {how} with a "
            "copy of them"]  # fmt: skip


def packages() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("tunebench", "torch", "diffusers", "transformers", "peft", "numpy", "pillow", "torchmetrics", "scipy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
