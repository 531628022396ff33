"""Two runs side by side: figures with paired differences, what differs in their settings, images at equal noise.

Thousands of runs have millions of pairs. A page is made for the pairs of a stated rule (``pairs_of``), and for those
that somebody asked for with ``bench report --compare RUN RUN`` (kept in ``comparisons.json`` beside the runs). A page
for any two runs that computes in the browser would need every score of every run in the site and a second
implementation of the statistics: a reviewer could not trust that both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown_name
from bench.store import atomic
from leaderboard import categories, compare_tables, gallery, wording
from leaderboard.evidence import Evidence, Side, traces
from leaderboard.page import Made, Page, Site, inputs_of, root_of
from leaderboard.pages import board_text, render
from leaderboard.run import Run
from leaderboard.table import Board

N_BELOW_BEST = 6
"""Rows that are compared with the best one and with their neighbour, a board."""
INDEX = "compare/index.html"
_FILE = "comparisons.json"
RULE = (
    f"On every board the first seed of the best row against the first seeds of the next {N_BELOW_BEST} rows, and each "
    f"of these {N_BELOW_BEST + 1} rows against the one below it. A run's own page compares it with the base model."
)


@dataclass(frozen=True)
class Pairing:
    """Two runs whose images are of the same prompts and noise, A on the left."""

    a: Run
    b: Run
    why: str

    @property
    def path(self) -> str:
        return f"compare/{self.a.run_id}--{self.b.run_id}.html"


def pages(site: Site) -> Iterator[Page]:
    groups: list[tuple[str, list[Pairing]]] = [(board_text(board), pairs_of(board)) for board in site.boards]
    groups.append(("Asked for with bench report --compare", requested(site)))
    seen: set[str] = set()
    for _, pairings in groups:
        for pair in pairings:
            if pair.path not in seen:
                seen.add(pair.path)
                inputs = inputs_of([[r.place, r.digest, traces(r)] for r in (pair.a, pair.b)], pair.why)
                yield Page(pair.path, inputs, partial(compare_page, pair))
    rows = [(title, [_link(pair) for pair in pairings]) for title, pairings in groups if pairings]
    sample = any(run.edition == "sample" for run in site.runs)
    yield Page(INDEX, inputs_of(rows, sample), partial(_index_page, rows, sample))


def by_run(site: Site) -> dict[str, list[tuple[str, str]]]:
    """Path and words of every comparison that a run is in, by run id."""
    found: dict[str, dict[str, str]] = {}
    for pair in [*(pair for board in site.boards for pair in pairs_of(board)), *requested(site)]:
        for mine, other in ((pair.a, pair.b), (pair.b, pair.a)):
            found.setdefault(mine.run_id, {})[pair.path] = f"against {_name(other, mine)}"
    return {run_id: list(links.items()) for run_id, links in found.items()}


def pairs_of(board: Board) -> list[Pairing]:
    """The pairs of ``RULE``; rows without images at equal noise have none."""
    first = [row.runs[0] for row in board.rows[: N_BELOW_BEST + 1]]
    found: dict[tuple[str, str], Pairing] = {}
    for i, below in enumerate(first[1:], start=1):
        # Never "places 1 and 2": the order of rows that nothing tells apart is no ranking.
        for above, why in ((first[0], "the board's first row and another"), (first[i - 1], "neighbours on the board")):
            if not refusal(above, below):
                found.setdefault((above.run_id, below.run_id), Pairing(above, below, why))
    return list(found.values())


def requested(site: Site) -> list[Pairing]:
    """The pairs that somebody asked for and whose runs are there, still comparable."""
    found = []
    for a, b in (pair for root in site.roots for pair in _asked(root)):
        first, second = site.run_by_id.get(a), site.run_by_id.get(b)
        if first is not None and second is not None and not refusal(first, second):
            found.append(Pairing(first, second, "asked for"))
    return found


def request(runs_dir: Path, runs: Mapping[str, Run], a: str, b: str) -> str:
    """Keeps a pair for this and every later build; returns the page's path in the site.

    Raises:
        UserError: a run that is not there, or two that cannot be compared, with the field that differs.
    """
    for name in (a, b):
        if name not in runs:
            raise unknown_name("run", name, sorted(runs), "bench status")
    if a == b:
        raise UserError("a run cannot be compared with itself", hint=f"the page of run {a} compares it with the base")
    problem = refusal(runs[a], runs[b])
    if problem:
        raise UserError(f"runs {a} and {b} cannot be compared: {problem}",
                        valid="two runs on the same prompts, noise seeds, sampler and base model")  # fmt: skip
    asked = _asked(runs_dir)
    if (a, b) not in asked:
        atomic.write_json(runs_dir / _FILE, [list(pair) for pair in [*asked, (a, b)]])
    return Pairing(runs[a], runs[b], "asked for").path


def _asked(runs_dir: Path) -> list[tuple[str, str]]:
    path = runs_dir / _FILE
    if not path.is_file():
        return []
    found = atomic.read_json(path)
    if not isinstance(found, list) or not all(isinstance(p, list) and len(p) == 2 for p in found):
        raise UserError(f"{path} is damaged: it is no list of pairs of run ids", hint=f"move {path} away")
    return [(str(a), str(b)) for a, b in found]


def refusal(a: Run, b: Run) -> str:
    """Why two runs' images are no pairs, naming every field that differs; empty where they are."""
    for run in (a, b):
        if run.external is not None:
            return f"the images of {run.run_id} are from elsewhere and share no noise with any run's"
        if run.final is None:
            return f"run {run.run_id} has no tuned snapshot"
    fields = ("prompt_hash", "limit", "eval_seeds", "sampler", "model", "model_revision")
    mine, other = ({key: run.spec.get(key) for key in fields} for run in (a, b))
    return "; ".join(compare_tables.differing(mine, other))


def compare_page(pair: Pairing) -> Made:
    a, b = pair.a, pair.b
    first, second = Side.tuned(Evidence(a)), Side.tuned(Evidence(b))
    names = (f"A {_name(a, b)}", f"B {_name(b, a)}")
    changes = compare_tables.comparable(first, second)
    roles = compare_tables.joint_roles(first, second)
    shown = gallery.choose(first, second, changes, roles, "best for A", "best for B")
    pictures = shown.pictures
    prompts = first.evidence.prompts or second.evidence.prompts
    page = render(
        "compare.jinja", styles=("gallery.css", "plot.css", "compare.css"), scripts=("gallery.js", "charts.js"),
        root=root_of(pair.path), a=a, b=b, names=names, why=pair.why, sample="sample" in (a.edition, b.edition),
        metrics=compare_tables.metrics(first, second, changes, roles), n_tested=len(changes),
        budgets=compare_tables.budgets(a, b),
        settings=compare_tables.settings(a, b), charts=compare_tables.charts(a, b, names), gallery=shown,
        pictures=list(pictures.values()),
        categories=[categories.view(t, roles) for t in categories.by_category(prompts, changes)],
        problems=[*first.evidence.problems, *(p for p in second.evidence.problems
                                              if p not in first.evidence.problems)],
    )  # fmt: skip
    return page, pictures


def _index_page(rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], sample: bool) -> Made:
    return render("compare_index.jinja", root=root_of(INDEX), rows=rows, rule=RULE, sample=sample), {}


def _link(pair: Pairing) -> dict[str, Any]:
    return {"href": pair.path.partition("/")[2], "a": _name(pair.a, pair.b), "b": _name(pair.b, pair.a),
            "why": pair.why, "ids": f"{pair.a.run_id} and {pair.b.run_id}"}  # fmt: skip


def _name(run: Run, other: Run) -> str:
    """The tuner, and what tells two runs of one tuner apart."""
    if run.tuner != other.tuner:
        return run.tuner
    changed = {k: v for k, v in sorted(run.changed.items()) if other.changed.get(k) != v}
    parts = [f"{k} = {wording.plain_value(v)}" for k, v in changed.items()]
    if run.trained_reward != other.trained_reward:
        parts.append(run.trained_reward)
    if run.seed != other.seed:
        parts.append(f"seed {run.seed}")
    return f"{run.tuner} ({', '.join(parts) or run.run_id})"
