"""Votes on their way into records: what is refused, what counts, and that twice is once."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.core.record import Record
from bench.store.runs import RunFolder, find_run
from bench.study.ballot import Refused, Vote, assigned, export, parse, sign
from bench.study.importing import import_votes
from bench.study.making import Wanted, make
from tests.study.world import attentive, new_study, read, vote_all, write_ballot, write_run


def record_of(out: Path, name: str | None = None) -> Record:
    key = read(out, "key")
    return find_run(Path(key["runs"]), name or key["contestants"][-1]["name"]).read_record()


def constant(left: str, right: str) -> Any:
    """Right on every check; ``left`` where the base is left, else ``right``."""

    def answer(trial: dict[str, Any]) -> str:
        scrambled = [name.startswith("scrambled:") for name in trial["shown"]]
        if any(scrambled):
            return "right" if scrambled[0] else "left"
        return left if trial["shown"][0] == "base" else right

    return answer


BASE_WINS = constant("left", "right")
RUN_WINS = constant("right", "left")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    out = new_study(tmp_path, "pairwise", n_prompts=10)
    return out, read(out, "study"), read(out, "key")


def signed(study: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "signature": sign(study, content)}


def test_a_signature_notices_every_change(pair: Any) -> None:
    _, study, key = pair
    good = export(study, "anna", vote_all(study, key, "anna", BASE_WINS))
    assert len(parse(study, good, "x").votes) == 13
    for change in (
        lambda c: c["votes"][0]["answers"].update(preference="tie"), lambda c: c["votes"].pop(),
        lambda c: c.update(rater="ben"), lambda c: c.update(n_trials=1), lambda c: c.update(note="x"),
        lambda c: c.update(signature="00"), lambda c: c.pop("signature"),
    ):  # fmt: skip
        bad = copy.deepcopy(good)
        change(bad)
        with pytest.raises(Refused, match="signature does not fit"):
            parse(study, bad, "x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(schema="x"), "has no .schema."),
        (lambda c: c.update(schema_version=2), "schema version is 2"),
        (lambda c: c.update(study="0123"), "belongs to study '0123'"),
        (lambda c: c.update(rater="../x"), "no rater's code"),
        (lambda c: c.update(votes=None), "no list of votes"),
        (lambda c: c["votes"][0].update(trial="0" * 16), "no trial of rater anna"),
        (lambda c: c["votes"][0].update(answers={}), "a vote answers preference"),
        (lambda c: c["votes"][0].update(answers={"preference": "best"}), "no answer to preference"),
        (lambda c: c["votes"][0].update(answers={"preference": ["left"]}), "no answer to preference"),
        (lambda c: c["votes"][0].update(ms=-1), "ms is a whole number"),
        (lambda c: c["votes"][0].update(revision=1.5), "revision is a whole number"),
        (lambda c: c["votes"][0].update(revision=True), "revision is a whole number"),
        (lambda c: c["votes"][0].update(more=1), "a vote has the fields"),
        (lambda c: c["votes"].append({**c["votes"][0], "answers": {"preference": "tie"}}), "twice with different"),
    ],
)
def test_a_file_that_is_well_signed_and_wrong_is_refused(pair: Any, change: Any, said: str) -> None:
    _, study, key = pair
    content = export(study, "anna", vote_all(study, key, "anna", BASE_WINS))
    change(content)
    with pytest.raises(Refused, match=said):
        parse(study, signed(study, content), "x")


@pytest.mark.parametrize(
    ("kind", "bad"),
    [("rank", [0, 1]), ("rank", [0, 0, 1, 2]), ("rank", [0, 1, 2, True]), ("rank", "0123"), ("scale", 6),
     ("scale", 1.5), ("scale", "3"), ("scale", True), ("scale", None)],
)  # fmt: skip
def test_answers_of_the_other_kinds_are_checked(tmp_path: Path, kind: str, bad: Any) -> None:
    out = new_study(tmp_path, kind)
    study, key = read(out, "study"), read(out, "key")
    good = vote_all(study, key, "anna", attentive(kind, random.Random(0), {n["name"]: 1.0 for n in key["contestants"]}))
    content = export(study, "anna", good)
    parse(study, content, "x")
    question = study["questions"][0]["id"]
    content["votes"][0]["answers"] = {**content["votes"][0]["answers"], question: bad}
    with pytest.raises(Refused, match="no answer to"):
        parse(study, signed(study, content), "x")


def test_a_vote_of_another_raters_variant_does_not_count(pair: Any) -> None:
    """Trials of the mirrored variant exist, and this rater was never shown them."""
    _, study, key = pair
    mine = {t["id"] for t in assigned(study, "anna")}
    other = next(t["id"] for trials in study["variants"] for t in trials if t["id"] not in mine)
    content = export(study, "anna", [Vote(other, 0, {"preference": "left"}, 5)])
    with pytest.raises(Refused, match="no trial of rater anna"):
        parse(study, content, "x")
    assert other in key["trials"]


def test_figures_equal_what_was_voted_and_importing_twice_changes_nothing(pair: Any) -> None:
    out, study, key = pair
    run = key["contestants"][1]["name"]
    wins = 0
    files = []
    for k, rater in enumerate(("anna", "ben", "carla")):
        votes = vote_all(study, key, rater, RUN_WINS)
        real = [i for i, v in enumerate(votes) if key["trials"][v.trial]["role"] == "vote"]
        for i in real[: 2 + k]:  # the base wins these
            votes[i] = Vote(votes[i].trial, 0, {"preference": BASE_WINS(key["trials"][votes[i].trial])}, 9)
        for i in real[-1:]:
            votes[i] = Vote(votes[i].trial, 0, {"preference": "tie"}, 9)
        wins += len(real) - (2 + k) - 1
        files.append(write_ballot(out, rater, votes))
    found = import_votes(out, files)
    (meeting,) = found.tally.meetings
    assert (meeting.rate.losses, meeting.rate.ties, meeting.rate.wins) == (wins, 3, 9)
    record = record_of(out)
    entry = record.metrics[-1]
    assert (entry.name, entry.role, entry.n) == ("human/preference", "held-out", 30)
    assert entry.value == pytest.approx((wins + 1.5) / 30)
    assert entry.ci_low is not None and entry.ci_high is not None
    assert entry.ci_low <= entry.value <= entry.ci_high
    assert entry.passport["study"] == study["id"]
    assert entry.passport["against"] == "base"
    assert entry.passport["n_raters"] == 3
    assert -1 <= entry.passport["krippendorff_alpha"] <= 1
    assert entry.detail["n_prompts"] == 10
    assert record.studies[0].n_votes == 30
    folder = find_run(Path(key["runs"]), run).root
    rows = [json.loads(line) for line in (folder / record.studies[0].votes).read_text().splitlines()]
    assert len(rows) == 39
    assert sum(r["role"] == "vote" for r in rows) == 30
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    again = import_votes(out, files)
    assert (again.taken, again.known) == ((), ("anna", "ben", "carla"))
    assert import_votes(out, []).tally == found.tally
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    assert after == before


def test_a_longer_file_of_the_same_rater_replaces_and_another_story_does_not(pair: Any) -> None:
    out, study, key = pair
    votes = vote_all(study, key, "anna", RUN_WINS)
    first = write_ballot(out, "anna", votes[:6])
    import_votes(out, [first])
    more = [Vote(votes[0].trial, 1, {"preference": "tie"}, 5), *votes[1:]]
    later = write_ballot(out, "anna", more)
    assert import_votes(out, [later]).taken == ("anna",)
    older = write_ballot(out, "anna", votes[:6])
    assert import_votes(out, [older]).known == ("anna",)
    assert len(read_ballots(out)) == 13
    other = write_ballot(out, "anna", vote_all(study, key, "anna", BASE_WINS))
    found = import_votes(out, [other])
    assert found.taken == ()
    assert "rater anna voted already, and otherwise" in found.refused[0]
    assert len(read_ballots(out)) == 13


def read_ballots(out: Path) -> list[Any]:
    votes: list[Any] = json.loads((out / "votes" / "anna.json").read_text("utf-8"))["votes"]
    return votes


def test_inattentive_raters_are_left_out_whole_and_counted(pair: Any) -> None:
    out, study, key = pair
    files = [write_ballot(out, "good", vote_all(study, key, "good", RUN_WINS)),
             write_ballot(out, "left", vote_all(study, key, "left", lambda t: "left")),
             write_ballot(out, "tired", vote_all(study, key, "tired", BASE_WINS, n=0)),
             write_ballot(out, "short", [v for v in vote_all(study, key, "short", BASE_WINS)
                                         if key["trials"][v.trial]["role"] != "check"])]  # fmt: skip
    found = import_votes(out, files)
    counts = {a.rater: a.counts for a in found.tally.attention}
    assert counts == {"good": True, "left": False, "tired": False, "short": False}
    assert (found.tally.n_raters, found.tally.n_excluded) == (1, 3)
    record = record_of(out)
    assert (record.metrics[-1].value, record.metrics[-1].detail["n_excluded"]) == (1.0, 3)
    assert (record.studies[0].n_raters, record.studies[0].n_excluded) == (1, 3)
    rows = [json.loads(line) for line in (find_run(Path(key["runs"]), record.run_id).root / record.studies[0].votes)
            .read_text().splitlines()]  # fmt: skip
    assert {r["rater"] for r in rows if not r["counts"]} == {"left", "short"}


def test_without_any_attentive_rater_there_is_a_study_and_no_figure(pair: Any) -> None:
    out, study, key = pair
    import_votes(out, [write_ballot(out, "left", vote_all(study, key, "left", lambda t: "left"))])
    record = record_of(out)
    assert not [m for m in record.metrics if m.name.startswith("human")]
    assert (record.studies[0].n_raters, record.studies[0].n_excluded) == (0, 1)


def test_a_file_that_is_refused_is_named_and_the_others_are_taken(pair: Any, tmp_path: Path) -> None:
    out, study, key = pair
    good = write_ballot(out, "anna", vote_all(study, key, "anna", RUN_WINS))
    torn = tmp_path / "torn.json"
    torn.write_text(good.read_text()[:500])
    strange = tmp_path / "strange.json"
    strange.write_text("[" * 100_000)
    found = import_votes(out, [torn, good, strange, tmp_path / "nowhere.json"])
    assert found.taken == ("anna",)
    assert [
        name for name in ("torn.json", "strange.json", "nowhere.json") if not any(name in r for r in found.refused)
    ] == []
    with pytest.raises(UserError, match=r"torn\.json is"):
        import_votes(new_study(tmp_path / "second", "pairwise"), [torn])


def test_two_runs_without_the_base_say_the_opposite_of_each_other(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    ids = [write_run(runs, tuner) for tuner in ("refl", "draft-lv")]
    out = tmp_path / "two"
    make(Wanted(tuple(ids), runs, out, "pairwise", 8))
    study, key = read(out, "study"), read(out, "key")
    answer = attentive("pairwise", random.Random(3), {ids[0]: 3.0, ids[1]: 1.0})
    import_votes(out, [write_ballot(out, "anna", vote_all(study, key, "anna", answer))])
    a, b = (record_of(out, name).metrics[-1] for name in ids)
    assert a.name == f"human/preference/vs-{key['contestants'][1]['label']}-{ids[1][:8]}"
    assert a.value is not None and b.value is not None and a.ci_low is not None and b.ci_high is not None
    assert a.value == pytest.approx(1 - b.value)
    assert a.ci_low == pytest.approx(1 - b.ci_high)
    assert (a.detail["wins"], a.detail["losses"]) == (b.detail["losses"], b.detail["wins"])


def test_votes_on_pictures_that_changed_since_are_refused(pair: Any) -> None:
    out, study, key = pair
    folder = Path(key["contestants"][1]["folder"])
    index = folder / "snapshots/f100/images/index.jsonl"
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[:-1]) + "\n")
    file = write_ballot(out, "anna", vote_all(study, key, "anna", RUN_WINS))
    with pytest.raises(UserError, match="not the ones that raters saw"):
        import_votes(out, [file])


def test_a_second_study_stands_beside_the_first(pair: Any, tmp_path: Path) -> None:
    out, study, key = pair
    import_votes(out, [write_ballot(out, "anna", vote_all(study, key, "anna", RUN_WINS))])
    run = key["contestants"][1]["name"]
    make(Wanted(("base", run), tmp_path / "runs", tmp_path / "again", "pairwise", 6))
    again, key2 = read(tmp_path / "again", "study"), read(tmp_path / "again", "key")
    import_votes(tmp_path / "again", [write_ballot(tmp_path / "again", "ben", vote_all(again, key2, "ben", BASE_WINS))])
    record = record_of(out, run)
    figures = {m.passport["study"]: m.value for m in record.metrics if m.name == "human/preference"}
    assert figures == {study["id"]: 1.0, again["id"]: 0.0}
    assert len(record.studies) == 2


def test_an_export_of_the_key_does_not_lie_in_the_run_folder(pair: Any) -> None:
    """The run folder explains the votes; the secret that blinds open studies is not needed for it."""
    out, study, key = pair
    import_votes(out, [write_ballot(out, "anna", vote_all(study, key, "anna", RUN_WINS))])
    folder = RunFolder(Path(key["contestants"][1]["folder"]))
    kept = json.loads((folder.root / "studies" / study["id"] / "key.json").read_text("utf-8"))
    assert "secret" not in kept
    assert kept["trials"] == key["trials"]
