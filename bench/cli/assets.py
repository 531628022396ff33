"""Published weights: what is needed, where it is, and getting it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.assets import Asset

_ASKED = (
    click.argument("names", nargs=-1),
    click.option("--model", help="What this base model needs."),
    click.option("--reward", help="What this reward expression needs."),
    click.option("--suite", help="What the metrics of this suite's full edition need."),
)


def _asked(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_ASKED):
        command = option(command)
    return command


@click.command("status")
@_asked
@o.as_json
def status(names: Sequence[str], model: str | None, reward: str | None, suite: str | None, json: bool) -> int:
    """Say of published weights whether they are found, missing or wrong, and how to get them; exit 1 if any is not
    right. Without names: all that TuneBench knows."""
    from bench.assets.catalogue import size_text
    from bench.assets.states import state
    from bench.cli._output import print_json, print_table

    found = [state(asset) for asset in _chosen(names, model, reward, suite)]
    if json:
        print_json({"assets": [s.as_dict() for s in found]})
    elif not found:
        print("no published weights are needed")
    else:
        print_table(
            ("asset", "state", "from", "revision", "size", "licence", "where, or what to do"),
            [(s.asset.name, s.state, s.asset.source, s.asset.revision[:12] or "unpinned",
              size_text(s.asset.bytes), s.asset.licence, s.folder if s.state == "found" else s.todo) for s in found],
        )  # fmt: skip
        for s in found:
            if s.state == "wrong":
                print(f"{s.asset.name}: {s.detail}")
    return 0 if all(s.state == "found" for s in found) else 1


@click.command("fetch")
@_asked
@o.as_json
def fetch(names: Sequence[str], model: str | None, reward: str | None, suite: str | None, json: bool) -> int:
    """Download published weights into the user's cache. The same command again continues what was cut."""
    from bench.assets.fetch import fetch as get
    from bench.assets.states import state
    from bench.cli._output import print_json
    from bench.core.errors import UserError

    if not (names or model or reward or suite):
        raise UserError("nothing was named", valid="names of assets, or --model, --reward, --suite",
                        hint="bench assets status")  # fmt: skip
    folders = {}
    for asset in _chosen(names, model, reward, suite):
        before = state(asset)
        if before.state == "found":
            print(f"{asset.name} is there: {before.folder}", file=sys.stderr)
            folders[asset.name] = before.folder
            continue
        print(f"{asset.name}: {asset}", file=sys.stderr)
        folders[asset.name] = str(get(asset, lambda line: print(line, file=sys.stderr)))
    if json:
        print_json({"folders": folders})
    else:
        for name, folder in folders.items():
            print(f"{name}: {folder}")
    return 0


def _chosen(names: Sequence[str], model: str | None, reward: str | None, suite: str | None) -> list[Asset]:
    """The assets that were named or are needed by what was; all where nothing was named."""
    from bench.assets import catalogue, find, needed

    if not (names or model or reward or suite):
        return list(catalogue().values())
    models = {(model or "").partition("=")[0]}
    rewards: set[str] = set()
    metrics: set[str] = set()
    if reward:
        from rewards.expression import registered, terms

        rewards |= {registered(name) for name in terms(reward).names}
    if suite:
        metrics |= set(_metrics(suite))
    wanted = [find(name) for name in names]
    wanted += needed(models=models, rewards=rewards, metrics=metrics)
    return list({asset.name: asset for asset in wanted}.values())


def _metrics(name: str) -> Sequence[str]:
    """The metrics of a suite's full edition, read from its card: its prompts need not be here."""
    import suites
    from bench.core import registry
    from suites._card import names, settings

    base, variant = suites.resolve(name)
    registry.find("suites", base)
    # what the suite of another package needs is in that package's own documentation
    return list(settings(base, "full", variant)[1]["metrics"]) if base in names() else []
