"""``bench show``: everything about one suite, tuner, reward, recipe, run or file format."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from bench.cli import _options as o

KINDS = ("suite", "tuner", "reward", "recipe", "run", "schema")


@click.command()
@click.argument("kind")
@click.argument("name")
@o.edition
@o.data
@o.runs
@o.as_json
def show(kind: str, name: str, edition: str | None, data: Path | None, runs: Path, json: bool) -> int:
    """Show one suite, tuner, reward, recipe or run in full, or the JSON Schema of a file: bench show schema record."""
    from bench.cli._output import print_json
    from bench.core.errors import unknown_name

    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS, "bench show suite coco")
    if kind == "suite":
        facts = _suite(name, edition, data)
    elif kind == "tuner":
        from bench.cli import _tuner_page
        from bench.engine.choosing import choose_tuner

        facts = _tuner_page.facts(choose_tuner(name))
        if not json:
            print(_tuner_page.text(facts))
            return 0
    elif kind == "reward":
        facts = _reward(name)
    elif kind == "recipe":
        from bench.cli import _recipe_page

        facts = _recipe_page.facts(name)
        if not json:
            print(_recipe_page.text(facts))
            return 0
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


def _suite(name: str, edition: str | None, data: Path | None) -> dict[str, Any]:
    import suites
    from bench.core import registry

    base, variant = suites.resolve(name)
    edition = suites.edition_of(base, variant, edition)
    suite = registry.load("suites", base)(edition, variant=variant, data_dir=data, limit=None)
    tags: dict[str, dict[str, int]] = {}
    for prompt in suite.prompts:
        for key, value in prompt.tags.items():
            counts = tags.setdefault(key, {})
            counts[value] = counts.get(value, 0) + 1
    return {
        **dataclasses.asdict(suite.spec), "budget": suite.spec.budget.to_json(), "id": suite.spec.id,
        "n_questions": len(suite.questions), "notes": list(suite.notes),
        "scorers": [str(s) for s in suite.scorers],
        "beyond_tiny_models": dataclasses.asdict(suite.scale) | {"budget": suite.scale.budget.to_json()}
        if suite.scale else {},
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
    """What a reward is; where its weights are not here, what its class and the catalogue say of it."""
    from bench.core.errors import UserError
    from rewards.expression import load_reward

    try:
        reward = load_reward(name, "cpu", prepare=False)
    except UserError:
        if (facts := _without_weights(name)) is None:
            raise
        return {**facts, "summary": _summary(name) or facts["summary"]}
    weights = "here" if reward.weights_sha256 else "none"
    facts = _facts(reward, type(reward))
    return {**facts, "name": reward.name, "summary": _summary(name) or facts["summary"],
            "weights_sha256": reward.weights_sha256, "weights": weights}  # fmt: skip


def _facts(of: Any, cls: type[Any]) -> dict[str, Any]:
    """Args: of: a reward, or a class of rewards."""
    return {
        "name": "", "summary": (cls.__doc__ or "").strip().splitlines()[0],
        "differentiable": of.differentiable, "direction": "minimise" if of.minimise else "maximise",
        "family": of.family, "unit": of.unit, "licence": of.licence, "weights_sha256": None,
        "input_px": of.input_px or None, "range": of.value_range, "cost_gmac": of.cost_gmac or None,
    }  # fmt: skip


def _without_weights(name: str) -> dict[str, Any] | None:
    """The facts of one reward as published; None where it is a sum, or where it is not weights that it lacks."""
    from bench.assets import find, locate, needed
    from rewards.clip import PUBLISHED
    from rewards.expression import check_arguments, class_of, parse, registered

    terms = parse(name)
    base = registered(terms[0][1])
    lacking = [asset for asset in needed(rewards=[base]) if locate(asset) is None]
    if not lacking or len(terms) > 1 or terms[0][0] != 1:
        return None
    check_arguments(terms[0][1])
    facts = _facts(class_of(base), class_of(base))
    published = PUBLISHED.get(base)
    if published is not None:
        licence = find("aesthetic-v2" if base == "aesthetic" else base).licence
        facts |= {"family": published.family, "unit": published.unit, "licence": licence,
                  "input_px": published.input_px, "range": published.value_range,
                  "cost_gmac": published.cost_gmac}  # fmt: skip
    names = ", ".join(f"{asset.name} ({asset.size})" for asset in lacking)
    return {**facts, "name": terms[0][1], "weights": f"missing: {names}; bench assets fetch --reward {base}"}


def _summary(name: str) -> str:
    """The first line of what is registered, as ``bench list rewards`` has it; "" for a sum."""
    from bench.core import registry
    from rewards.expression import parse, registered

    terms = parse(name)
    return registry.find("rewards", registered(terms[0][1])).summary if len(terms) == 1 else ""


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
