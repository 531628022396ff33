"""Arrays: equal resources together, split at the cluster's size, a walltime that says where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.launch.base import Estimate, Job
from bench.launch.slurm_arrays import choose_partition, make_arrays
from bench.launch.slurm_cluster import ClusterFacts, Partition, _gpus, _minutes, _partitions
from bench.launch.slurm_settings import SlurmSettings

GPU = Partition("gpu", True, 64_000, 32, 4, 8, None)
FACTS = ClusterFacts("test", 1001, 10_000, True, {"gpu": GPU, "short": replace(GPU, name="short", max_min=120)})


def jobs(n: int, tuning_s: float = 3600.0, scoring_s: float = 1200.0, processes: int = 1) -> list[Job]:
    estimate = Estimate(tuning_s, "measured", scoring_s, "measured")
    return [Job(Path(f"/runs/s/t/{processes}-{i}"), 86_400.0, processes, "cuda", estimate=estimate) for i in range(n)]


def test_equal_resources_share_an_array_and_others_do_not() -> None:
    one, four = jobs(3), jobs(2, processes=4)
    arrays = make_arrays([one[0], four[0], *one[1:], four[1]], SlurmSettings(cpus=2), FACTS)
    assert [[j.folder.name for j in a.jobs] for a in arrays] == [["1-0", "1-1", "1-2"], ["4-0", "4-1"]]
    assert [(a.resources.gpus_per_node, a.resources.cpus_per_task) for a in arrays] == [(1, 2), (4, 8)]


def test_no_array_is_larger_than_the_cluster_takes() -> None:
    arrays = make_arrays(jobs(23), SlurmSettings(), replace(FACTS, max_array=10))
    assert [len(a.tasks) for a in arrays] == [10, 10, 3]
    assert [j for a in arrays for j in a.jobs] == jobs(23)


def test_packed_runs_share_the_gpu_and_add_up_cpus_and_memory() -> None:
    (array,) = make_arrays(jobs(7), SlurmSettings(pack=3, cpus=2, mem_gb=8), FACTS)
    assert [len(task) for task in array.tasks] == [3, 3, 1]
    r = array.resources
    assert (r.gpus_per_node, r.cpus_per_task, r.mem_gb) == (1, 6, 24)
    (alone,) = make_arrays(jobs(7), SlurmSettings(cpus=2), FACTS)
    assert r.time_min > 2.5 * alone.resources.time_min


def test_the_walltime_is_set_up_plus_budget_with_margin_plus_scoring() -> None:
    (array,) = make_arrays(jobs(1), SlurmSettings(), FACTS)
    # 5 + 1.25 * 60 + 1.25 * 20 = 105
    assert array.resources.time_min == 105
    for part in ("5 min set-up", "75 min tuning (measured, margin 1.25)", "25 min images and scores (measured)"):
        assert part in array.why
    expected, most = array.gpu_hours()
    assert expected == pytest.approx(105 / 60 / 1.25)
    assert most == pytest.approx(105 / 60)


def test_tuning_is_never_given_more_than_its_hard_limit() -> None:
    (job,) = jobs(1, tuning_s=3600)
    (array,) = make_arrays([replace(job, hard_wall_s=1800.0)], SlurmSettings(), FACTS)
    assert "30 min tuning" in array.why


def test_a_partition_that_is_too_short_continues_in_several_allocations() -> None:
    (array,) = make_arrays(jobs(1, tuning_s=6 * 3600.0), SlurmSettings(partition="short"), FACTS)
    r = array.resources
    assert r.time_min == 120
    # 5 + 450 + 25 min of work; 120 min less 2 min of warning and the minute that Slurm may be early
    assert r.n_allocations == 5
    assert "allows 120 min" in array.why
    assert "5 allocations" in array.why


def test_of_several_partitions_the_largest_node_and_the_shortest_limit_count() -> None:
    facts = replace(FACTS, partitions={**FACTS.partitions, "small": replace(GPU, name="small", max_min=30, gpus=1)})
    found = choose_partition(SlurmSettings(partition="small,gpu,short"), facts)
    assert found is not None
    assert (found.gpus, found.max_min) == (4, 30)
    unlimited = choose_partition(SlurmSettings(partition="gpu"), facts)
    assert unlimited is not None
    assert unlimited.max_min is None


@pytest.mark.parametrize(("minutes", "warning_s"), [(1, 20), (3, 60), (6, 120), (600, 120)])
def test_short_limits_leave_time_to_work(minutes: int, warning_s: int) -> None:
    (array,) = make_arrays(jobs(1), SlurmSettings(time_min=minutes), FACTS)
    assert array.resources.signal_s == warning_s
    assert (array.resources.n_allocations > 1) == (minutes < 105)


def test_split_stages_ask_for_the_gpus_only_while_they_work() -> None:
    tune, evaluate = make_arrays(jobs(3, processes=4), SlurmSettings(stages="split"), FACTS)
    assert tune.tasks == evaluate.tasks
    assert [a.resources.gpus_per_node for a in (tune, evaluate)] == [4, 1]
    assert "images" not in tune.why
    assert "tuning" not in evaluate.why


def test_images_made_in_parts_are_expected_once() -> None:
    """The last job is given the time to make them all, and hardly ever needs it."""
    (whole,) = make_arrays(jobs(1), SlurmSettings(), FACTS)
    arrays = make_arrays(jobs(1), SlurmSettings(stages="split", shards=4), FACTS)
    assert [a.resources.stage for a in arrays] == ["tune", *["generate"] * 4, "evaluate"]
    expected = sum(a.gpu_hours()[0] for a in arrays)
    # 5 min of set-up in each of six jobs, in place of one
    assert expected == pytest.approx(whole.gpu_hours()[0] + 5 * 5 / 1.25 / 60)
    assert arrays[-1].resources.time_min == 30, "5 min and all images with margin"


def test_processes_spread_over_nodes_evenly() -> None:
    (array,) = make_arrays(jobs(1, processes=8), SlurmSettings(nodes=2, cpus=3), FACTS)
    r = array.resources
    assert (r.nodes, r.tasks_per_node, r.gpus_per_node, r.cpus_per_task) == (2, 4, 4, 3)
    with pytest.raises(UserError, match="at most 8 nodes"):
        make_arrays(jobs(1, processes=16), SlurmSettings(nodes=16), FACTS)
    with pytest.raises(UserError, match="as many processes on each node"):
        make_arrays(jobs(1, processes=3), SlurmSettings(nodes=2), FACTS)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (SlurmSettings(partition="gqu"), "slurm.partition=gpu"),
        (SlurmSettings(mem_gb=128), "at most 64000 MB"),
        (SlurmSettings(cpus=64), "slurm.cpus=32"),
        (SlurmSettings(gpus=8), "at most 4 GPUs"),
    ],
)
def test_what_no_node_has_is_refused_with_what_there_is(settings: SlurmSettings, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_arrays(jobs(1), settings, FACTS)


def test_sinfo_is_read_with_all_its_oddities() -> None:
    found = _partitions("gpu*|64000+|32+|gpu:a100:4(S:0-1),shard:8|1-00:00:00|3\ngpu*|32000|16|gpu:2|1-00:00:00|2\n"
                        "cpu|8000|64|(null)|30:00|10\n")  # fmt: skip
    assert found["gpu"] == Partition("gpu", True, 64_000, 32, 4, 5, 1440)
    assert found["cpu"] == Partition("cpu", False, 8000, 64, 0, 10, 30)
    assert _minutes("infinite") is None
    assert _minutes("2-12:30:00") == 3630
    assert _gpus("gpu:h100:4,gpu:mig:2") == 6
