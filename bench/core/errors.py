"""Errors that are meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right: printed without a traceback, exit code 2.

    Args:
        problem: what was wrong, one sentence.
        valid: what would have been accepted.
        hint: what to type next.
    """

    exit_code = 2

    def __init__(self, problem: str, *, valid: str = "", hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.valid = valid
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.problem]
        if self.valid:
            lines.append(f"valid: {self.valid}")
        if self.hint:
            lines.append(f"try:   {self.hint}")
        return "\n".join(lines)


class ContractError(UserError):
    """A plug-in broke its contract: names the plug-in, the method, what was expected and what came."""

    def __init__(self, plugin: str, method: str, *, expected: str, got: str) -> None:
        super().__init__(f"{plugin}: {method} broke its contract: got {got}", valid=expected)


class Diverged(Exception):
    """Tuning produced non-finite numbers; the run ends with status ``diverged`` and keeps its last good snapshot."""


def unknown_name(kind: str, name: str, known: Iterable[str], listing: str) -> UserError:
    """The error for a name nobody has: closest names first, then the command that lists all."""
    names = sorted(known)
    spelled = {n.lower(): n for n in names}
    close = [spelled[c] for c in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)]
    valid = ", ".join(names) if len(names) <= 24 else f"{len(names)} names, see '{listing}'"
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? ('{listing}' shows all)" if close else listing
    return UserError(f"there is no {kind} named {name!r}", valid=valid, hint=hint)
