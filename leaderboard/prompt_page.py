"""One prompt: the base model and every tuner of a board along the budget, at equal noise, scores beside the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from leaderboard import wording
from leaderboard.evidence import Evidence, Key, Picture, PromptLine, Score, Shot, Side, traces
from leaderboard.page import Made, Page, Site, inputs_of, root_of, run_path, slug
from leaderboard.pages import board_text, render
from leaderboard.run import Metric, Run
from leaderboard.run_charts import metric_order
from leaderboard.table import Board

INDEX = "prompts/index.html"
N_FIRST = 8
N_DISPUTED = 8
N_ROWS = 12
"""Prompts a board and rows a prompt that have pictures: what a site of thousands of runs can carry."""


@dataclass(frozen=True)
class Chosen:
    """The prompts of one board that have a page, in the order of the list, and why."""

    board_key: str
    title: str
    sample: bool
    runs: tuple[Run, ...]
    n_rows: int
    prompts: tuple[tuple[PromptLine, str], ...]
    n_prompts: int
    rule: str

    @property
    def folder(self) -> str:
        return f"prompts/{self.board_key}"

    def path(self, prompt_id: str) -> str:
        return f"{self.folder}/p-{slug(prompt_id)}.html"


def pages(site: Site) -> Iterator[Page]:
    lists = []
    for board in site.boards:
        chosen = choose(board)
        if chosen is None:
            continue
        facts = [[r.place, r.digest, traces(r)] for r in chosen.runs]
        told = [[p.id, p.text, p.tags, why] for p, why in chosen.prompts]
        inputs = inputs_of(facts, told, chosen.title, chosen.sample, chosen.n_rows, chosen.n_prompts)
        yield Page(f"{chosen.folder}/index.html", inputs, partial(_list_page, chosen))
        for i, (prompt, _) in enumerate(chosen.prompts):
            yield Page(chosen.path(prompt.id), inputs, partial(prompt_page, chosen, i))
        lists.append([chosen.board_key, chosen.title, len(chosen.prompts), chosen.n_prompts])
    sample = any(run.edition == "sample" for run in site.runs)
    yield Page(INDEX, inputs_of(lists, sample), partial(_index_page, lists, sample))


def listed(site: Site) -> dict[str, str]:
    """Where the prompts of each board are listed, by its key; boards without prompts at hand are left out."""
    return {board.key: f"prompts/{board.key}/index.html" for board in site.boards if _first_evidence(board) is not None}


def _shown_runs(board: Board) -> tuple[Run, ...]:
    """The first seed of the first rows, in the board's order."""
    return tuple(row.runs[0] for row in board.rows[:N_ROWS])


def _first_evidence(board: Board) -> Evidence | None:
    """The first run whose prompts are there; they are the same for all of a board."""
    for run in _shown_runs(board):
        evidence = Evidence(run)
        if evidence.prompts:
            return evidence
    return None


def choose(board: Board) -> Chosen | None:
    """The first prompts of the suite and those that tuners dispute most: a rule, nothing by hand."""
    head = _first_evidence(board)
    if head is None:
        return None
    runs = _shown_runs(board)
    first = list(head.prompts)[:N_FIRST]
    judge, spread = _spread(runs)
    ranked = sorted((p for p in spread if p not in first and p in head.prompts), key=lambda p: (-spread[p], p))
    why = dict.fromkeys(first, "among the first of the suite")
    rule = f"The first {N_FIRST} of the suite's {len(head.prompts):,} prompts"
    if judge:
        why |= dict.fromkeys(ranked[:N_DISPUTED], "among those that the rows dispute most")
        rule += (f", and the {N_DISPUTED} on which the rows' images lie farthest apart under {judge}, a held-out "
                 "metric (largest minus smallest mean over noise seeds)")  # fmt: skip
    if len(board.rows) > N_ROWS:
        rule += f"; the first {N_ROWS} of the board's {len(board.rows)} rows, one tuning seed each"
    return Chosen(
        board_key=board.key, title=board_text(board), sample=board.edition == "sample", runs=runs,
        n_rows=len(board.rows), prompts=tuple((head.prompts[p], why[p]) for p in why), n_prompts=len(head.prompts),
        rule=f"{rule}. Nothing is chosen by hand.",
    )  # fmt: skip


def _spread(runs: Sequence[Run]) -> tuple[str, dict[str, float]]:
    """The held-out metric that all runs have scores for, and by prompt how far the runs' means lie apart under it."""
    final = [run.entries(run.final) for run in runs]
    shared = [m for name, m in final[0].items() if m.scores is not None and m.role == "held-out" and all(
        name in found and found[name].role == "held-out" and found[name].scores is not None
        and found[name].passport == m.passport for found in final)]  # fmt: skip
    if len(runs) < 2 or not shared:
        return "", {}
    judge = min(shared, key=lambda m: (f"winrate/{m.judge}" not in final[0], not m.judge, m.name)).name
    means: dict[str, list[float]] = {}
    for run, entries in zip(runs, final, strict=True):
        values: dict[str, list[float]] = {}
        for (prompt, _), score in Evidence(run).scores(entries[judge]).items():
            if score.value is not None:
                values.setdefault(prompt, []).append(score.value)
        for prompt, found in values.items():
            means.setdefault(prompt, []).append(sum(found) / len(found))
    return judge, {p: max(found) - min(found) for p, found in means.items() if len(found) == len(runs)}


@dataclass(frozen=True)
class Stop:
    """One model's image of the prompt at one share of the budget."""

    share: str
    shot: Shot
    scores: tuple[tuple[str, str, str], ...]
    """Metric, value, change against the base from the same noise: of the judges that boards rank by, and TIFA."""
    more: tuple[tuple[str, str, str], ...]
    """The other metrics'."""
    reason: str
    """What a metric says of the image in words, such as TIFA's wrong answers."""


def prompt_page(chosen: Chosen, number: int) -> Made:
    prompt, why = chosen.prompts[number]
    shares = _shares(chosen.runs)
    pictures: dict[str, Picture] = {}
    problems: list[str] = []
    rows = []
    seed: int | None = None
    for run in chosen.runs:
        evidence = Evidence(run, only=prompt.id)
        base = Side.base(evidence)
        if seed is None:
            seed = next((s for p, s in [*base.index, *Side.tuned(evidence).index] if p == prompt.id), 0)
        stops = _stops(evidence, base, (prompt.id, seed))
        changed = ", ".join(f"{k} = {wording.plain_value(v)}" for k, v in sorted(run.changed.items()))
        rows.append({"run": run, "href": "../../" + run_path(run.run_id), "changed": changed,
                     "stops": [stops.get(share) for share in shares]})  # fmt: skip
        problems += [f"{run.tuner} {run.run_id}: {p}" for p in evidence.problems]
        found = (stop.shot.picture for stop in stops.values())
        pictures |= {picture.name: picture for picture in found if picture is not None}
    questions = Evidence(chosen.runs[0], only=prompt.id).questions(prompt.id)
    path = chosen.path(prompt.id)
    links = [{"href": chosen.path(p.id).rpartition("/")[2], "text": p.text, "here": p.id == prompt.id}
             for p, _ in chosen.prompts]  # fmt: skip
    page = render(
        "prompt.jinja", styles=("gallery.css", "prompt.css"), scripts=("prompt.js",), root=root_of(path),
        prompt=prompt, why=why, board=chosen, sample=chosen.sample, shares=list(map(wording.share, shares)), rows=rows,
        seed=seed, questions=questions, links=links, number=number, problems=problems, pictures=list(pictures.values()),
    )  # fmt: skip
    return page, pictures


def _list_page(chosen: Chosen) -> Made:
    rows = [{"href": chosen.path(p.id).rpartition("/")[2], "prompt": p, "why": why} for p, why in chosen.prompts]
    return render("prompt_index.jinja", root=root_of(chosen.folder + "/x"), board=chosen, rows=rows,
                  sample=chosen.sample), {}  # fmt: skip


def _index_page(lists: Sequence[Sequence[Any]], sample: bool) -> Made:
    return render("prompt_boards.jinja", root=root_of(INDEX), lists=lists, sample=sample), {}


def _shares(runs: Sequence[Run]) -> list[float]:
    """Every share of the budget at which some run has a snapshot."""
    return sorted({s.fraction for run in runs for s in run.snapshots})


def _stops(evidence: Evidence, base: Side, key: Key) -> dict[float, Stop]:
    before = {name: evidence.scores(m).get(key) for name, m in base.entries.items()}
    judges = {m.judge for m in evidence.run.metrics if m.judge and wording.kind_of(m.name) == "winrate"}
    stops = {}
    for snapshot in evidence.run.snapshots:
        side = Side(evidence, snapshot)
        found = {name: (m, evidence.scores(m).get(key)) for name, m in side.entries.items()}
        known = {name: (m, score) for name, (m, score) in found.items() if score is not None}
        names = sorted((n for n in known if wording.kind_of(n) != "winrate"), key=lambda n: metric_order(known[n][0]))
        texts = {n: _score_text(*known[n], before.get(n) if snapshot.fraction else None) for n in names}
        main = [n for n in names if wording.kind_of(n) == "tifa" or known[n][0].judge in judges]
        words = [s.reason for name, (_, s) in known.items() if s.reason and wording.kind_of(name) == "tifa"]
        stops[snapshot.fraction] = Stop(wording.share(snapshot.fraction), side.shot(key), tuple(texts[n] for n in main),
                                        tuple(texts[n] for n in names if n not in main), "; ".join(words))  # fmt: skip
    return stops


def _score_text(entry: Metric, score: Score, before: Score | None) -> tuple[str, str, str]:
    decimals = min(4, wording.places(entry.name, [score.value or 0.0], []))
    change = ""
    if before is not None and before.value is not None and score.value is not None:
        change = wording.figure(entry.name, score.value - before.value, decimals, signed=True)
    return entry.name, wording.figure(entry.name, score.value, decimals), change
