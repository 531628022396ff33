"""What a user says about a cluster: profiles in the TOML file, and ``--set slurm.KEY=VALUE`` over them."""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.core.errors import UserError, unknown_name


def setting(default: Any, help: str, low: int | None = None) -> Any:
    """A field with what it means and its smallest value."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    return field(**made, metadata={"help": help, "low": low})


@dataclass(frozen=True)
class SlurmSettings:
    """One cluster's settings. Nothing here changes an answer or a run's id."""

    partition: str = setting("", "partition; empty: the cluster's default")
    account: str = setting("", "account to charge")
    qos: str = setting("", "quality of service")
    constraint: str = setting("", "features that the nodes must have")
    time_min: int = setting(0, "walltime in minutes; 0: estimated, and printed with the reason", 0)
    gpus: int = setting(-1, "GPUs a run; -1: one a process, none with --device cpu", -1)
    cpus: int = setting(4, "CPUs a process of a run", 1)
    mem_gb: float = setting(0.0, "memory a run in GB; 0: the partition's default", 0)
    nodes: int = setting(1, "nodes a run; its --processes spread over them evenly", 1)
    pack: int = setting(1, "runs that share one job and its GPUs", 1)
    parallelism: int = setting(0, "jobs of an array at once; 0: as many as the cluster allows", 0)
    stages: str = setting(
        "one", "one: a job a run; split: tuning, then images and scores on one GPU in a job of its own"
    )
    shards: int = setting(1, "of split stages: jobs a run that share images and judges, each with one GPU", 1)
    report: bool = setting(True, "a last job renders the leaderboard and says which runs are missing")
    report_partition: str = setting("", "partition of that last job, which needs no GPU; empty: as the others")
    signal_s: int = setting(
        0, "seconds before the walltime's end at which a run is told; 0: a third of it, 120 at most", 0
    )
    setup: tuple[str, ...] = setting(tuple, "shell lines before the job's body; one that fails fails the job")
    srun: tuple[str, ...] = setting(tuple, "further arguments of srun")
    python: str = setting("", "command that starts Python in the job; empty: this Python")
    sbatch: Mapping[str, str] = setting(dict, "any other #SBATCH option")


def of_report(s: SlurmSettings) -> SlurmSettings:
    """The settings of the last job."""
    return dataclasses.replace(s, partition=s.report_partition or s.partition)


KEYS = {f.name: f for f in dataclasses.fields(SlurmSettings)}


def resolve(user: Mapping[str, Any], given: Mapping[str, str]) -> SlurmSettings:
    """The settings of the chosen profile.

    Args:
        user: the user's TOML file; its table ``slurm`` holds settings for every cluster, ``profile`` and ``profiles``.
        given: ``--set slurm.KEY=VALUE``; a key that is no setting of ours is an #SBATCH option.

    Raises:
        UserError: unknown keys in the file, an unknown profile, a value of the wrong type.
    """
    table = dict(user.get("slurm", {}))
    profiles: Mapping[str, Any] = table.pop("profiles", {})
    name = given.get("profile") or table.pop("profile", "")
    table.pop("profile", None)
    if name and name not in profiles:
        raise unknown_name("profile of a cluster", name, profiles,
                           "[slurm.profiles.NAME] in the file of --config")  # fmt: skip
    values: dict[str, Any] = {"sbatch": {}}
    for where, part in (("[slurm]", table), (f"[slurm.profiles.{name}]", profiles.get(name, {}))):
        for key, value in part.items():
            _put(values, where, key, value)
    for key, text in given.items():
        if key != "profile":
            _put(values, f"--set slurm.{key}", key.replace("-", "_"), text, cli=True)
    return SlurmSettings(**values)


def _put(values: dict[str, Any], where: str, key: str, value: Any, *, cli: bool = False) -> None:
    """Checks one value and keeps it; #SBATCH options gather, everything else replaces."""
    if key == "sbatch" and not cli:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: sbatch = {value!r}", valid='a table such as {"hint" = "nomultithread"}')
        values["sbatch"] = {**values["sbatch"], **{k.replace("_", "-"): _text(v) for k, v in value.items()}}
    elif key in KEYS and key != "sbatch":
        values[key] = _typed(where if cli else f"{where}: {key}", key, value)
    elif cli:
        values["sbatch"] = {**values["sbatch"], key.replace("_", "-"): value}
    else:
        raise unknown_name(f"setting in {where}", key, KEYS, "an #SBATCH option goes into a table sbatch")


def _typed(where: str, key: str, value: Any) -> Any:
    """``value``, from TOML or the command line, as the setting's type."""
    wanted = typing.get_type_hints(SlurmSettings)[key]
    low = KEYS[key].metadata["low"]
    try:
        if wanted is bool:
            found: Any = {"true": True, "false": False}[str(value).lower()]
        elif wanted in (int, float):
            found = wanted(value)
        elif wanted is str:
            found = str(value)
        else:
            # on the command line one line of shell, or words as the shell would split them
            found = tuple(map(str, value)) if not isinstance(value, str) else _list(key, value)
    except (ValueError, TypeError, KeyError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(wanted, "a list")
        raise UserError(f"{where} = {value!r}", valid=f"{kind}: {KEYS[key].metadata['help']}") from None
    if low is not None and found < low:
        raise UserError(f"{where} = {value!r}", valid=f"{low} or more: {KEYS[key].metadata['help']}")
    if key == "stages" and found not in ("one", "split"):
        raise UserError(f"{where} = {value!r}", valid=KEYS[key].metadata["help"])
    return found


def _list(key: str, text: str) -> tuple[str, ...]:
    return (text,) if key == "setup" else tuple(shlex.split(text))


def _text(value: Any) -> str:
    return "true" if value is True else str(value)
