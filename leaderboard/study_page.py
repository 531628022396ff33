"""A page a human study: who met whom, win rates, ranks and scores with intervals, agreement, and who was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from bench.core.errors import UserError
from bench.core.record import MetricEntry, StudyEntry
from bench.store import atomic
from leaderboard import charts, wording
from leaderboard.page import Made, Page, Site, inputs_of, root_of, run_path
from leaderboard.pages import render
from leaderboard.run import Run

INDEX = "studies/index.html"
FORMS = {
    "pairwise": "two images of one prompt, which is better (the form of HG-DPO's study)",
    "rank": "images in order, by alignment and by fidelity (the form of RealignDiff's study)",
    "scale": "−5 to 5 on six dimensions (the form of TreeReward's study)",
}


@dataclass(frozen=True)
class Study:
    """One study, with the runs of this site that it judged."""

    entry: StudyEntry
    runs: tuple[Run, ...]

    @property
    def path(self) -> str:
        return f"studies/{self.entry.study}.html"


@dataclass(frozen=True)
class Line:
    """One figure, said of one run."""

    run_id: str
    who: str
    against: str
    metric: MetricEntry
    text: str
    span: str
    counts: str
    """Wins, ties and losses, where there are any."""


@dataclass(frozen=True)
class Group:
    """One question under one kind of figure."""

    title: str
    help: str
    lines: tuple[Line, ...]
    chart: Markup | None
    agreement: str


def pages(site: Site) -> Iterator[Page]:
    found = studies(site)
    for study in found:
        yield Page(study.path, inputs_of([[r.place, r.digest] for r in study.runs]), partial(study_page, study))
    rows = [_index_row(study) for study in found]
    sample = any(run.edition == "sample" for run in site.runs)
    yield Page(INDEX, inputs_of(rows, sample), partial(_index_page, rows, sample))


def studies(site: Site) -> list[Study]:
    """Every study in the records, by id."""
    entries: dict[str, StudyEntry] = {}
    judged: dict[str, list[Run]] = {}
    for run in site.runs:
        if run.n_raters:
            for entry in run.record.studies:
                entries.setdefault(entry.study, entry)
                judged.setdefault(entry.study, []).append(run)
    return [Study(entries[key], tuple(judged[key])) for key in sorted(entries)]


def _index_row(study: Study) -> dict[str, Any]:
    e = study.entry
    return {
        "href": study.path.partition("/")[2], "id": e.study, "kind": e.kind, "suite": study.runs[0].suite,
        "who": [r.tuner for r in study.runs], "base": "base" in e.contestants, "n_raters": e.n_raters,
        "n_excluded": e.n_excluded, "n_votes": e.n_votes,
    }  # fmt: skip


def _index_page(rows: Sequence[Mapping[str, Any]], sample: bool) -> Made:
    return render("study_index.jinja", root=root_of(INDEX), rows=rows, sample=sample), {}


def study_page(study: Study) -> Made:
    """The page of one study, from the records and the study's files in the first run's folder."""
    first = study.runs[0]
    at = f"studies/{study.entry.study}"
    problems: list[str] = []
    facts = {name: _file(first, f"{at}/{name}.json", problems) for name in ("study", "key", "raters")}
    labels = {c["name"]: c["label"] for c in (facts["key"] or {}).get("contestants", [])}
    lines = [line for run in study.runs for line in _lines(study, run, labels)]
    page = render(
        "study.jinja", root=root_of(study.path), study=study.entry, form=FORMS[study.entry.kind], suite=first.suite,
        sample=first.edition == "sample", groups=_groups(lines, facts["study"]), raters=facts["raters"] or [],
        contestants=[_contestant(name, study.runs, labels) for name in study.entry.contestants],
        rules=facts["study"], passport=lines[0].metric.passport if lines else {}, problems=problems,
        votes=f"{first.place}/{study.entry.votes}",
    )  # fmt: skip
    return page, {}


def _file(run: Run, name: str, problems: list[str]) -> Any:
    try:
        return atomic.read_json(run.inside(*name.split("/")))
    except (UserError, OSError) as err:
        problems.append(f"{name}: {err}")
        return None


def _contestant(name: str, runs: Sequence[Run], labels: Mapping[str, str]) -> dict[str, str]:
    known = next((run for run in runs if run.run_id == name), None)
    return {"name": name, "label": labels.get(name, name), "href": f"../{run_path(name)}" if known else ""}


def _lines(study: Study, run: Run, labels: Mapping[str, str]) -> Iterator[Line]:
    order = study.entry.contestants
    for metric in run.record.metrics:
        if metric.passport.get("study") != study.entry.study or metric.value is None:
            continue
        against = str(metric.passport.get("against", ""))
        mirrored = against in order and against != "base" and order.index(against) < order.index(run.run_id)
        if mirrored and any(r.run_id == against for r in study.runs):
            continue  # the opponent's line says it already
        kind, width = wording.kind_of(metric.name), [(metric.ci_high or 0) - (metric.ci_low or 0)]
        digits = wording.places(metric.name, [metric.value], [w / 2 for w in width])
        d = metric.detail
        counts = f"{d['wins']} / {d['ties']} / {d['losses']}" if "wins" in d else ""
        yield Line(
            run.run_id, labels.get(run.run_id, run.tuner), labels.get(against, against) if kind != "human-rank" else "",
            metric, wording.figure(metric.name, metric.value, digits),
            wording.span(metric.name, metric.ci_low, metric.ci_high, digits), counts,
        )  # fmt: skip


def _groups(lines: Sequence[Line], study: Mapping[str, Any] | None) -> list[Group]:
    """Win rates, ranks and scores, each by question, in the order of the form."""
    asked = [q["id"] for q in (study or {}).get("questions", [])]
    texts = {q["id"]: q for q in (study or {}).get("questions", [])}

    def question(line: Line) -> str:
        return line.metric.name.split("/")[1]

    keys = dict.fromkeys((wording.kind_of(line.metric.name), question(line)) for line in lines)
    kinds = ("human-rank", "human-scale", "human")
    known = [*asked, *sorted({q for _, q in keys} - set(asked))]
    ordered = sorted(keys, key=lambda k: (kinds.index(k[0]), known.index(k[1])))
    made = []
    for kind, name in ordered:
        mine = tuple(x for x in lines if (wording.kind_of(x.metric.name), question(x)) == (kind, name))
        text = texts.get(name, {"label": name, "text": ""})
        what = wording.METRIC_KINDS[kind][0]
        made.append(Group(
            f"{what}: {text['label']}", text["text"], mine, _chart(kind, mine), _agreement(mine[0].metric.passport),
        ))  # fmt: skip
    return made


def _agreement(passport: Mapping[str, Any]) -> str:
    alpha, low, high = (passport.get(k) for k in ("krippendorff_alpha", "alpha_low", "alpha_high"))
    if alpha is None:
        return "not defined: no two raters met on a prompt, or all said the same"
    return f"{alpha:.2f} ({low:.2f} to {high:.2f})".replace("-", "−")


def _chart(kind: str, lines: Sequence[Line]) -> Markup | None:
    if len(lines) < 2:
        return None
    points = [charts.Point(i, x.metric.value or 0.0, x.metric.ci_low, x.metric.ci_high, "people", "held-out")
              for i, x in enumerate(lines)]  # fmt: skip
    names = [f"{x.who} against {x.against}" if x.against else x.who for x in lines]
    axis, neutral = {
        "human": (charts.Axis("win rate", ".0%"), 0.5), "human-scale": (charts.Axis("mean score"), 0.0),
        "human-rank": (charts.Axis("mean rank, 1 is best"), (1 + len(lines)) / 2),
    }[kind]  # fmt: skip
    return Markup(charts.forest(points, names, axis, neutral=neutral))
