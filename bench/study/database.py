"""``votes.db``: the links of a study and the votes that came through them. An acknowledged vote is on the disk."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.study.ballot import Ballot, Refused, Vote, ballot, draw

NAME = "votes.db"
_BUSY_S = 20.0

_TABLES = """
CREATE TABLE IF NOT EXISTS links (
    token TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, session_sha256 TEXT) STRICT;
CREATE TABLE IF NOT EXISTS votes (
    id TEXT PRIMARY KEY, token TEXT NOT NULL REFERENCES links(token), trial TEXT NOT NULL, revision INTEGER NOT NULL,
    answers TEXT NOT NULL, ms INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS votes_by_token ON votes(token);
"""


class Votes:
    """The database of one study; every call is one transaction."""

    def __init__(self, folder: Path, study: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self.study = study
        with self._open() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_TABLES)
        self.path.chmod(0o600)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_BUSY_S)) as db, db:
                db.execute("PRAGMA synchronous = FULL")  # the commit returns when the vote is on the disk
                db.execute("PRAGMA foreign_keys = ON")
                yield db
        except sqlite3.DatabaseError as err:
            raise UserError(f"{self.path} cannot be used: {err}", hint="move it away; imported votes stay") from err

    def add_links(self, n: int) -> list[str]:
        """``n`` new tokens. The variants of the study are dealt out in turn, so that sides and pairs balance over
        raters too."""
        made = []
        n_variants = len(self.study["variants"])
        with self._open() as db:
            (before,) = db.execute("SELECT count(*) FROM links").fetchone()
            for number in range(before, before + n):
                token = secrets.token_hex(8)
                while draw(self.study["id"], token, 0) % n_variants != number % n_variants:
                    token = secrets.token_hex(8)
                db.execute("INSERT INTO links VALUES (?, ?, NULL)", (token, number))
                made.append(token)
        return made

    def links(self) -> list[tuple[str, bool, int]]:
        """(token, opened, votes) of every link in order."""
        with self._open() as db:
            rows = db.execute(
                "SELECT token, session_sha256 IS NOT NULL, (SELECT count(DISTINCT trial) FROM votes "
                "WHERE token = links.token) FROM links ORDER BY number"
            )
            return [(token, bool(opened), n) for token, opened, n in rows]

    def claim(self, token: str, session: str | None) -> str | None:
        """The session that may use the link: a new one at the first opening, then only that one.

        Returns:
            The session's secret for the browser to keep, or None where the link is unknown or another's.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute("SELECT session_sha256 FROM links WHERE token = ?", (token,)).fetchone()
            if row is None:
                return None
            if row[0] is None:
                fresh = secrets.token_urlsafe(24)
                db.execute("UPDATE links SET session_sha256 = ? WHERE token = ?", (_sha256(fresh), token))
                return fresh
            return session if session and hmac.compare_digest(row[0], _sha256(session)) else None

    def holds(self, token: str, session: str | None) -> bool:
        """Whether the link was opened by this session."""
        with self._open() as db:
            row = db.execute("SELECT session_sha256 FROM links WHERE token = ?", (token,)).fetchone()
        return bool(row and row[0] and session and hmac.compare_digest(row[0], _sha256(session)))

    def store(self, token: str, votes: Sequence[Vote]) -> list[str]:
        """Adds votes; one that is there already with the same content is as good as new.

        Returns:
            Their ids, now on the disk.

        Raises:
            Refused: not a vote of this rater in this study, or the same id with other content; nothing is stored.
        """
        ballot(self.study, token, votes, "server")
        ids = []
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            for vote in votes:
                name = Vote.id_of(token, vote.trial, vote.revision)
                answers = json.dumps(vote.answers, sort_keys=True)
                db.execute("INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?, ?, ?)",
                           (name, token, vote.trial, vote.revision, answers, vote.ms))  # fmt: skip
                (there,) = db.execute("SELECT answers FROM votes WHERE id = ?", (name,)).fetchone()
                if there != answers:
                    db.rollback()
                    raise Refused(f"vote {name} is there with other answers")
                ids.append(name)
        return ids

    def of(self, token: str) -> list[Vote]:
        """Every revision of a rater's votes."""
        with self._open() as db:
            rows = db.execute("SELECT trial, revision, answers, ms FROM votes WHERE token = ? ORDER BY id", (token,))
            return [Vote(trial, revision, json.loads(answers), ms) for trial, revision, answers, ms in rows]

    def ballots(self) -> list[Ballot]:
        """Of every rater who voted."""
        return [ballot(self.study, token, self.of(token), "server") for token, _, n in self.links() if n]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
