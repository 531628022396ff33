"""The score stage: stored images to metric entries. Reads images and index files, never a live model."""

from __future__ import annotations

import dataclasses
import itertools
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import bench
from bench.core import registry
from bench.core.contract import ImageFolder, Measured, Metric, Reward, Scene
from bench.core.errors import UserError
from bench.core.identity import digest
from bench.core.judging import Judging
from bench.core.paired import mean_difference
from bench.core.record import Interval, MetricEntry
from bench.core.types import RunSpec, Suite
from bench.diffusion.sources import folder_digest
from bench.engine.progress import Progress, Stage
from bench.engine.shards import BLOCK, Shard
from bench.metrics.images import ImagesOnDisk
from bench.store import atomic
from bench.store.runs import RunFolder
from bench.tiny import weights_dir
from rewards.expression import canonical, load_reward, parse

BASE = "f000"

Part = tuple[str, ImageFolder, AbstractContextManager[None]]
"""A snapshot's name, a slice of its images, and what to hold while one looks at them."""


@dataclass(frozen=True)
class Trained:
    """What the run was tuned for: decides which judges are held out."""

    names: frozenset[str]
    families: frozenset[str]

    def role(self, judge: str, family: str) -> Literal["trained-on", "related", "held-out"]:
        if judge in self.names:
            return "trained-on"
        return "related" if family and family in self.families else "held-out"


def trained_on(reward: str) -> Trained:
    """Names and families of every term of the run's reward."""
    terms = [load_reward(name, "cpu", prepare=False) for _, name in parse(reward)]
    # a weighted sum is itself a judge: it goes by its whole expression
    names = {canonical(reward), *(name for _, name in parse(reward)), *(term.name for term in terms)}
    return Trained(frozenset(names), frozenset(term.family for term in terms) - {""})


@dataclass
class Scorer:
    """Scores the snapshots of one run, in the order they are given; the base comes first."""

    folder: RunFolder
    spec: RunSpec
    suite: Suite
    cache: Path
    device: str
    progress: Progress
    own_reward_family: str | None = None
    """See ``Tuner.own_reward_family``."""
    related_families: frozenset[str] = frozenset()
    """See ``Tuner.related_families``."""
    own_rewards: Mapping[str, Reward] = field(default_factory=dict)
    """See ``Tuner.own_rewards``."""
    fresh: bool = False
    """Whether cached answers are passed over."""
    judging: Judging = field(default_factory=Judging)
    """Which judges are asked."""

    def score_all(
        self, snapshots: Sequence[tuple[str, Path]], stop: Callable[[], None], *, ends: Collection[str] = ()
    ) -> list[MetricEntry]:
        """Entries of every (snapshot name, image folder); ``curve`` metrics for all, ``final`` ones for the base and
        for ``ends``, by default the last one."""
        if self.own_reward_family is None:
            trained = trained_on(self.spec.reward)
        else:  # the run's reward only judges, if it is here
            trained = Trained(frozenset(self.own_rewards), frozenset({self.own_reward_family}))
        trained = Trained(trained.names, trained.families | self.related_families)
        jobs = self._jobs([name for name, _ in snapshots], ends)
        images: dict[str, ImagesOnDisk | UserError] = {}
        base_values: dict[str, Measured] = {}
        entries: list[MetricEntry] = []
        with self.progress.stage("score", len(jobs), "metrics") as stage:
            for name, metric, plugin in jobs:
                stop()
                if name not in images:
                    images[name] = self._open(dict(snapshots)[name])
                _tell(stage, f"{metric} of {name}", images[name], images[BASE])
                for measured in self._score(metric, plugin, images[name], images[BASE]):
                    entries.append(self._entry(measured, name, trained, base_values.get(measured.name)))
                    if name == BASE:
                        base_values[measured.name] = measured
                stage.advance(1, f"{metric} of {name}")
        return entries

    def look(self, shard: Shard, parts: Sequence[Part], stop: Callable[[], None]) -> None:
        """Asks of a part of the images what ``score_all`` of another process will ask of each by itself.

        Nothing depends on it: what is not there in the end is asked then, and what fails here fails there and is told.
        """
        n_all = len(self.suite.prompts) * len(self.spec.eval_seeds)
        first = shard.images(n_all, BLOCK).start
        by_name = {name: (images, turn) for name, images, turn in parts if images.refs}
        jobs = self._jobs(list(by_name), ()) if by_name else []
        with self.progress.stage(shard.title("score"), len(jobs), "metrics") as stage:
            for name, of_one in itertools.groupby(jobs, key=lambda job: job[0]):
                folder, turn = by_name[name]
                images = ImagesOnDisk(folder, self.cache, first=first, n_all=n_all)
                with turn:
                    for _, metric, plugin in of_one:
                        stop()
                        _tell(stage, f"{metric} of {name}", images)
                        try:
                            plugin.precompute(self._scene(images, images))
                        except Exception as err:
                            self.progress.note(f"{metric} of {name} is left to one process: {err}")
                        stage.advance(1, f"{metric} of {name}")

    def _jobs(self, names: Sequence[str], ends: Collection[str]) -> list[tuple[str, str, Metric]]:
        """(snapshot, metric, its plug-in) to be scored, snapshots outer."""
        ends = ends or [names[-1]]
        plugins = {name: registry.load("metrics", name)() for name in self.spec.metrics}
        return [(name, metric, plugin) for name in names for metric, plugin in plugins.items()
                if plugin.when == "curve" or name == BASE or name in ends]  # fmt: skip

    def _scene(self, tuned: ImagesOnDisk, base: ImagesOnDisk) -> Scene:
        return Scene(suite=self.suite, tuned=tuned, base=base, trained_reward=self.spec.reward, device=self.device,
                     cache_dir=self.cache, own_rewards=self.own_rewards, judging=self.judging)  # fmt: skip

    def _open(self, root: Path) -> ImagesOnDisk | UserError:
        try:
            return ImagesOnDisk(read_checked(root, self.suite), self.cache)
        except UserError as err:
            return err

    def _score(
        self, metric: str, plugin: Metric, tuned: ImagesOnDisk | UserError, base: ImagesOnDisk | UserError
    ) -> list[Measured]:
        """One metric's answers, from the cache where the same images were scored before. A metric that fails is an
        answer too: it says why, and takes nothing else down."""
        try:
            for images in (tuned, base):
                if isinstance(images, UserError):
                    raise images
            assert isinstance(tuned, ImagesOnDisk)
            assert isinstance(base, ImagesOnDisk)
            scene = self._scene(tuned, base)
            key = digest({
                "metric": metric, "bench": bench.__version__, "tuned": tuned.folder.content_hash,
                "base": base.folder.content_hash, "prompts": self.suite.spec.prompt_hash, "reward": self.spec.reward,
                "limit": self.spec.limit, "judges": folder_digest(weights_dir()),
                "judging": self.judging, "depends": plugin.depends(scene),
                "own": {name: dict(reward.identity()) for name, reward in self.own_rewards.items()},
            }, 24)  # fmt: skip
            path = self.cache / "scores" / f"{metric}-{key}.json"
            if path.exists() and not self.fresh:
                return [_measured_from_json(row) for row in atomic.read_json(path)]
            answers = plugin.score(scene)
            atomic.write_json(path, [dataclasses.asdict(a) for a in answers])
            return answers
        except UserError as err:
            return [self._failed(metric, plugin, str(err))]
        except Exception as err:
            self.progress.say(traceback.format_exc())
            return [self._failed(metric, plugin, f"{type(err).__name__}: {err}")]

    def _failed(self, metric: str, plugin: Metric, reason: str) -> Measured:
        return Measured(name=metric, value=None, higher_is_better=plugin.higher_is_better, n=0, warnings=(reason,))

    def _entry(self, m: Measured, snapshot: str, trained: Trained, base: Measured | None) -> MetricEntry:
        failed = m.value is None
        return MetricEntry(
            name=m.name, snapshot=snapshot, value=m.value, ci_low=m.ci_low, ci_high=m.ci_high, n=m.n, unit=m.unit,
            higher_is_better=m.higher_is_better, role=trained.role(m.judge, m.family), judge=m.judge, family=m.family,
            difference=None if snapshot == BASE else self._difference(m, base),
            passport=dict(m.passport), detail=dict(m.detail), scores=self._write_scores(m, snapshot),
            warnings=[] if failed else list(m.warnings), error="; ".join(m.warnings) if failed else None,
        )  # fmt: skip

    def _difference(self, tuned: Measured, base: Measured | None) -> Interval | None:
        """Tuned minus base over images that both have, resampled by prompt."""
        if base is None or tuned.per_image is None or base.per_image is None:
            return None
        clusters = [prompt.id for prompt in self.suite.prompts for _ in self.spec.eval_seeds]
        both = [(a, b, c) for a, b, c in zip(tuned.per_image, base.per_image, clusters, strict=True)
                if a is not None and b is not None]  # fmt: skip
        if not both:
            return None
        a, b, c = zip(*both, strict=True)
        found = mean_difference(a, b, c)
        return Interval(value=found.value, ci_low=found.ci_low, ci_high=found.ci_high)

    def _write_scores(self, m: Measured, snapshot: str) -> str | None:
        if m.per_image is None:
            return None
        path = self.folder.scores / f"{m.name.replace('/', '~')}__{snapshot}.jsonl"
        keys = [(prompt.id, seed) for prompt in self.suite.prompts for seed in self.spec.eval_seeds]
        reasons = m.reasons or ("",) * len(keys)
        rows = [{"prompt_id": p, "seed": s, "value": v, **({"reason": r} if r else {})}
                for (p, s), v, r in zip(keys, m.per_image, reasons, strict=True)]  # fmt: skip
        atomic.write_jsonl(path, rows)
        return path.relative_to(self.folder.root).as_posix()


def _tell(stage: Stage, what: str, *sets: ImagesOnDisk | UserError) -> None:
    """From now on passes over these images are told as a part of ``what``."""
    for images in sets:
        if isinstance(images, ImagesOnDisk):
            images.seen = lambda n_done, n_all: stage.inside(what, n_done, n_all, "images")


def read_checked(root: Path, suite: Suite) -> ImageFolder:
    """The image folder, with one image for every prompt and seed of the suite in suite order.

    Raises:
        UserError: lists the prompts whose images are missing.
    """
    from bench.metrics.images import read_folder

    folder = read_folder(root)
    wanted = [(prompt.id, seed) for prompt in suite.prompts for seed in suite.spec.eval_seeds]
    have = {ref.key: ref for ref in folder.refs}
    missing = [f"{p} (seed {s})" for p, s in wanted if (p, s) not in have]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(wanted)} images are not in {root}/index.jsonl: {', '.join(missing[:20])}"
        )
    return dataclasses.replace(folder, refs=tuple(have[key] for key in wanted))


def _measured_from_json(row: dict[str, Any]) -> Measured:
    values = dict(row)
    for key in ("per_image", "reasons", "warnings"):
        values[key] = None if values[key] is None else tuple(values[key])
    return Measured(**values)
