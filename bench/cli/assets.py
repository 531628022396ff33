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
    click.option("--suite", help="What its full edition needs: reward, judges, metrics."),
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
              s.asset.size, s.asset.licence, s.folder if s.state == "found" else s.todo) for s in found],
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
    """The assets that were named or are needed by what was; all where nothing was named.

    Raises:
        UserError: a name that nobody has, with the closest; a repository of the hub that is not in the catalogue.
    """
    from bench.assets import catalogue, find, needed

    if not (names or model or reward or suite):
        return list(catalogue().values())
    wanted = [find(name) for name in names]
    rewards: set[str] = set()
    metrics: set[str] = set()
    if model:
        wanted += _of_model(model)
    if suite:
        metrics, rewards = _of_suite(suite, model or "")
    if reward:
        from rewards.expression import parse, registered

        rewards |= {registered(name) for _, name in parse(reward)}
    wanted += needed(rewards=rewards, metrics=metrics)
    return list({asset.name: asset for asset in wanted}.values())


def _of_model(model: str) -> list[Asset]:
    """What ``--model`` of a run needs: nothing for a folder, the catalogue's entry for a name or a hub id."""
    from bench.assets import catalogue, needed
    from bench.core.errors import UserError
    from bench.diffusion.sources import find_source

    source = find_source(model)
    name, _, folder = model.partition("=")
    if folder or (source.is_folder and name != source.name):
        return []
    if "/" not in name:
        return needed(models=[name])
    repo, _, commit = name.partition("@")
    for asset in catalogue().values():
        is_it = repo in (asset.repo, *asset.other_repos) and commit in ("", asset.revision)
        if is_it and asset.layout == "diffusers-pipeline":
            return [asset]
    at = f" --revision {commit}" if commit else ""
    pipelines = [a.repo for a in catalogue().values() if a.layout == "diffusers-pipeline"]
    raise UserError(
        f"{name} is not in the catalogue of published weights: any diffusers pipeline of the hub can be tuned, but "
        "is fetched by the hub's own command",
        valid=", ".join(pipelines) + ", each at its pinned revision",
        hint=f"hf download {repo}{at} --local-dir FOLDER, then --model FOLDER",
    )


def _of_suite(name: str, model: str) -> tuple[set[str], set[str]]:
    """(metrics, rewards) of a run on a suite's full edition with a base model beyond the tiny world: its metrics, its
    reward and, where rewards judge, the published judges. Read from its card: its prompts need not be here."""
    import suites
    from bench.core import registry
    from bench.core.judging import world_of
    from bench.metrics.panel import PREFERENCE_JUDGES
    from rewards.expression import registered, terms
    from suites._card import names, settings

    base, variant = suites.resolve(name)
    registry.find("suites", base)
    # what the suite of another package needs is in that package's own documentation
    if base not in names() or world_of(model, "full") == "tiny":
        return set(), set()
    table = settings(base, "full", variant)[1]
    table = {**table, **table.get("scale", {})}
    metrics = set(table["metrics"])
    rewards = {registered(term) for term in terms(table["reward"]).names}
    return metrics, rewards | (set(PREFERENCE_JUDGES["published"]) if "rewards" in metrics else set())
