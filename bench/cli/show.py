"""``bench show``: everything about one suite, tuner, reward, run or file format."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from bench.cli import _options as o

KINDS = ("suite", "tuner", "reward", "run", "schema")


@click.command()
@click.argument("kind")
@click.argument("name")
@o.edition
@o.data
@o.runs
@o.as_json
def show(kind: str, name: str, edition: str, data: Path | None, runs: Path, json: bool) -> int:
    """Show one suite, tuner, reward or run in full, or the JSON Schema of a file: bench show schema record."""
    from bench.cli._output import print_json
    from bench.core.errors import unknown_name

    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS, "bench show suite coco")
    if kind == "suite":
        facts = _suite(name, edition, data)
    elif kind == "tuner":
        from bench.cli import _tuner_page
        from bench.engine.plan import choose_tuner

        facts = _tuner_page.facts(choose_tuner(name))
        if not json:
            print(_tuner_page.text(facts))
            return 0
    elif kind == "reward":
        facts = _reward(name)
    elif kind == "schema":
        print_json(_schema(name))
        return 0
    else:
        from bench.store.runs import find_run

        facts = find_run(runs, name).read_record().model_dump(mode="json", by_alias=True)
    if json:
        print_json(facts)
    else:
        _print(facts)
    return 0


def _suite(name: str, edition: str, data: Path | None) -> dict[str, Any]:
    import suites
    from bench.core import registry

    base, variant = suites.resolve(name)
    suite = registry.load("suites", base)(edition, variant=variant, data_dir=data, limit=None)
    tags: dict[str, dict[str, int]] = {}
    for prompt in suite.prompts:
        for key, value in prompt.tags.items():
            counts = tags.setdefault(key, {})
            counts[value] = counts.get(value, 0) + 1
    return {
        **dataclasses.asdict(suite.spec), "budget": suite.spec.budget.to_json(), "id": suite.spec.id,
        "n_questions": len(suite.questions), "notes": list(suite.notes),
        "tags": {k: v for k, v in tags.items() if len(v) <= 40},
        "examples": [p.text for p in suite.prompts[:3]],
    }  # fmt: skip


def _schema(name: str) -> dict[str, Any]:
    from bench.core.errors import unknown_name
    from bench.core.record import json_schema

    if name != "record":
        raise unknown_name("schema", name, ("record",), "bench show schema record")
    return json_schema()


def _reward(name: str) -> dict[str, Any]:
    from rewards.expression import load_reward

    reward = load_reward(name, "cpu", prepare=False)
    return {
        "name": reward.name, "summary": (type(reward).__doc__ or "").strip().splitlines()[0],
        "differentiable": reward.differentiable, "direction": "minimise" if reward.minimise else "maximise",
        "family": reward.family, "unit": reward.unit, "licence": reward.licence,
        "weights_sha256": reward.weights_sha256, "input_px": reward.input_px or None,
        "range": reward.value_range, "cost_gmac": reward.cost_gmac or None,
    }  # fmt: skip


def _print(value: Any, indent: int = 0) -> None:
    pad = "  " * indent
    for key, item in value.items():
        if isinstance(item, dict) and item:
            print(f"{pad}{key}:")
            _print(item, indent + 1)
        elif isinstance(item, list) and any(isinstance(i, (dict, list)) for i in item):
            print(f"{pad}{key}: {len(item)} entries (see --json)")
        elif isinstance(item, (list, tuple)):
            print(f"{pad}{key}: " + ("; ".join(map(str, item)) if item else "-"))
        else:
            print(f"{pad}{key}: {'-' if item is None or item in ('', {}) else item}")
