"""``bench study import``: votes into the records of the runs that they judge. Importing twice changes nothing.

DIR/votes/<rater>.json                     every ballot that was ever imported: the union is what counts
<run>/studies/<study>/votes.jsonl          who said what of whom, un-blinded; excluded raters too
<run>/studies/<study>/raters.json          each rater's votes and attention checks
<run>/studies/<study>/{study,key}.json     what the votes mean, so that the run folder explains itself
<run>/record.json                          metrics ``human…``, and the study among ``studies``
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.identity import file_sha256
from bench.core.record import Artifact, MetricEntry, Record, StudyEntry, is_human
from bench.metrics.images import read_folder
from bench.store import atomic
from bench.store.lock import exclusive
from bench.store.runs import RunFolder, find_run
from bench.study.ballot import Ballot, Refused, Vote, ballot, check_rater, export, read_ballot
from bench.study.database import NAME, Votes
from bench.study.form import ATTENTION_RULE, BASE
from bench.study.tally import Attention, Meeting, Place, Tally, comparisons, tally

if TYPE_CHECKING:
    from bench.core.paired import Interval

LOCK_WAIT_S = 60.0


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    tally: Tally
    taken: tuple[str, ...]
    """Raters whose votes are new or more than before."""
    known: tuple[str, ...]
    """Raters whose votes were there already."""
    refused: tuple[str, ...]
    """Files and raters that were not taken, each with the reason."""
    runs: tuple[Path, ...]
    """Run folders whose records hold the study's figures now."""


def open_study(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``study.json`` and ``key.json``. Raises UserError where they are none, newer, or not of one study."""
    for name in ("study", "key"):
        if not (folder / f"{name}.json").is_file():
            raise UserError(f"{folder} is no study: it has no {name}.json", hint="bench study new --help")
    study, key = (atomic.read_json(folder / f"{name}.json") for name in ("study", "key"))
    for value, schema in ((study, "tunebench/study"), (key, "tunebench/study-key")):
        if value.get("schema") != schema or value.get("schema_version") != 1:
            raise UserError(f"{folder}: this program cannot read {schema} version {value.get('schema_version')}",
                            valid="version 1", hint="pip install --upgrade tunebench")  # fmt: skip
    if key["study"] != study["id"]:
        raise UserError(f"{folder}: key.json is of study {key['study']}, study.json of {study['id']}")
    return study, key


def import_votes(folder: Path, files: Sequence[Path], runs: Path | None = None) -> Imported:
    """Takes ballots from files and from the server's database, and writes the figures of all ballots so far.

    Args:
        files: exported by the page.
        runs: where the runs are now; None is where they were when the study was made.

    Raises:
        UserError: not a study; a run is gone; no ballot at all.
    """
    study, key = open_study(folder)
    with exclusive(folder / "lock", f"study {study['id']}", wait_s=LOCK_WAIT_S):
        kept = {b.rater: b for b in (read_ballot(study, p) for p in sorted((folder / "votes").glob("*.json")))}
        folders = [find_run(runs or Path(key["runs"]), name) for name in _run_names(key)]
        for run in folders:
            take(study, kept, ballots_in(run.root, study))  # that ``bench merge`` brought from elsewhere
        taken, known, refused = take(study, kept, _offered(study, folder, files))
        for rater in taken:
            atomic.write_json(folder / "votes" / f"{rater}.json", export(study, rater, kept[rater].votes))
        if not kept:
            raise UserError("; ".join(refused) or "there are no votes to import",
                            valid="files that the page saved, or votes that came through the server")  # fmt: skip
        found = tally(study, key, list(kept.values()))
        for run in folders:
            write_figures(study, key, kept, found, run)
        where = [run.root for run in folders]
    return Imported(found, tuple(taken), tuple(known), tuple(refused), tuple(where))


def _offered(study: Mapping[str, Any], folder: Path, files: Sequence[Path]) -> Iterator[Ballot | str]:
    """Ballots, and for each file that is none the reason."""
    for path in files:
        try:
            yield read_ballot(study, path)
        except UserError as err:
            yield err.problem
    if (folder / NAME).exists():
        yield from Votes(folder, study).ballots()


def ballots_in(run: Path, study: Mapping[str, Any]) -> Iterator[Ballot]:
    """What raters said in a study, from a run folder; nothing where it holds none.

    Raises:
        UserError: a vote that the study did not ask for.
    """
    path = run / "studies" / study["id"] / "votes.jsonl"
    by_rater: dict[str, list[Vote]] = {}
    for row in atomic.read_jsonl(path) if path.is_file() else ():
        by_rater.setdefault(row["rater"], []).append(Vote(row["trial"], row["revision"], row["answers"], row["ms"]))
    for rater in sorted(by_rater):
        try:
            yield ballot(study, check_rater(rater), by_rater[rater], f"{run.name}/{path.relative_to(run)}")
        except Refused as err:
            raise UserError(f"{path}: {err}") from err


def take(
    study: Mapping[str, Any], kept: dict[str, Ballot], offered: Iterable[Ballot | str]
) -> tuple[list[str], list[str], list[str]]:
    """Adds to ``kept`` what is new. A rater's later file replaces an earlier one only where it holds all of it: each
    trial at the same revision or a higher one."""
    taken: dict[str, None] = {}
    known: dict[str, None] = {}
    refused: list[str] = []
    for new in offered:
        if isinstance(new, str):
            refused.append(new)
            continue
        old = kept.get(new.rater)
        if old is None or _extends(new, old):
            kept[new.rater] = new
            taken[new.rater] = None
        elif _extends(old, new) or _same(old, new):
            known[new.rater] = None
        else:
            refused.append(f"{new.source}: rater {new.rater} voted already, and otherwise; the first votes stay")
    return list(taken), [r for r in known if r not in taken], refused


def _facts(ballot: Ballot) -> dict[str, tuple[int, str]]:
    return {v.trial: (v.revision, json.dumps(dict(v.answers), sort_keys=True)) for v in ballot.votes}


def _same(a: Ballot, b: Ballot) -> bool:
    return _facts(a) == _facts(b)


def _extends(new: Ballot, old: Ballot) -> bool:
    """Whether ``new`` is what the page that saved ``old`` saved later."""
    a, b = _facts(new), _facts(old)
    return a != b and all(trial in a and (a[trial] == b[trial] or a[trial][0] > b[trial][0]) for trial in b)


def _run_names(key: Mapping[str, Any]) -> list[str]:
    return [c["name"] for c in key["contestants"] if c["name"] != BASE]


def write_figures(
    study: Mapping[str, Any], key: Mapping[str, Any], kept: Mapping[str, Ballot], found: Tally, folder: RunFolder
) -> None:
    """Raw votes, study, key and figures into one run; files that would not change are left alone."""
    name = folder.root.name
    with exclusive(folder.lock_path, f"run {name}", wait_s=LOCK_WAIT_S):
        old = folder.read_record()
        _check_images(key, folder, old)
        at = folder.root / "studies" / study["id"]
        votes = at / "votes.jsonl"
        _keep(votes, [json.dumps(row, sort_keys=True) for row in _raw(key, kept, found.attention)])
        for part, value in (
            ("study", dict(study)),
            ("key", {k: v for k, v in key.items() if k not in ("runs", "secret")}),
        ):
            _keep(at / f"{part}.json", [json.dumps(value, sort_keys=True)])
        raters = [{**dataclasses.asdict(a), "counts": a.counts} for a in found.attention]
        _keep(at / "raters.json", [json.dumps(raters, sort_keys=True)])
        path = votes.relative_to(folder.root).as_posix()
        entry = StudyEntry(
            study=study["id"], kind=study["kind"], votes=path, sha256=file_sha256(votes),
            contestants=[c["name"] for c in key["contestants"]], n_raters=found.n_raters, n_excluded=found.n_excluded,
            n_votes=found.n_votes,
        )  # fmt: skip
        record = _with_study(old, entry, list(_entries(study, key, found, name, old)))
        if record != old:
            atomic.write_json(folder.record_path, record.model_dump(mode="json", by_alias=True))


def _keep(path: Path, lines: Sequence[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    if not path.exists() or path.read_text("utf-8") != text:
        atomic.write_text(path, text)


def _check_images(key: Mapping[str, Any], folder: RunFolder, record: Record) -> None:
    """Votes are about pictures: the run's must still be the ones that were shown."""
    shown = next(c for c in key["contestants"] if c["name"] == record.run_id)
    snapshot = next((s for s in record.snapshots if s.name == shown["snapshot"]), None)
    found = read_folder(folder.root / snapshot.images).content_hash if snapshot else "none"
    if found != shown["content_hash"]:
        raise UserError(f"the images of run {record.run_id} are not the ones that raters saw",
                        valid=f"content {shown['content_hash'][:12]}, found {found[:12]}",
                        hint="a new study of the images that are there now: bench study new")  # fmt: skip


def _raw(
    key: Mapping[str, Any], kept: Mapping[str, Ballot], attention: Sequence[Attention]
) -> Iterator[dict[str, Any]]:
    counts = {a.rater: a.counts for a in attention}
    for rater in sorted(kept):
        for vote in kept[rater].votes:
            trial = key["trials"][vote.trial]
            yield {"rater": rater, "counts": counts[rater], "trial": vote.trial, "role": trial["role"],
                   "prompt_id": trial["prompt_id"], "seed": trial["seed"], "shown": trial["shown"],
                   "answers": dict(vote.answers), "revision": vote.revision, "ms": vote.ms}  # fmt: skip


def _with_study(old: Record, entry: StudyEntry, entries: Sequence[MetricEntry]) -> Record:
    others = [m for m in old.metrics if not (is_human(m) and m.passport.get("study") == entry.study)]
    artifacts = [a for a in old.artifacts if a.path != entry.votes]
    return old.model_copy(update={
        "schema_version": max(old.schema_version, 3),
        "metrics": [*others, *entries],
        "artifacts": [*artifacts, Artifact(path=entry.votes, sha256=entry.sha256)],
        "studies": sorted([*(s for s in old.studies if s.study != entry.study), entry], key=lambda s: s.study),
    })  # fmt: skip


def _entries(
    study: Mapping[str, Any], key: Mapping[str, Any], found: Tally, name: str, record: Record
) -> Iterator[MetricEntry]:
    """The run's figures: win rates and mean scores against each opponent, and mean ranks."""
    labels = {c["name"]: c["label"] for c in key["contestants"]}
    snapshot = next(c["snapshot"] for c in key["contestants"] if c["name"] == name)
    shared = {
        "study": study["id"], "kind": study["kind"], "n_raters": found.n_raters, "attention_rule": ATTENTION_RULE,
        "prompt_rule": study["prompt_rule"], "n_prompts": len(key["items"]),
        "paired_by": "prompt and noise seed" if key["shares_noise"] else "prompt only: external images share no noise",
        "interval": "over prompts; raters are taken as they are",
    }  # fmt: skip
    texts = {q["id"]: q["text"] for q in study["questions"]}
    alphas = {a.question: {"krippendorff_alpha": a.alpha, "alpha_low": a.ci_low, "alpha_high": a.ci_high}
              for a in found.agreement}  # fmt: skip

    def entry(kind: str, question: str, **values: Any) -> MetricEntry:
        opponent = values.pop("against", None)
        suffix = "" if opponent in (None, BASE) else f"/vs-{labels[opponent]}-{opponent[:8]}"
        passport = {**shared, "question": texts[question], **alphas[question]}
        if opponent is not None:
            passport["against"] = opponent
        else:
            passport["contestants"] = sorted(labels)
        values["detail"] = {**values["detail"], "n_excluded": found.n_excluded}
        return MetricEntry(name=f"{kind}/{question}{suffix}", snapshot=snapshot, role="held-out", passport=passport,
                           family="people", **values)  # fmt: skip

    for meeting in comparisons(found, name):
        yield entry("human", meeting.question, against=meeting.b, **_rate(meeting))
        if meeting.score is not None:
            yield entry(
                "human-scale", meeting.question, against=meeting.b, **_mean(meeting.score, "points, −5 to 5", True)
            )
    for place in found.places:
        if place.name == name:
            yield entry("human-rank", place.question, **_rank(place))


def _rate(meeting: Meeting) -> dict[str, Any]:
    r = meeting.rate
    return {
        "value": r.value, "ci_low": r.ci_low, "ci_high": r.ci_high, "n": r.n, "unit": "share of votes",
        "higher_is_better": True,
        "detail": {"wins": r.wins, "ties": r.ties, "losses": r.losses, "n_prompts": r.n_clusters,
                   "sign_test_p": r.sign_test_p, "interval": r.method, "by_rater": dict(meeting.by_rater)},
    }  # fmt: skip


def _rank(place: Place) -> dict[str, Any]:
    return _mean(place.rank, "rank, 1 the best", False)


def _mean(interval: Interval, unit: str, higher: bool) -> dict[str, Any]:
    values = dataclasses.asdict(interval)
    return {"value": values["value"], "ci_low": values["ci_low"], "ci_high": values["ci_high"], "n": values["n"],
            "unit": unit, "higher_is_better": higher, "detail": {"n_prompts": values["n_clusters"]}}  # fmt: skip
