"""Votes: what a rater was shown, the file that a page exports, and all that is checked before a vote counts.

The page (``assets/page.js``) does the same arithmetic; a test holds the two equal in a real browser.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.identity import canonical_json
from bench.store import atomic
from bench.study.form import SCALE_LIMIT

SCHEMA = "tunebench/votes"
SCHEMA_VERSION = 1
SIGNATURE_HELP = (
    "HMAC-SHA256 over the canonical JSON of the file, keyed by the study's public salt. It proves that the file was "
    "made for this study and was not changed by accident or by hand since. It does not prove who voted, nor that a "
    "person did: the salt is in the page, so whoever writes a program can sign"
)
MAX_FILE_BYTES = 8 << 20
_RATER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_REVISION = 10_000
_MAX_MS = 7 * 24 * 3600 * 1000

Answers = Mapping[str, Any]


@dataclass(frozen=True)
class Vote:
    """One answered trial."""

    trial: str
    revision: int
    """A rater who goes back and decides anew votes with the next revision; the last one counts."""
    answers: Answers
    """By question: ``left`` · ``right`` · ``tie``; places of the images from best to worst; or -5 to 5."""
    ms: int
    """Milliseconds that the trial was looked at, as the rater's machine says."""

    @classmethod
    def id_of(cls, rater: str, trial: str, revision: int) -> str:
        return f"{rater}-{trial}-{revision}"

    def to_json(self, rater: str) -> dict[str, Any]:
        return {"id": self.id_of(rater, self.trial, self.revision), "trial": self.trial, "revision": self.revision,
                "answers": dict(self.answers), "ms": self.ms}  # fmt: skip


@dataclass(frozen=True)
class Ballot:
    """All that one rater said, one vote a trial."""

    rater: str
    votes: tuple[Vote, ...]
    """By trial id."""
    source: str
    """The file's name, or ``server``."""


class Refused(ValueError):
    """A vote or a file that does not belong; the message says why."""


def draw(study: str, rater: str, counter: int) -> int:
    """The ``counter``-th number of a rater, 0 to 2^32 - 1."""
    return int.from_bytes(hashlib.sha256(f"{study}:{rater}:{counter}".encode()).digest()[:4], "big")


def assigned(study: Mapping[str, Any], rater: str) -> list[dict[str, Any]]:
    """The trials of ``study.json`` that this rater sees, in order: a variant by the first draw, shuffled by the others
    (Fisher and Yates, from the end)."""
    trials = list(study["variants"][draw(study["id"], rater, 0) % len(study["variants"])])
    for i in range(len(trials) - 1, 0, -1):
        j = draw(study["id"], rater, len(trials) - i) % (i + 1)
        trials[i], trials[j] = trials[j], trials[i]
    return trials


def sign(study: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """See ``SIGNATURE_HELP``. 64 hex digits."""
    unsigned = {k: v for k, v in content.items() if k != "signature"}
    return hmac.new(study["salt"].encode(), canonical_json(unsigned).encode(), hashlib.sha256).hexdigest()


def export(study: Mapping[str, Any], rater: str, votes: Sequence[Vote]) -> dict[str, Any]:
    """The signed file of a rater, as the page writes it."""
    content = {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "study": study["id"], "rater": rater,
        "n_trials": len(assigned(study, rater)), "votes": [v.to_json(rater) for v in sorted(votes, key=_order)],
    }  # fmt: skip
    return {**content, "signature": sign(study, content)}


def _order(vote: Vote) -> tuple[str, int]:
    return vote.trial, vote.revision


def read_ballot(study: Mapping[str, Any], path: Path) -> Ballot:
    """The votes of an exported file.

    Raises:
        UserError: unreadable, of another or a newer format, of another study, changed, or holding a vote that this
            rater was never asked for.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
        content = atomic.read_json(path)
        return parse(study, content, path.name)
    except OSError as err:
        raise UserError(f"{path} cannot be read: {err.strerror}") from err
    except (Refused, RecursionError) as err:
        raise UserError(f"{path} is refused: {err}", valid="a file that the study's page saved") from err


def parse(study: Mapping[str, Any], content: Any, source: str) -> Ballot:
    """Checks an exported file's content. Raises Refused."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise Refused(f'it has no "schema": "{SCHEMA}"')
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise Refused(f"its schema version is {version!r}, this program reads {SCHEMA_VERSION}")
    if content.get("study") != study["id"]:
        raise Refused(f"it belongs to study {content.get('study')!r}, not {study['id']}")
    try:
        good = hmac.compare_digest(str(content.get("signature")).encode(), sign(study, content).encode())
    except (ValueError, TypeError) as err:
        raise Refused(f"it is no canonical JSON: {err}") from err
    if not good:
        raise Refused("its signature does not fit its content: it was changed after it was saved")
    rater, votes = content.get("rater"), content.get("votes")
    if not isinstance(votes, list):
        raise Refused("it holds no list of votes")
    return ballot(study, check_rater(rater), [parse_vote(vote) for vote in votes], source)


def ballot(study: Mapping[str, Any], rater: str, votes: Sequence[Vote], source: str) -> Ballot:
    """One vote a trial, the last revision of each. Raises Refused at one that this rater was not asked for, or at two
    that disagree about one revision."""
    trials = {trial["id"]: trial for trial in assigned(study, rater)}
    last: dict[str, Vote] = {}
    for vote in sorted(votes, key=_order):
        if vote.trial not in trials:
            raise Refused(f"vote {vote.trial!r} is no trial of rater {rater} in this study")
        check_answers(study, trials[vote.trial], vote.answers)
        before = last.get(vote.trial)
        if before is not None and before.revision == vote.revision and before.answers != vote.answers:
            raise Refused(f"vote {vote.trial} revision {vote.revision} is there twice with different answers")
        last[vote.trial] = vote
    return Ballot(rater, tuple(last[trial] for trial in sorted(last)), source)


def check_rater(rater: Any) -> str:
    """Raises Refused unless it is a rater's code: letters, digits, '-' and '_', at most 64."""
    if not isinstance(rater, str) or not _RATER.fullmatch(rater):
        raise Refused(f"{str(rater)[:80]!r} is no rater's code")
    return rater


def parse_vote(vote: Any) -> Vote:
    """Raises Refused unless it has the fields of a vote, with sane values."""
    if not isinstance(vote, dict) or set(vote) - {"id"} != {"trial", "revision", "answers", "ms"}:
        raise Refused("a vote has the fields id, trial, revision, answers, ms")
    trial, revision, answers, ms = vote["trial"], vote["revision"], vote["answers"], vote["ms"]
    if not isinstance(trial, str) or not isinstance(answers, dict):
        raise Refused("a vote's trial is text and its answers are an object")
    for name, value, high in (("revision", revision, _MAX_REVISION), ("ms", ms, _MAX_MS)):
        if type(value) is not int or not 0 <= value <= high:
            raise Refused(f"a vote's {name} is a whole number from 0 to {high}")
    return Vote(trial, revision, answers, ms)


def check_answers(study: Mapping[str, Any], trial: Mapping[str, Any], answers: Answers) -> None:
    """Raises Refused unless every question, and nothing else, is answered by a valid value."""
    wanted = [q["id"] for q in study["questions"]]
    if sorted(answers) != sorted(wanted):
        raise Refused(f"a vote answers {', '.join(wanted)}")
    n = len(trial["images"])
    for question in wanted:
        value = answers[question]
        if study["kind"] == "pairwise":
            good = value in ("left", "right", "tie")
        elif study["kind"] == "rank":
            good = isinstance(value, list) and all(type(v) is int for v in value) and sorted(value) == list(range(n))
        else:
            good = type(value) is int and -SCALE_LIMIT <= value <= SCALE_LIMIT
        if not good:
            raise Refused(f"{json.dumps(value)[:80]} is no answer to {question}")
