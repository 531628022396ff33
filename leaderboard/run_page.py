"""One run's page: what was measured, what was spent, how it was made, and pictures chosen by rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from leaderboard import categories, gallery, rerun, run_charts, run_tables, wording
from leaderboard.evidence import Evidence, Side, differences, traces
from leaderboard.page import Made, Page, Site, inputs_of, root_of, run_path
from leaderboard.pages import render
from leaderboard.run import Run


def pages(site: Site) -> Iterator[Page]:
    for run in site.runs:
        inputs = inputs_of(run.place, run.digest, traces(run))
        yield Page(run_path(run.run_id), inputs, partial(run_page, run, None))


def run_page(run: Run, method: Mapping[str, Any] | None) -> Made:
    """One run's page, and the pictures it shows by file name.

    Args:
        method: what the tuner says of itself; None where nobody knows.
    """
    record = run.record
    evidence = Evidence(run)
    base, tuned = Side.base(evidence), Side.tuned(evidence)
    changes = differences(tuned, base)
    shown = gallery.choose(tuned, base, changes, {}, "best changes", "worst changes")
    pictures = shown.pictures
    page = render(
        "run.jinja", styles=("gallery.css", "plot.css"), scripts=("gallery.js",), root=root_of(run_path(run.run_id)),
        run=run, record=record, sample=run.edition == "sample", status_help=wording.STATUS_HELP,
        budget=wording.budget_text(run.budget), metrics=run_tables.results(run, record),
        budget_charts=run_charts.over_budget(run), scales=run_charts.over_scales(run),
        curves=run_charts.scalars(run, record.curve), ledger=run_tables.ledger(run, record),
        sampling_cost=run_tables.sampling_cost(run), settings=run_tables.settings(run, record, method),
        command=rerun.command(run.spec), gallery=shown, pictures=list(pictures.values()),
        breakdowns=list(run_tables.breakdowns(run, record)),
        categories=[categories.view(t, {}) for t in categories.by_category(evidence.prompts, changes)],
        facts=run_tables.provenance(run, record), problems=evidence.problems,
    )  # fmt: skip
    return page, pictures
