"""Puts the subcommands together and turns user errors into one message."""

from __future__ import annotations

import sys

import click

from bench.cli import (
    assets,
    cancel,
    check,
    data,
    eval_,
    list_,
    logs,
    merge,
    new,
    plan,
    refs,
    report,
    reward,
    run_,
    score,
    show,
    status,
    study,
    tifa,
)
from bench.cli._output import print_error
from bench.core.errors import UserError, unknown_name


class _Group(click.Group):
    """A group whose unknown commands are named with their closest neighbours."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown_name("command", args[0], self.commands, f"{ctx.command_path} --help")
        return super().resolve_command(ctx, args)


app = _Group(
    name="bench",
    help="TuneBench: reward-tuning algorithms for text-to-image diffusion under equal, measured compute.",
    epilog="Start with: bench run --suite coco --tuner drtune",
    commands={
        "run": run_.run, "plan": plan.plan, "list": list_.list_, "show": show.show, "status": status.status,
        "logs": logs.logs, "cancel": cancel.cancel,
        "score": score.score, "eval": eval_.eval_, "report": report.report, "merge": merge.merge,
        "data": _Group("data", help=data.__doc__, commands={"status": data.status, "fetch": data.fetch}),
        "assets": _Group("assets", help=assets.__doc__, commands={"status": assets.status, "fetch": assets.fetch}),
        "reward": _Group("reward", help=reward.__doc__, commands={
            "train": _Group("train", help="Fit a reward model to votes.", commands={"tree": reward.tree}),
        }),
        "study": _Group("study", help=study.__doc__, commands={
            "new": study.new, "links": study.links, "serve": study.serve, "import": study.import_,
        }),
        "refs": _Group("refs", help=refs.__doc__, commands={
            "build": refs.build, "show": refs.show, "import": refs.import_,
        }),
        "tifa": _Group("tifa", help=tifa.__doc__, commands={"questions": tifa.questions}),
        "check": _Group("check", help=check.__doc__, commands={"tuner": check.tuner}),
        "new": _Group("new", help=new.__doc__, commands={"tuner": new.tuner}),
    },
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
)  # fmt: skip


def run(argv: list[str]) -> int:
    """The exit code of the command line ``argv``: 0 done, 1 a run failed, 2 the user can put it right, 130 Ctrl-C."""
    as_json = "--json" in argv
    try:
        result = app.main(args=argv, prog_name="bench", standalone_mode=False)
    except UserError as err:
        print_error(err, as_json=as_json)
        return err.exit_code
    except click.exceptions.NoArgsIsHelpError as err:
        err.show()
        return 2
    except click.ClickException as err:
        context = getattr(err, "ctx", None)
        command = context.command_path if context else "bench"
        print_error(UserError(err.format_message(), hint=f"{command} --help"), as_json=as_json)
        return 2
    except (KeyboardInterrupt, click.exceptions.Abort):
        print("interrupted; the same command again continues", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0
