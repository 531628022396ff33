"""``bench plan``: what a run command would do, what it costs, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.engine.cost import Expected
    from bench.engine.plan import Plan


_TRAINING = ("training prompts", "removed", "split drawn", "budget for")
"""Beginnings of a suite's notes that a plan shows: what is trained on, what was taken out, whose budget it is."""


@click.command()
@o.plan_options
@o.as_json
def plan(json: bool, **options: Any) -> int:
    """Print run ids, done or to do, expected cost and what is missing; exit 1 if something would fail later."""
    from bench.cli._output import print_json
    from bench.engine.cost import expect
    from bench.engine.options import Options
    from bench.engine.plan import make_plan

    options = o.filled(options)
    options["settings"], _ = o.split_settings(options["settings"])
    made = make_plan(Options(**options))
    costs = [expect(run, options["runs"]) for run in made.runs]
    if json:
        print_json({
            "runs": [{
                "run_id": r.spec.run_id, "tuner": r.spec.label, "suite": r.spec.suite, "seed": r.spec.seed,
                "reward": r.spec.reward, "model": r.spec.model, "state": r.state, "folder": str(r.folder.root),
                "budget": r.spec.budget.to_json(), "expected": c.as_dict(), "problems": list(r.problems),
                "notes": list(r.suite.notes), "absent": list(r.absences),
            } for r, c in zip(made.runs, costs, strict=True)],
            "problems": made.problems, "absent": made.absences, "left_out": made.left_out,
        })  # fmt: skip
    else:
        print_plan(made, costs)
    can_start = not made.problems or (made.skip_invalid and any(not r.problems for r in made.runs))
    return 0 if can_start else 1


def print_plan(made: Plan, costs: Sequence[Expected]) -> None:
    """A line a run, and what cannot start or is left out."""
    from bench.cli._output import print_table

    print_table(
        ("run", "suite", "tuner", "reward", "seed", "state", "expected"),
        [(r.spec.run_id, r.spec.suite, r.spec.label, r.spec.reward, str(r.spec.seed),
          "cannot start" if r.problems else r.state, c.text()) for r, c in zip(made.runs, costs, strict=True)],
    )  # fmt: skip
    for suite, notes in {r.spec.suite: r.suite.notes for r in made.runs}.items():
        for note in notes:
            if note.startswith(_TRAINING):
                print(f"{suite}: {note}")
    to_do = sum(r.state != "done" and not r.problems for r in made.runs)
    print(f"{len(made.runs)} run(s), {to_do} to do")
    for sentence in made.absences:
        print(f"absent: {sentence}")
    for problem in made.left_out or made.problems:
        print(f"{'left out' if made.left_out else 'cannot start'}: {problem}")
