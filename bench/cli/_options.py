"""The command-line options that several commands share, each born once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

runs = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
                    help="Folder of runs and of the leaderboard.")  # fmt: skip
as_json = click.option("--json", is_flag=True, help="Machine-readable on standard output, progress on standard error.")
edition = click.option("--edition", help="sample (embedded) or full (the published prompts, from --data). Default: "
                       "sample, or full for lists that only it has, such as hpsv2-400.")  # fmt: skip
data = click.option("--data", type=click.Path(path_type=Path), envvar="TUNEBENCH_DATA", show_envvar=True,
                    help="Folder of the published prompt files.")  # fmt: skip


def _device_name(context: click.Context, option: click.Parameter, name: str) -> str:
    from bench.engine.devices import check_name

    check_name(name)
    return name


device = click.option("--device", default="auto", show_default=True, callback=_device_name, help="cpu, cuda, or auto.")

_JUDGING = (
    click.option("--metrics", help="Metrics with commas in place of the suite's or run's, or +NAME,NAME beside them."),
    click.option("--judges", help="Rewards to judge the images with, with commas, in place of the suite's judges."),
    click.option("--vqa", type=click.Path(path_type=Path), help="Folder of the VQA model that TIFA asks."),
    click.option("--questions", type=click.Path(path_type=Path, exists=True, dir_okay=False),
                 help="Questions for TIFA or DSG: TIFA's or DSG's file, or a reviewed one of 'bench tifa questions'."),
    click.option("--reference", type=click.Path(path_type=Path), multiple=True,
                 help="Reference statistics of 'bench refs build', or pytorch-fid's .npz; repeatable, one a protocol."),
    click.option("--subject", type=click.Path(path_type=Path), help="Photographs of whom a personalised model shows."),
    click.option("--embedder", type=click.Path(path_type=Path),
                 help="Face network for --subject: a TorchScript file or a transformers folder."),
)  # fmt: skip

_PLAN = (
    click.option("--suite", help="Suite names with commas; variants as in hpsv2-400 or coco.val2017."),
    click.option("--tuner", help="Tuner or preset names with commas, 'all', or ./my_tuner.py."),
    click.option("--recipe", help="Fill in what is not given from a paper's run (bench list recipes) or a TOML file."),
    click.option("--reward", help="Reward expression such as 'symmetry+0.5*tiny-clip'."),
    click.option("--model", help="Base model: a name, a folder, NAME=FOLDER, or an id of the hub (ORG/NAME@COMMIT)."),
    edition,
    click.option("--seeds", default="1", show_default=True, help="How many tuning seeds, or a list such as 0,7."),
    click.option("--budget", multiple=True, help="KIND=LIMIT in place of the suite's; repeatable."),
    click.option("--set", "settings", multiple=True, help="KEY=VALUE or TUNER.KEY=VALUE; repeatable."),
    click.option("--protocol", multiple=True, help="KEY=VALUE in place of the suite's: sampler.n_steps, global_batch, "
                 "eval_seeds …; repeatable."),
    click.option("--train-list", help="Training prompts: a published list (bench list train-lists) or a file."),
    data,
    click.option("--limit", type=int, help="Only the first N prompts: a smoke test, never ranked."),
    click.option("--fractions", help="Shares of the budget to keep and score, such as 0,0.5,1."),
    click.option(
        "--hard-limit", "hard_limit_s", type=float, help="Wall-clock seconds of tuning, enforced from outside."
    ),
    click.option("--processes", type=int, default=1, show_default=True,
                 help="Processes that tune one run together, one a GPU; must divide the suite's global batch."),
    click.option("--micro-batch", type=int, help="Samples per forward; gradients accumulate to the global batch. "
                 "Default: the global batch / processes."),
    *_JUDGING,
    click.option("--skip-invalid", is_flag=True, help="Leave out runs that cannot start, as '--tuner all' does."),
    runs,
)  # fmt: skip


config = click.option("--config", type=click.Path(path_type=Path), help="Settings of your clusters; default: "
                      "~/.config/tunebench/config.toml. See docs/cluster.md.")  # fmt: skip


_EXECUTION = (
    click.option("--dtype", type=click.Choice(("fp32", "bf16", "fp16")),
                 help="Of the base model's frozen weights. Default: fp32 on a CPU, bf16 on a GPU."),
    click.option("--gradient-checkpointing", is_flag=True, help="Less memory, slower: blocks of denoiser and decoder "
                 "are run again in the backward pass."),
    click.option("--attention-slicing", is_flag=True, help="Less memory, slower: attention head by head."),
    click.option("--vae-slicing", is_flag=True, help="Less memory: decode image by image, once more in the backward "
                 "pass."),
    click.option("--vae-tiling", is_flag=True, help="Less memory: decode big images tile by tile."),
    click.option("--compile", is_flag=True, help="torch.compile of the denoiser; compiling is off the budget's clock."),
)  # fmt: skip


def execution_options(command: Command) -> Command:
    """How a base model is computed; they arrive as the fields of ``bench.diffusion.execution.Execution``."""
    for option in reversed(_EXECUTION):
        command = option(command)
    return command


def split_settings(pairs: Sequence[str]) -> tuple[tuple[str, ...], dict[str, dict[str, str]]]:
    """``--set`` pairs of tuners, and those of launchers by launcher: ``slurm.partition=gpu`` is the launcher's.

    What belongs to a launcher changes no answer, so it never reaches a plan.
    """
    from bench.core import registry
    from bench.core.errors import UserError

    launchers = registry.entries("launchers")
    tuners, found = [], dict[str, dict[str, str]]()
    for pair in pairs:
        key, sign, value = pair.partition("=")
        scope, dot, name = key.strip().partition(".")
        if not (dot and scope in launchers):
            tuners.append(pair)
            continue
        if not sign or not name:
            raise UserError(f"--set {pair!r} is no {scope}.KEY=VALUE", hint=f"--set {scope}.KEY=VALUE")
        found.setdefault(scope, {})[name] = value.strip()
    return tuple(tuners), found


def filled(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a plan with what the recipe says where the user said nothing.

    Values of the command line stand. Its ``--set`` and ``--protocol`` pairs come after the recipe's, so they count;
    one ``--budget`` replaces the recipe's; another tuner than the recipe's takes none of its settings.

    Raises:
        UserError: an unknown recipe; neither it nor the user names a suite and a tuner.
    """
    from bench.core.errors import UserError

    options = dict(options)
    name = options["recipe"] = options.pop("recipe") or ""
    if name:
        from suites._recipes import recipe

        found = recipe(name).options()
        context = click.get_current_context()
        source = click.core.ParameterSource
        given = {
            key for key in options if context.get_parameter_source(key) in (source.COMMANDLINE, source.ENVIRONMENT)
        }
        if "tuner" in given and found.get("tuner") not in (None, options["tuner"]):
            print(f"recipe {name}: its settings of {found['tuner']} are left out", file=sys.stderr)
            found["settings"] = ()
        if "budget" in given:
            found.pop("budget")
        for key in ("settings", "protocol"):
            options[key] = (*found.pop(key), *options[key])
        options.update({key: value for key, value in found.items() if key not in given})
    for key in ("suite", "tuner"):
        if options[key] is None:
            raise UserError(f"no --{key} is named", valid=f"--{key} NAME, or --recipe NAME for a paper's run",
                            hint=f"bench list {key}s")  # fmt: skip
    return options


def judging_options(command: Command) -> Command:
    """How images are judged; they arrive as the fields of ``bench.engine.options.Options`` of these names."""
    for option in reversed(_JUDGING):
        command = option(command)
    return command


def plan_options(command: Command) -> Command:
    """All options that make a plan; they arrive as the fields of ``bench.engine.options.Options``."""
    for option in reversed(_PLAN):
        command = option(command)
    return command
