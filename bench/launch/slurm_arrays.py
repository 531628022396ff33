"""Jobs to arrays: what each run asks of the cluster, for how long and why, grouped by equal resources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from bench.core.errors import UserError
from bench.launch.base import Estimate, Job
from bench.launch.slurm_cluster import ClusterFacts, Partition, unknown_partition
from bench.launch.slurm_settings import SlurmSettings

T = TypeVar("T")

SETUP_S = 300.0
"""Until tuning starts: the environment, Python's imports and the model from a file system that many read at once."""
MARGIN = 1.25
"""Over the estimate: checkpoints, a slower node, a busy file system."""
ROUND_MIN = 5
SIGNAL_MAX_S = 120
SLURM_EARLY_S = 60.0
"""Slurm may send the signal that much earlier than asked."""
MAX_PREEMPTIONS = 10
"""How often a run may be sent back beside what its walltime makes necessary: submitit counts a signal late in a job,
and with limits of 10 minutes or less any signal, as a time-out."""


@dataclass(frozen=True)
class Resources:
    """What one job asks for."""

    stage: str
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus_per_task: int
    mem_gb: float
    time_min: int
    signal_s: int
    n_allocations: int
    """How many walltimes the work needs; more than 1 where the partition's longest is too short for it."""

    def text(self) -> str:
        memory = f", {self.mem_gb:g} GB" if self.mem_gb else ""
        nodes = f"{self.nodes} nodes x {self.tasks_per_node} tasks, each " if self.nodes > 1 else ""
        return f"{nodes}{self.gpus_per_node} GPU, {self.cpus_per_task} CPU{memory}"


@dataclass(frozen=True)
class Array:
    """One array to submit."""

    resources: Resources
    tasks: tuple[tuple[Job, ...], ...]
    """The runs of each task."""
    shard: tuple[int, int]
    """Which part of its runs' images it makes, of how many; (0, 1) where it makes all, or none."""
    why: str
    """How the walltime came about."""
    expected_s: float
    """Of one task."""

    @property
    def jobs(self) -> list[Job]:
        return [job for task in self.tasks for job in task]

    def gpu_hours(self) -> tuple[float, float]:
        """(expected, at most: every task until its walltime)."""
        r = self.resources
        gpus = r.nodes * r.gpus_per_node * len(self.tasks)
        return gpus * self.expected_s / 3600.0, gpus * r.n_allocations * r.time_min / 60.0


@dataclass(frozen=True)
class Need:
    """What one run asks for in one stage."""

    resources: Resources
    why: str
    expected_s: float


def make_arrays(jobs: Sequence[Job], settings: SlurmSettings, facts: ClusterFacts) -> list[Array]:
    """``jobs`` in their order, equal resources together, no array larger than the cluster takes.

    With split stages an array of tuning is followed by those that make parts of the images, where there are such, and
    by that of images and scores; all with the same tasks at the same places.

    Raises:
        UserError: what they ask for is nowhere in the partition.
    """
    partition = choose_partition(settings, facts)
    stages = _stages(settings)
    groups: dict[tuple[Resources, ...], list[tuple[Job, list[Need]]]] = {}
    for job in jobs:
        needs = [_need(job, stage, settings, partition) for stage, _ in stages]
        groups.setdefault(tuple(need.resources for need in needs), []).append((job, needs))
    arrays = []
    for resources, members in groups.items():
        for asked in resources:
            check(asked, partition, facts)
        tasks = [tuple(job for job, _ in part) for part in _chunks(members, settings.pack)]
        longest = [max((needs[k] for _, needs in members), key=lambda n: n.expected_s) for k in range(len(stages))]
        for part in _chunks(tasks, facts.max_array):
            arrays += [
                Array(n.resources, tuple(part), shard, n.why, n.expected_s)
                for n, (_, shard) in zip(longest, stages, strict=True)
            ]
    return arrays


def _stages(s: SlurmSettings) -> list[tuple[str, tuple[int, int]]]:
    """(stage, part of the images) of each job of a run, in order."""
    whole = (0, 1)
    if s.stages == "one":
        if s.shards > 1:
            raise UserError(f"--set slurm.shards={s.shards} with stages in one job",
                            valid="several processes of one job share its images by themselves (--processes)",
                            hint=f"--set slurm.stages=split --set slurm.shards={s.shards}")  # fmt: skip
        return [("all", whole)]
    parts = [("generate", (k, s.shards)) for k in range(s.shards)] if s.shards > 1 else []
    return [("tune", whole), *parts, ("evaluate", whole)]


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def choose_partition(settings: SlurmSettings, facts: ClusterFacts, key: str = "partition") -> Partition | None:
    """The partition that was named, or the cluster's default; None where there is neither, as Slurm then says.

    Of several names with commas Slurm takes the one that starts first: a job must be no larger than the largest allows,
    and no longer than the shortest limit, as it may come into any.
    """
    if not settings.partition:
        return facts.default
    named = []
    for name in settings.partition.split(","):
        if name not in facts.partitions:
            raise unknown_partition(name, facts, key)
        named.append(facts.partitions[name])
    limits = [p.max_min for p in named if p.max_min is not None]
    largest = max(named, key=lambda p: (p.gpus, p.memory_mb, p.cpus))
    return replace(largest, name=settings.partition, max_min=min(limits, default=None))


def _need(job: Job, stage: str, s: SlurmSettings, partition: Partition | None) -> Need:
    alone = stage in ("generate", "evaluate")
    processes = 1 if alone else job.processes
    nodes = 1 if alone else s.nodes
    if processes % nodes or (nodes > 1 and s.pack > 1):
        raise UserError(f"--set slurm.nodes={nodes} with --processes {processes} and slurm.pack={s.pack}",
                        valid="as many processes on each node, and one run a job")  # fmt: skip
    gpus = s.gpus if s.gpus >= 0 and not alone else 0 if job.device == "cpu" else processes
    if alone and s.gpus == 0:
        gpus = 0
    needs_s, why = _seconds(job, stage, s.pack if gpus else 1, s.shards)
    time_min, signal_s, n, limited = _walltime(needs_s, s, partition)
    resources = Resources(
        stage=stage, nodes=nodes, tasks_per_node=processes // nodes if nodes > 1 else 1, gpus_per_node=gpus // nodes,
        cpus_per_task=s.cpus * s.pack * (1 if nodes > 1 else processes), mem_gb=s.mem_gb * s.pack, time_min=time_min,
        signal_s=signal_s, n_allocations=n,
    )  # fmt: skip
    expected_s = needs_s
    if stage == "evaluate" and s.shards > 1:
        # it has time to make all images should their jobs have failed; expected is that these have made them
        expected_s = SETUP_S
    return Need(resources, f"{why}{limited}", expected_s / MARGIN)


def _seconds(job: Job, stage: str, sharing: int, shards: int) -> tuple[float, str]:
    """Wall-clock seconds that a stage may take, and how they come about.

    Args:
        sharing: runs that take turns on the same GPUs.
        shards: parts that images are made in; the last stage is given the time to make them all, should none be there.
    """
    e = job.estimate or Estimate(job.hard_wall_s, "the hard limit", 0.0, "unknown")
    parts = [("set-up", SETUP_S, "")]
    if stage in ("tune", "all"):
        tuning_s = min(e.tuning_s * MARGIN, job.hard_wall_s)
        parts.append(("tuning", tuning_s * sharing, f" ({e.tuning_why}, margin {MARGIN:g})"))
    if stage == "generate":
        parts.append((f"images, one part of {shards}", e.scoring_s * MARGIN * sharing / shards, f" ({e.scoring_why})"))
    elif stage != "tune":
        parts.append(("images and scores", e.scoring_s * MARGIN * sharing, f" ({e.scoring_why})"))
    shared = f"; {sharing} runs share the GPU" if sharing > 1 else ""
    return sum(s for _, s, _ in parts), " + ".join(f"{s / 60:.0f} min {what}{why}" for what, s, why in parts) + shared


def _walltime(needs_s: float, s: SlurmSettings, partition: Partition | None) -> tuple[int, int, int, str]:
    """(minutes, seconds of warning, allocations, what limited it)."""
    wanted = s.time_min or ROUND_MIN * math.ceil(needs_s / 60.0 / ROUND_MIN)
    longest = partition.max_min if partition else None
    minutes = wanted if longest is None else min(wanted, longest)
    signal_s = s.signal_s or min(SIGNAL_MAX_S, 60 * minutes // 3)
    usable_s = max(60.0 * minutes - signal_s - SLURM_EARLY_S, 15.0)
    n = math.ceil(needs_s / usable_s) if minutes < wanted or needs_s > 60 * minutes else 1
    limited = "" if not s.time_min else f"; slurm.time_min = {s.time_min} was asked for"
    if partition and minutes < wanted:
        limited += f"; partition {partition.name} allows {minutes} min"
    if n > 1:
        limited += f"; the run is continued in about {n} allocations"
    return minutes, signal_s, n, limited


def check(r: Resources, partition: Partition | None, facts: ClusterFacts) -> None:
    """Raises UserError where no node of the partition is large enough: Slurm refuses that, or waits for ever."""
    if partition is None:
        return
    where = f"of partition {partition.name} on cluster {facts.name}"
    cpus = r.cpus_per_task * r.tasks_per_node
    for asked, has, what, key in (
        (r.mem_gb * 1024, partition.memory_mb, "MB of memory", "mem_gb"),
        (cpus, partition.cpus, "CPUs", "cpus"),
        (r.gpus_per_node, partition.gpus, "GPUs", "gpus"),
        (r.nodes, partition.n_nodes, "nodes", "nodes"),
    ):
        if asked > has:
            most = f"{has // 1024}" if key == "mem_gb" else f"{has * r.cpus_per_task // cpus}" if key == "cpus" else has
            others = [p.name for p in facts.partitions.values() if _holds(p, r)]
            raise UserError(
                f"a job of {asked:.0f} {what} a node fits no node {where}" if what != "nodes"
                else f"a job of {asked} nodes does not fit {where}",
                valid=f"at most {has} {what}" + (f"; partition {', '.join(others)} has them" if others else ""),
                hint=f"--set slurm.partition={others[0]}" if others else f"--set slurm.{key}={most}",
            )  # fmt: skip


def _holds(p: Partition, r: Resources) -> bool:
    return (p.memory_mb >= r.mem_gb * 1024 and p.cpus >= r.cpus_per_task * r.tasks_per_node
            and p.gpus >= r.gpus_per_node and p.n_nodes >= r.nodes)  # fmt: skip
