"""Questions for TIFA about prompts that no published file asks about."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import _options as o


@click.command("questions")
@click.option("--suite", "suite_name", required=True, help="Suite name; variants as in hpsv2-400.")
@click.option("--llm", type=click.Path(path_type=Path), required=True,
              help="Folder of a transformers text-generation model.")  # fmt: skip
@click.option("--filter", "filter_", type=click.Path(path_type=Path),
              help="Folder of a question answerer (UnifiedQA-v2): drops what the caption does not answer.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file to write, for review.")
@o.edition
@o.data
@click.option("--limit", type=int, help="Only the first N prompts.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
@o.as_json
def questions(
    suite_name: str, llm: Path, filter_: Path | None, out: Path, edition: str | None, data: Path | None,
    limit: int | None, device: str, json: bool,
) -> int:  # fmt: skip
    """Let a language model write questions about a suite's prompts, for a person to review.

    The file is used (--questions FILE) once "reviewed" is set to true in it.
    """
    import suites
    from bench.core import registry
    from bench.core.errors import UserError

    if out.exists():
        raise UserError(f"{out} is there already, perhaps reviewed", valid="a new file", hint="--out ANOTHER")
    base, variant = suites.resolve(suite_name)
    edition = suites.edition_of(base, variant, edition)
    suite = registry.load("suites", base)(edition, variant=variant, data_dir=data, limit=limit)

    from bench.cli._output import print_json
    from bench.diffusion.devices import find_device
    from bench.engine.progress import Progress
    from bench.metrics.question_making import LanguageModel, make_questions
    from bench.store import atomic

    where = find_device(device)
    writer = LanguageModel(llm, where)
    check = LanguageModel(filter_, where) if filter_ else None
    with Progress(quiet=json).stage("questions", len(suite.prompts), "prompts") as stage:
        made = make_questions(suite.prompts, writer, check, lambda n: stage.advance(n, ""))
    if not made.rows:
        raise UserError(f"{llm} wrote no question that could be read, about {len(suite.prompts)} prompts: "
                        + ", ".join(f"{n} lines: {reason}" for reason, n in made.dropped.items()),
                        valid="a model that follows a worked example", hint="--llm ANOTHER")  # fmt: skip
    models = {"llm": writer.name, "llm_sha256": writer.sha256,
              **({"filter": check.name, "filter_sha256": check.sha256} if check else {})}  # fmt: skip
    atomic.write_json(out, {
        "format": suites.QUESTION_FORMAT, "reviewed": False, "reviewer": "", "suite": suite.spec.id,
        "prompt_hash": suite.spec.prompt_hash, "made_by": models, "dropped": made.dropped,
        "prompts_without_questions": made.without, "questions": made.rows,
    })  # fmt: skip
    facts = {"file": str(out), "n_questions": len(made.rows), "n_prompts": len(suite.prompts),
             "n_prompts_without_questions": len(made.without), "dropped": made.dropped}  # fmt: skip
    if json:
        print_json(facts)
    else:
        asked = len(suite.prompts) - len(made.without)
        print(f"{len(made.rows)} questions about {asked} of {len(suite.prompts)} prompts")
        for reason, n in made.dropped.items():
            print(f"dropped {n}: {reason}")
        print(f'{out}: read it, mend it, then set "reviewed" to true and "reviewer" to your name; --questions {out}')
    return 0
