"""From a planned run to a run folder that a worker can carry out with nothing else at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.core.budget import Budget
from bench.core.types import GraphQuestion, Prompt, Question, SamplerSpec, Suite, SuiteSpec
from bench.diffusion.sources import find_source
from bench.engine.plan import PlannedRun
from bench.store import atomic
from bench.store.runs import RunFolder


def suite_files(suite: Suite) -> dict[str, str]:
    """Text by file name: a suite as run folders hold it, made once for all runs of it."""
    return {
        "suite.json": atomic.json_text({**dataclasses.asdict(suite.spec), "notes": list(suite.notes)}),
        "prompts.jsonl": atomic.jsonl_text([dataclasses.asdict(p) for p in suite.prompts]),
        "train.jsonl": atomic.jsonl_text([dataclasses.asdict(p) for p in suite.train_prompts]),
        "questions.jsonl": atomic.jsonl_text([dataclasses.asdict(q) for q in suite.questions]),
    }


def prepare(run: PlannedRun, request: Mapping[str, Any], files: Mapping[str, str] | None = None) -> RunFolder:
    """Writes spec, suite, prompts and the request (how to run it; changes no answer). Safe to repeat.

    Args:
        files: ``suite_files`` of the run's suite, where a caller has many runs of it.
    """
    folder = run.folder
    folder.write_spec(run.spec)
    for name, text in (files or suite_files(run.suite)).items():
        atomic.write_text(folder.root / name, text)
    # the number of threads decides the order of sums: every attempt at a run keeps the first one's
    n_cpus = request.get("cpus") or torch.get_num_threads()
    threads = {"n_threads": find_source(run.model_ref).n_threads or n_cpus, "score_threads": n_cpus}
    if folder.request_path.exists():
        before = atomic.read_json(folder.request_path)
        threads = {key: before[key] for key in threads}
    atomic.write_json(folder.request_path, {
        **request, "tuner": run.tuner_ref, "model": run.model_ref, "settings": run.settings, **threads,
        "runs": str(_runs_of(folder)), "judging": dataclasses.asdict(run.judging),
    })  # fmt: skip
    return folder


def _runs_of(folder: RunFolder) -> Path:
    return folder.root.resolve().parents[2]


def _question(row: Mapping[str, Any]) -> Question:
    values = {**row, "choices": tuple(row["choices"])}
    return GraphQuestion(**{**values, "parents": tuple(row["parents"])}) if "parents" in row else Question(**values)


def read_suite(folder: RunFolder) -> Suite:
    """The suite as it was when the run was planned. Raises UserError when a file of it is damaged."""
    data = atomic.read_json(folder.root / "suite.json")
    notes = tuple(data.pop("notes"))
    data["sampler"] = SamplerSpec(**data["sampler"])
    data["train_sampler"] = SamplerSpec(**data["train_sampler"])
    data["budget"] = Budget.from_json(data["budget"])
    for key in ("eval_seeds", "fractions", "metrics"):
        data[key] = tuple(data[key])
    return Suite(
        spec=SuiteSpec(**data),
        prompts=tuple(Prompt(**row) for row in atomic.read_jsonl(folder.root / "prompts.jsonl")),
        train_prompts=tuple(Prompt(**row) for row in atomic.read_jsonl(folder.root / "train.jsonl")),
        questions=tuple(
            _question(row) for row in atomic.read_jsonl(folder.root / "questions.jsonl")
        ),
        notes=notes,
    )
