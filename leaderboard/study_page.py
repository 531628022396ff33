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

MAX_SERIES = 4
"""Contestants that a row of a chart can hold and still be read."""


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

    kind: str
    question: str
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
    """One kind of figure under all questions."""

    title: str
    lines: tuple[Line, ...]
    chart: Markup | None


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
    order = study.entry.contestants
    runs = sorted((r for r in study.runs if r.run_id in order), key=lambda r: order.index(r.run_id))
    at = f"studies/{study.entry.study}"
    problems: list[str] = []
    facts = {name: _file(runs[0], f"{at}/{name}.json", problems) for name in ("study", "key", "raters")}
    labels = {c["name"]: c["label"] for c in (facts["key"] or {}).get("contestants", [])}
    questions = {q["id"]: q for q in (facts["study"] or {}).get("questions", [])}
    lines = [line for run in runs for line in _lines(study, run, labels)]
    page = render(
        "study.jinja", styles=("plot.css",), scripts=("charts.js",), root=root_of(study.path),
        study=study.entry, form=FORMS[study.entry.kind],
        suite=runs[0].suite, sample=runs[0].edition == "sample", groups=_groups(lines, questions),
        questions=_questions(lines, questions), raters=facts["raters"] or [],
        contestants=[_contestant(name, runs, labels) for name in order], rules=facts["study"],
        passport=lines[0].metric.passport if lines else {}, problems=problems,
        votes=f"{runs[0].place}/{study.entry.votes}",
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
        kind = wording.kind_of(metric.name)
        half = ((metric.ci_high or 0) - (metric.ci_low or 0)) / 2
        digits = wording.places(metric.name, [metric.value], [half])
        d = metric.detail
        counts = f"{d['wins']} / {d['ties']} / {d['losses']}" if "wins" in d else ""
        yield Line(
            kind, metric.name.split("/")[1], run.run_id, labels.get(run.run_id, run.tuner),
            labels.get(against, against), metric, wording.figure(metric.name, metric.value, digits),
            wording.span(metric.name, metric.ci_low, metric.ci_high, digits), counts,
        )  # fmt: skip


_KINDS = ("human-rank", "human-scale", "human")


def _groups(lines: Sequence[Line], questions: Mapping[str, Any]) -> list[Group]:
    """Ranks, scores and win rates, each in the order of the form's questions."""
    known = list(questions)
    made = []
    for kind in _KINDS:
        mine = [x for x in lines if x.kind == kind]
        mine.sort(key=lambda x: known.index(x.question) if x.question in known else len(known))
        if mine:
            made.append(Group(wording.METRIC_KINDS[kind][0], tuple(mine), _chart(kind, mine, questions)))
    return made


def _questions(lines: Sequence[Line], questions: Mapping[str, Any]) -> list[dict[str, str]]:
    """Label, wording and agreement of each question."""
    passports = {x.question: x.metric.passport for x in lines}
    return [{"label": q["label"], "text": q["text"], "alpha": _alpha(passports.get(name, {}))}
            for name, q in questions.items()]  # fmt: skip


def _alpha(passport: Mapping[str, Any]) -> str:
    alpha, low, high = (passport.get(k) for k in ("krippendorff_alpha", "alpha_low", "alpha_high"))
    if alpha is None:
        return "not defined: no two raters met on a prompt, or all said the same"
    return f"{alpha:.2f} ({low:.2f} to {high:.2f})".replace("-", "−")


def _chart(kind: str, lines: Sequence[Line], questions: Mapping[str, Any]) -> Markup | None:
    """A row for each question with the contestants in it, or a row for each line where there are many or one."""
    if len(lines) < 2:
        return None
    names = [f"{x.who} – {x.against.removeprefix('base model ')}" if x.against else x.who for x in lines]
    asked = list(dict.fromkeys(x.question for x in lines))
    by_question = len(asked) > 1 and len(set(names)) <= MAX_SERIES
    labels = {q: questions.get(q, {"label": q})["label"] for q in asked}
    rows = list(labels.values()) if by_question else names
    if len(asked) > 1 and not by_question:
        rows = [f"{labels[x.question]}: {name}" for x, name in zip(lines, names, strict=True)]
    points = [
        charts.Point(asked.index(x.question) if by_question else i, x.metric.value or 0.0, x.metric.ci_low,
                     x.metric.ci_high, names[i] if by_question else "people", "held-out")
        for i, x in enumerate(lines)
    ]  # fmt: skip
    middle = (1 + len(lines[0].metric.passport.get("contestants", []))) / 2
    axis, neutral = {
        "human": (charts.Axis("win rate", ".0%"), 0.5), "human-scale": (charts.Axis("mean score"), 0.0),
        "human-rank": (charts.Axis("mean rank, 1 is best"), middle),
    }[kind]  # fmt: skip
    return charts.forest(points, rows, axis, neutral=neutral)
