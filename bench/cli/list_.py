"""``bench list``: what there is, without importing any of it."""

from __future__ import annotations

import click

from bench.cli import _options as o


@click.command("list")
@click.argument("group", required=False)
@o.as_json
def list_(group: str | None, json: bool) -> int:
    """List suites, tuners and their presets, rewards, metrics, models and launchers with one line each."""
    from bench.cli._output import print_json, print_table
    from bench.core import registry
    from bench.core.errors import unknown_name

    if group is not None and group not in registry.GROUPS:
        raise unknown_name("group", group, registry.GROUPS, "bench list")
    groups = [group] if group else list(registry.GROUPS)
    found = {g: list(registry.entries(g).values()) for g in groups}
    if json:
        print_json({g: [{"name": e.name, "summary": e.summary, "package": e.package, "error": e.error or None,
                         **({"presets": e.keys_of("presets")} if g == "tuners" else {})}
                        for e in es] for g, es in found.items()})  # fmt: skip
        return 0
    for i, (name, entries) in enumerate(found.items()):
        if i:
            print()
        rows = [(e.name, f"BROKEN ({e.package}): {e.error}" if e.error else e.summary) for e in entries]
        print_table((name, ""), rows)
        if name == "tuners":
            print()
            print_table(
                ("tuner", "presets (bench run --tuner PRESET, bench show tuner PRESET)"),
                [(e.name, ", ".join(e.keys_of("presets")) or "-") for e in entries],
            )
    return 0
