"""The micro suite with four samples an update and many images, so that four processes can share both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import micro

from bench.core.types import Suite


def suite(
    edition: str = "sample", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None
) -> Suite:
    """Images for three slices, four samples an update."""
    made = micro.suite(edition, variant="many", data_dir=data_dir, limit=limit)
    return replace(made, spec=replace(made.spec, name="quartet", variant="", global_batch=4))
