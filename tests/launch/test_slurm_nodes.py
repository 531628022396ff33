"""One run on two nodes with two tasks each: the answer of one process, up to rounding."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import World
from tests.launch.cluster import Cluster

SITE = Path(__file__).parent / "site"


def run(world: World, cluster: Cluster, *args: str) -> dict[str, Any]:
    """The record of drtune on the quartet suite."""
    words = world.command(*args, "--budget", "steps=2", "--fractions", "0,1")
    command = ["quartet" if word == "micro" else word for word in words]
    path = os.pathsep.join((str(SITE), world.env["PYTHONPATH"]))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300,
                          env={**cluster.env, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (world.runs / "quartet-sample@1" / "drtune").iterdir()
    return {"folder": folder, **json.loads((folder / "record.json").read_text("utf-8"))}


@pytest.mark.slow
def test_two_nodes_with_two_tasks_each_are_one_process(
    slurm: Cluster, world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from safetensors.torch import load_file

    one = run(World(world.model, tmp_path_factory.mktemp("one")), slurm, "--launcher", "local")
    four = run(world, slurm, "--launcher", "slurm", "--wait", "--processes", "4", "--set", "slurm.nodes=2",
               "--set", "slurm.cpus=1", "--set", "slurm.setup=echo node $SLURM_JOB_NODELIST")  # fmt: skip
    assert "node n[1-2]" in next(world.runs.glob(".slurm/*/000/*_0_log.out")).read_text()
    assert four["provenance"]["world_size"] == 4
    # the images too, and what is asked about them: three slices for the first three of the four processes
    log = (four["folder"] / "attempts/001/log.txt").read_text("utf-8")
    assert "generate f100, part 1 of 3: 64/64" in log
    assert "score, part 1 of 3: " in log
    assert "generate f100:" not in log, "another process did not make its part"
    spent = [{k: v for k, v in r["ledger"]["spent"].items() if k != "device_s"} for r in (one, four)]
    assert spent[0] == spent[1]
    adapters = [load_file(r["folder"] / "snapshots/f100/adapter/pytorch_lora_weights.safetensors") for r in (one, four)]
    assert adapters[0].keys() == adapters[1].keys()
    assert max(float((adapters[0][k] - adapters[1][k]).abs().max()) for k in adapters[0]) < 1e-5
    for a, b in zip(one["metrics"], four["metrics"], strict=True):
        assert a["value"] == pytest.approx(b["value"], abs=1e-4)
