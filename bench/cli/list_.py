"""``bench list``: what there is, without importing any of it."""

from __future__ import annotations

from collections.abc import Callable

import click

from bench.cli import _options as o


@click.command("list")
@click.argument("group", required=False)
@o.as_json
def list_(group: str | None, json: bool) -> int:
    """List suites, tuners and their presets, rewards, metrics, models, launchers, recipes and train-lists, one line
    each."""
    from bench.cli._output import print_json, print_table
    from bench.core import registry
    from bench.core.errors import unknown_name

    if group is not None and group not in (*registry.GROUPS, *FILES):
        raise unknown_name("group", group, (*registry.GROUPS, *FILES), "bench list")
    groups = [g for g in registry.GROUPS if group in (None, g)]
    found = {g: list(registry.entries(g).values()) for g in groups}
    # all plug-ins are listed at once; these are read from files, so only where one is asked for
    files = {group: FILES[group]()} if group is not None and group in FILES else {}
    if json:
        print_json({
            **{g: [{"name": e.name, "summary": e.summary, "package": e.package, "error": e.error or None,
                    **({"presets": e.keys_of("presets")} if g == "tuners" else {})} for e in es]
               for g, es in found.items()},
            **{g: [{"name": name, "summary": text} for name, text in lines] for g, lines in files.items()},
        })  # fmt: skip
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
    for name, lines in files.items():
        print_table((name, ""), lines)
    if group is None:
        print(f"\nmore: {', '.join(f'bench list {name}' for name in FILES)}")
    return 0


def _recipes() -> list[tuple[str, str]]:
    from suites._recipes import names, recipe

    return [(name, recipe(name).title) for name in names()]


def _train_lists() -> list[tuple[str, str]]:
    from suites._train import lists

    return [(name, f"{found.title}: {found.used_by}") for name, found in lists().items()]


FILES: dict[str, Callable[[], list[tuple[str, str]]]] = {"recipes": _recipes, "train-lists": _train_lists}
"""Groups that are files of ours and no plug-ins: name to its lines."""
