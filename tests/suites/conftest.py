"""Where the real prompt files are; nothing else from outside gets into these tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_FROM_OUTSIDE = os.environ.get("TUNEBENCH_DATA")


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of published files: ``TUNEBENCH_DATA``, else ``../shared/suites-data`` beside the repository."""
    places = [Path(_FROM_OUTSIDE)] if _FROM_OUTSIDE else []
    places.append(Path(__file__).parents[2].parent / "shared" / "suites-data")
    for place in places:
        if (place / "coco").is_dir():
            return place
    looked = ", ".join(map(str, places))
    pytest.skip(f"THE PUBLISHED PROMPT FILES ARE NOT HERE ({looked}): set TUNEBENCH_DATA to test them")


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that wants a data folder names it."""
    monkeypatch.delenv("TUNEBENCH_DATA", raising=False)
