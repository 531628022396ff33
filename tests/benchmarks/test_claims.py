"""The page of claims: verdicts, and results that outlive the folders of their runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.claims import combined, judge
from benchmarks.claims_results import Results
from benchmarks.papers import CLAIMS


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "undecided"], "undecided"),
        (["undecided", "does not hold"], "does not hold"),
        (["holds", "does not hold"], "holds in part"),
        (["does not hold", "does not hold"], "does not hold"),
    ],
)
def test_a_claim_needs_all_of_its_comparisons(verdicts: list[str], whole: str) -> None:
    assert combined(verdicts) == whole


def planned(root: Path, run_id: str, seed: int) -> Any:
    """As much of a planned run as results look at."""
    record = SimpleNamespace(status="done", provenance=SimpleNamespace(commit="abc"))
    folder = SimpleNamespace(root=root, record_path=root / "record.json", read_record=lambda: record)
    return SimpleNamespace(spec=SimpleNamespace(run_id=run_id, seed=seed, label="raft"), folder=folder)


def test_results_outlive_the_folders_and_give_the_same_verdict(tmp_path: Path) -> None:
    claim = next(c for c in CLAIMS if c.key == "learning-raft")
    (arm,) = claim.arms.values()
    rng = np.random.default_rng(0)
    runs = [planned(tmp_path / f"run{seed}", f"id{seed}", seed) for seed in range(3)]
    for run in runs:
        scores = run.folder.root / "scores"
        scores.mkdir(parents=True)
        base = rng.normal(size=32)
        for snapshot, values in {"f000": base, "f100": base + 1 + 0.01 * rng.normal(size=32)}.items():
            rows = [{"prompt_id": f"{i:02d}", "seed": n, "value": values[i] + n} for i in range(32) for n in (0, 1)]
            (scores / f"reward~tiny-pick__{snapshot}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    results = Results(tmp_path / "claims.jsonl")
    assert judge(claim, {arm: runs}, results)[0] == "not measured"
    for run in runs[:2]:
        run.folder.record_path.write_text("{}")
    verdict, lines, remark = judge(claim, {arm: runs}, results)
    assert (verdict, remark) == ("holds", "2 of 3 seeds, raft seed 2 not run")
    # two noise seeds, averaged: the difference is that of the prompts
    assert lines[0].interval.value == pytest.approx(1, abs=0.01)
    results.save()
    gone = [planned(tmp_path / "nowhere", f"id{seed}", seed) for seed in range(3)]
    assert judge(claim, {arm: gone}, Results(tmp_path / "claims.jsonl")) == (verdict, lines, remark)
