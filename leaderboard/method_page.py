"""A page for every method on the boards, from what its tuner says of itself: paper, equations, deviations, settings.

This package never loads a tuner. Whoever builds the site passes the metadata as plain data (``bench.cli`` does, for the
tuners that appear in the records); a method whose plug-in is not installed has a page that says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from leaderboard import wording
from leaderboard.page import Made, Page, Site, inputs_of, root_of, run_path, slug
from leaderboard.pages import board_text, render
from leaderboard.run import Run

Method = Mapping[str, Any]
"""``bench show tuner NAME --json``; or ``{"error": why it is not known}``."""

INDEX = "methods/index.html"
_NEEDS = {
    "differentiable-reward": "a reward with a gradient",
    "black-box-reward": "any reward, with or without a gradient",
    "pairs": "preference pairs, which it makes",
    "images": "images, which it makes",
    "reference": "the base model beside the tuned one",
    "attention": "access to the attention layers",
}


def method_path(run: Run) -> str:
    """The page of a run's method. A tuner given as a file is another method than an installed one of its name."""
    name, sha256 = str(run.spec["tuner"]), str(run.spec.get("tuner_sha256") or "")
    return f"methods/{slug(f'{name}-{sha256[:12]}' if sha256 else name)}.html"


def method_of(site: Site, run: Run) -> Method | None:
    """What the tuner of a run says of itself; None where nobody knows."""
    found = None if run.spec.get("tuner_sha256") else site.methods.get(str(run.spec["tuner"]))
    return None if found is None or "error" in found else found


def pages(site: Site) -> Iterator[Page]:
    runs: dict[str, list[Run]] = {}
    for run in site.runs:
        if run.external is None:
            runs.setdefault(method_path(run), []).append(run)
    boards = {run.run_id: board_text(board) for board in site.boards for run in board.runs}
    rows = []
    for path in sorted(runs):
        mine = sorted(runs[path], key=lambda r: (boards.get(r.run_id, ""), r.tuner, r.reward, r.seed, r.run_id))
        name, head = str(mine[0].spec["tuner"]), mine[0]
        method = _known(site, head)
        used = [_used(run, boards.get(run.run_id, "not ranked")) for run in mine]
        versions = sorted({wording.plain_value(run.spec.get("tuner_version")) for run in mine})
        sample = all(run.edition == "sample" for run in mine)
        yield Page(path, inputs_of(name, method, used, versions, sample),
                   partial(_method_page, path, name, method, used, versions, sample))  # fmt: skip
        rows.append([path.partition("/")[2], name, method.get("summary") or method["error"], len(mine)])
    sample = all(run.edition == "sample" for run in site.runs)
    yield Page(INDEX, inputs_of(rows, sample), partial(_index_page, rows, sample))


def _known(site: Site, run: Run) -> Method:
    name = str(run.spec["tuner"])
    if run.spec.get("tuner_sha256"):
        return {"error": f"{name} was given as a file of digest {str(run.spec['tuner_sha256'])[:12]}; such a file's "
                         "own words are not in the records"}  # fmt: skip
    unknown = {"error": f"the plug-in of {name} was not at hand when this site was made"}
    return site.methods.get(name, unknown)


def _used(run: Run, board: str) -> dict[str, Any]:
    changed = ", ".join(f"{k} = {wording.plain_value(v)}" for k, v in sorted(run.changed.items()))
    return {"href": run_path(run.run_id), "label": run.tuner, "seed": run.seed, "changed": changed, "board": board,
            "reward": run.trained_reward, "status": run.status}  # fmt: skip


def _method_page(
    path: str, name: str, method: Method, used: Sequence[Mapping[str, Any]], versions: Sequence[str], sample: bool
) -> Made:
    groups: dict[str, list[dict[str, Any]]] = {}
    for setting, facts in (method.get("settings") or {}).items():
        groups.setdefault(str(facts.get("group") or ""), []).append(
            {"name": setting, "default": _plain(facts["default"]), "unit": facts.get("unit") or "",
             "help": facts.get("help") or "", "source": facts.get("source") or "", "valid": _valid(facts)}
        )  # fmt: skip
    presets = [(preset, ", ".join(f"{k} = {_plain(v)}" for k, v in values.items()) or "the defaults")
               for preset, values in (method.get("presets") or {}).items()]  # fmt: skip
    needs = [(need, _NEEDS.get(need, "")) for need in method.get("needs") or ()]
    page = render("method.jinja", root=root_of(path), name=name, method=method, groups=groups, presets=presets,
                  needs=needs, used=used, versions=versions, sample=sample)  # fmt: skip
    return page, {}


def _index_page(rows: Sequence[Sequence[Any]], sample: bool) -> Made:
    return render("method_index.jinja", root=root_of(INDEX), rows=rows, sample=sample), {}


def _valid(facts: Mapping[str, Any]) -> str:
    if facts.get("choices"):
        return ", ".join(map(_plain, facts["choices"]))
    low, high = (None if facts.get(key) is None else _plain(facts[key]) for key in ("low", "high"))
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def _plain(value: Any) -> str:
    """As one types it: true, 0.0003; an empty text is shown as one."""
    return '""' if value == "" else wording.plain_value(value)
