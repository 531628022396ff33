"""The contract suite against one plug-in."""

from __future__ import annotations

import click

from bench.cli import _options as o


@click.command("tuner")
@click.argument("name")
@click.option(
    "--base", type=click.Choice(("sd", "sdxl", "sd3")), default="sd", show_default=True, help="Kind of base model."
)
@o.as_json
def tuner(name: str, base: str, json: bool) -> int:
    """Run the contract suite on a tiny random pipeline: seconds, no weights; exit 1 if a check fails."""
    import dataclasses

    from bench.cli._output import print_json, print_table
    from bench.diffusion.check import check_tuner
    from bench.engine.choosing import choose_tuner

    chosen = choose_tuner(name)
    results = check_tuner(chosen.cls, chosen.config, base=base)
    if json:
        print_json({"checks": [dataclasses.asdict(r) for r in results]})
    else:
        print_table(("check", "", ""), [(r.name, "ok" if r.ok else "FAILED", r.detail) for r in results])
    return 0 if all(r.ok for r in results) else 1
