"""Exit codes of a worker, which launchers of every kind read."""

from __future__ import annotations

DONE = 0
"""The stage that was asked for is over; after the last one the record says done."""
FAILED = 1
"""The record says failed or diverged: a row of the board, with its reason."""
USER = 2
"""The user can put it right; what was wrong is already printed, and everything so far is kept."""
STALE = 74
"""A newer attempt at the run has started: this copy wrote nothing more, and needs nothing more."""
REQUEUE = 75
"""SIGUSR2 came (a cluster about to take the machine back): a checkpoint is kept; start the same run again."""
INTERRUPTED = 130
"""SIGTERM or Ctrl-C: a checkpoint is kept, and the run goes on when somebody asks for it again."""

ENDINGS = frozenset({DONE, FAILED, USER, STALE, REQUEUE, INTERRUPTED})
"""A worker that ends otherwise was killed (a negative code: the signal) or ended by its code's own exit."""
