"""One run's page: what was measured, what was spent, how it was made, and pictures chosen by rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from bench.core.identity import digest
from leaderboard import (
    categories,
    compare_page,
    gallery,
    method_page,
    prompt_page,
    rerun,
    run_charts,
    run_tables,
    wording,
)
from leaderboard.budget_curves import Hacking
from leaderboard.evidence import Evidence, Side, differences, traces
from leaderboard.page import Made, Page, Site, inputs_of, root_of, run_path
from leaderboard.pages import render
from leaderboard.paper_tables import tree_radar, tree_shapes
from leaderboard.result_rows import results_rows
from leaderboard.run import Run
from leaderboard.statistics import row_id
from leaderboard.statistics_html import hacking_text

Links = Sequence[tuple[str, str]]
"""Path in the site, and the words for it."""


def pages(site: Site) -> Iterator[Page]:
    compared = compare_page.by_run(site)
    listed = prompt_page.listed(site)
    known = {name: _settings_of(facts) for name, facts in site.methods.items()}
    digests = {name: digest(facts, 16) for name, facts in known.items()}
    hackings = _hackings(site)
    told = {id(found): found.model_dump_json() for found in hackings.values()}  # seeds of a row share one
    place = {run.run_id: i for i, run in enumerate(run for board in site.boards for run in board.runs)}
    for run in sorted(site.runs, key=lambda run: place.get(run.run_id, -1)):
        hacking = hackings.get(run.run_id)
        hacked = None if hacking is None else told[id(hacking)]
        name = str(run.spec["tuner"]) if method_page.method_of(site, run) is not None else ""
        links = _links(site, run, listed, compared.get(run.run_id, []))
        inputs = inputs_of(run.place, run.digest, traces(run), digests.get(name), links, hacked)
        yield Page(run_path(run.run_id), inputs, partial(run_page, run, known.get(name), links, hacked))


def _hackings(site: Site) -> dict[str, Hacking]:
    """What a board says of the gap between trained-on and held-out, for every run of a row."""
    return {
        run.run_id: found
        for board in site.boards
        for row in board.rows
        if (found := site.facts[board.key].hacking.get(row_id(row))) is not None
        for run in row.shown
    }


def _settings_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a tuner's metadata that its runs' pages print."""
    kept = {name: {key: facts.get(key) for key in ("default", "unit", "help")}
            for name, facts in (method.get("settings") or {}).items()}  # fmt: skip
    return {"version": method.get("version"), "settings": kept}


def _links(site: Site, run: Run, listed: Mapping[str, str], compared: Links) -> Links:
    board = site.board_by_run.get(run.run_id)
    links = [] if run.external is not None else [(method_page.method_path(run), f"method {run.spec['tuner']}")]
    if board is not None and board.key in listed:
        links.append((listed[board.key], "prompt by prompt"))
    return [*links, *compared]


def run_page(run: Run, method: Mapping[str, Any] | None, links: Links, hacked: str | None) -> Made:
    """One run's page, and the pictures it shows by file name.

    Args:
        method: version and settings as the tuner declares them; None where nobody knows.
        hacked: the board's reading (``Hacking``, as JSON) of the row that the run belongs to; None where it is on none.
    """
    record = run.record_at(run.base, run.final)
    evidence = Evidence(run)
    base, tuned = Side.base(evidence), Side.tuned(evidence)
    changes = differences(tuned, base)
    shown = gallery.choose(tuned, base, changes, {}, "best changes", "worst changes")
    pictures = shown.pictures
    page = render(
        "run.jinja", styles=("gallery.css", "plot.css"), scripts=("gallery.js", "charts.js"),
        root=root_of(run_path(run.run_id)),
        run=run, record=record, sample=run.edition == "sample", status_help=wording.STATUS_HELP,
        budget=run.terms, metrics=results_rows(run_tables.results(run, record)),
        gap=None if hacked is None else _gap_view(hacked),
        budget_charts=run_charts.over_budget(run), scales=run_charts.over_scales(run),
        curves=run_charts.scalars(run, record.curve), ledger=run_tables.ledger(run, record),
        sampling_cost=run_tables.sampling_cost(run), settings=run_tables.settings(run, record, method),
        command=rerun.command(run.spec), gallery=shown, pictures=list(pictures.values()),
        radar=tree_radar(shapes) if (shapes := tree_shapes(run)) else None,
        breakdowns=list(run_tables.breakdowns(run, record)),
        categories=[categories.view(t, {}) for t in categories.by_category(evidence.prompts, changes)],
        links=links, facts=run_tables.provenance(run, record), problems=evidence.problems,
    )  # fmt: skip
    return page, pictures


@lru_cache(maxsize=256)
def _gap_view(told: str) -> dict[str, Any]:
    """The gap between trained-on and held-out judges along the budget, and whether the board flags it; kept, as the
    pages of a row's seeds come one after the other."""
    hacked = Hacking.model_validate_json(told)
    flag, why = hacking_text(hacked)
    gap = hacked.gap
    text = ""
    if gap is not None:
        decimals = wording.places("winrate", [gap.value], [(gap.high - gap.low) / 2]
                                  if gap.low is not None and gap.high is not None else [])  # fmt: skip
        text = wording.figure("winrate", gap.value, decimals, signed=True) + " points"
        ends = wording.span("winrate", gap.low, gap.high, decimals, signed=True)
        text += f" ({ends}; {'paired by image' if hacked.paired else 'from two intervals'})" if ends else ""
    return {"flag": flag, "why": why, "text": text, "charts": run_charts.gap(hacked)}
