"""The hard-coded tree of TreeReward, section 5.1: two branches, six leaves. Imports no torch: plans read it."""

from __future__ import annotations

BRANCHES: dict[str, tuple[str, ...]] = {
    "semantic": ("style", "content"),
    "aesthetic": ("color", "lighting", "detail", "layout"),
}
"""Internal node b to its leaves k."""

DIMENSIONS: tuple[str, ...] = tuple(k for leaves in BRANCHES.values() for k in leaves)
"""The leaves j in the order of every (B, 6) tensor."""

BRANCH_OF: tuple[int, ...] = tuple(b for b, leaves in enumerate(BRANCHES.values()) for _ in leaves)
"""Index of the branch b(j) of each leaf."""
