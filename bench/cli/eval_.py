"""``bench eval``: images from elsewhere, on the same board."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from bench.cli import _options as o


@click.command("eval")
@click.option("--images", type=click.Path(path_type=Path), help="Folder with index.csv or index.jsonl: prompt_id,path.")
@click.option("--suite", "suite_name", required=True, help="Suite name; variants as in hpsv2-400.")
@click.option("--name", help="What boards call it, such as midjourney-5.2.")
@click.option("--note", default="", help="Where the images come from; shown on the run's page.")
@click.option("--prompts-to", type=click.Path(path_type=Path),
              help="Write the suite's prompt ids and texts to this CSV file, to make images of, and stop.")  # fmt: skip
@o.edition
@o.data
@click.option("--limit", type=int, help="Only the first N prompts: a smoke test, never ranked.")
@click.option("--model", default="", help="Base model for the win rate. Default: the suite's; 'none' for no win rate.")
@click.option("--resolution", type=click.IntRange(8, 8192),
              help="Crop each image to its middle square, resize it to N x N; needed where sizes differ.")  # fmt: skip
@o.device
@o.judging_options
@o.runs
@o.as_json
def eval_(
    images: Path | None, suite_name: str, name: str | None, note: str, prompts_to: Path | None, edition: str | None,
    data: Path | None, limit: int | None, model: str, resolution: int | None, device: str, runs: Path, json: bool,
    **judging: Any,
) -> int:  # fmt: skip
    """Score images that somebody else made and put them on the board, without a budget, marked external."""
    import suites
    from bench.cli._output import print_json, print_results
    from bench.core import registry
    from bench.core.errors import UserError
    from bench.engine.protocol import at_scale
    from bench.metrics.choice import check_used, choose_metrics

    base, variant = suites.resolve(suite_name)
    edition = suites.edition_of(base, variant, edition)
    suite = registry.load("suites", base)(edition, variant=variant, data_dir=data, limit=limit)
    metrics = choose_metrics(judging.pop("metrics"), at_scale(suite, model or suite.spec.model).spec.metrics)
    suite = dataclasses.replace(suite, spec=dataclasses.replace(suite.spec, metrics=metrics))
    check_used(metrics, **judging)
    suite = suites.with_questions(suite, judging.pop("questions"), data)
    if prompts_to is not None:
        _write_prompts(prompts_to, [(p.id, p.text) for p in suite.prompts])
        print_json({"prompts": str(prompts_to), "n": len(suite.prompts)}) if json else print(
            f"{len(suite.prompts)} prompts of {suite.spec.id}: {prompts_to}")  # fmt: skip
        return 0
    if images is None or not name:
        raise UserError("nothing to score", valid="--images DIR and --name NAME, or --prompts-to FILE",
                        hint=f"bench eval --suite {suite_name} --images DIR --name midjourney-5.2")  # fmt: skip
    from bench.cli._methods import describe
    from bench.engine.external import Request, evaluate
    from bench.engine.options import choose_judging
    from bench.engine.summary import rows
    from bench.metrics.requirements import absences, missing
    from leaderboard.site import build

    how = choose_judging(model if model not in ("", "none") else suite.spec.model, suite.spec, data=data, **judging)
    for problem in missing(suite.spec.metrics, suite, how):
        raise UserError(problem)
    for sentence in absences(suite.spec.metrics, suite, how):
        print(f"absent: {sentence}", file=sys.stderr)
    command = shlex.join(["bench", *sys.argv[1:]])
    request = Request(images, name, suite, runs, model, device, resolution, note, command, quiet=json, judging=how)
    folder = evaluate(request)
    record, page = folder.read_record(), build(runs, describe=describe)
    if json:
        print_json({"run_id": record.run_id, "folder": str(folder.root), "page": str(page),
                    "metrics": [r.as_dict() for r in rows(record)]})  # fmt: skip
    else:
        print(f"\n{name} on {suite.spec.id}: images from elsewhere, no budget")
        print_results(rows(record), "images")
        print(f"leaderboard: {page}")
    return 0


def _write_prompts(path: Path, rows: list[tuple[str, str]]) -> None:
    import csv
    import io

    from bench.store import atomic

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("prompt_id", "prompt"))
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue())
