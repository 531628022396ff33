"""A whole run as a researcher types it: SD1.5's classes, HPS v2.1's file layout, published prompts; random weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from random_published import NOT_THE_PUBLISHED

REWARD = "hps-v2.1"


@pytest.fixture(scope="module")
def prompts() -> Path:
    """The published prompt files: ``TUNEBENCH_DATA``, else ``../shared/suites-data`` beside the repository."""
    given = os.environ.get("TUNEBENCH_DATA")
    place = Path(given) if given else Path(__file__).parents[2].parent / "shared" / "suites-data"
    if not (place / "hpsv2").is_dir():
        pytest.skip(f"THE PUBLISHED PROMPT FILES ARE NOT HERE ({place}): set TUNEBENCH_DATA to test a full edition")
    return place


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bench.diffusion.random_tiny import save_random_pipeline

    folder = tmp_path_factory.mktemp("sd") / "random"
    save_random_pipeline(folder)
    return folder


class Machine:
    """``bench`` with a models folder and empty caches."""

    def __init__(self, root: Path, models: Path) -> None:
        self.runs = root / "runs"
        self.env = {**os.environ, "TUNEBENCH_MODELS": str(models), "TUNEBENCH_OTHER_WEIGHTS": NOT_THE_PUBLISHED,
                    "XDG_CACHE_HOME": str(root / "cache"), "HF_HUB_CACHE": str(root / "hub"),
                    "OMP_NUM_THREADS": "1"}  # fmt: skip

    def bench(self, command: str, prompts: Path, model: str, *args: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "bench", command, "--suite", "hpsv2", "--edition", "full", "--data", str(prompts),
                "--limit", "2", "--tuner", "drtune", "--model", model, "--reward", REWARD, "--budget", "steps=1",
                "--fractions", "0,1", "--set", "rank=2", "--runs", str(self.runs), *args]  # fmt: skip
        return subprocess.run(line, capture_output=True, text=True, check=False, env=self.env, timeout=580)


@pytest.fixture
def machine(tmp_path: Path, model_folder: Path) -> Machine:
    return Machine(tmp_path, model_folder)


@pytest.mark.slow
def test_from_the_command_to_the_page(machine: Machine, prompts: Path, sd: Path) -> None:
    done = machine.bench("run", prompts, f"sd15={sd}")
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = machine.runs.glob("hpsv2-full*/drtune/*/record.json")
    record = json.loads(path.read_text("utf-8"))
    assert (record["status"], record["spec"]["reward"], record["ledger"]["spent"]["steps"]) == ("done", REWARD, 1)
    (mean,) = [m for m in record["metrics"] if m["name"] == f"reward/{REWARD}" and m["snapshot"] == "f100"]
    assert mean["role"] == "trained-on" and -1 <= mean["value"] <= 1 and mean["unit"].startswith("cosine")
    told = mean["passport"]["reward"]
    assert told["preprocess"]["longest_edge"] == 224 and len(told["weights_sha256"]) == 64
    assert (machine.runs / "leaderboard" / "index.html").is_file()


def test_what_is_missing_is_said_when_it_is_planned(
    machine: Machine, prompts: Path, sd: Path, model_folder: Path, tmp_path: Path
) -> None:
    """Each with the command that gets it, and before anything runs."""
    assert machine.bench("plan", prompts, f"sd15={sd}").returncode == 0
    less = tmp_path / "less"
    shutil.copytree(model_folder, less)
    (less / "HPSv2" / "HPS_v2.1_compressed.pt").unlink()
    machine.env["TUNEBENCH_MODELS"] = str(less)
    planned = machine.bench("plan", prompts, "sd15")
    assert planned.returncode == 1
    for part in ("bench assets fetch sd15", "bench assets fetch hps-v2.1", "xswu/HPSv2"):
        assert part in planned.stdout, planned.stdout
    run = machine.bench("run", prompts, "sd15")
    assert run.returncode == 2
    assert not machine.runs.exists()


def test_a_model_of_the_catalogue_is_found_in_the_models_folder(
    machine: Machine, prompts: Path, sd: Path, model_folder: Path, tmp_path: Path
) -> None:
    """``--model sd15`` alone. What the user put there has the digest of its files as revision, not the hub's commit."""
    own = tmp_path / "own"
    shutil.copytree(model_folder, own)
    shutil.copytree(sd, own / "stable-diffusion-v1-5")
    machine.env["TUNEBENCH_MODELS"] = str(own)
    plans = [json.loads(machine.bench("plan", prompts, model, "--json").stdout) for model in ("sd15", f"sd15={sd}")]
    assert [plan["problems"] for plan in plans] == [[], []]
    assert plans[0]["runs"][0]["run_id"] == plans[1]["runs"][0]["run_id"]
