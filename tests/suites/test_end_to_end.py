"""Every full edition on its real prompts, from the command line to a page: a random pipeline of Stable Diffusion's
classes, four prompts each, one tiny budget. Skipped without the published files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from suites import _card

NAMES = _card.names()
N_PROMPTS = 4


@pytest.fixture(scope="module")
def runs(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of one command that runs them all, one after the other, in one process."""
    from bench.diffusion.random_tiny import save_random_pipeline

    root = tmp_path_factory.mktemp("all-suites")
    save_random_pipeline(root / "model")
    command = [
        sys.executable, "-m", "bench", "run", "--suite", ",".join(NAMES), "--edition", "full", "--data", str(real),
        "--limit", str(N_PROMPTS), "--model", f"tiny-sd={root / 'model'}", "--tuner", "drtune",
        # four steps of four samples: what is asked of the prompts stays, what costs time goes
        "--budget", "denoiser_u=200", "--fractions", "0,1", "--protocol", "global_batch=4",
        "--protocol", "sampler.n_steps=4", "--protocol", "train_sampler.n_steps=4",
        "--launcher", "inline", "--device", "cpu", "--runs", str(root / "runs"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=580,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_full_edition_runs_to_a_page(name: str, runs: Path) -> None:
    (folder,) = (runs / f"{name}-full@1" / "drtune").iterdir()
    record: dict[str, Any] = json.loads((folder / "record.json").read_text("utf-8"))
    assert record["status"] == "done"
    assert record["ranked"] is False  # four prompts are no result
    _, table = _card.settings(name, "full", "")
    n_images = N_PROMPTS * len(table["eval_seeds"])
    final = [m for m in record["metrics"] if m["snapshot"] == "f100"]
    assert {"clipscore/tiny-clip", "reward/tiny-pick"} <= {m["name"] for m in final}
    assert all(m["n"] == n_images for m in final if m["name"] == "clipscore/tiny-clip")
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text("utf-8").splitlines()]
    assert len(prompts) == N_PROMPTS
    notes = json.loads((folder / "suite.json").read_text("utf-8"))["notes"]
    assert any(note.startswith("limited to the first 4") for note in notes)
    pages = [page for page in (runs / "leaderboard").rglob("*.html") if record["run_id"] in page.read_text("utf-8")]
    assert pages
    assert any(prompts[0]["text"].split()[0] in page.read_text("utf-8") for page in pages)
