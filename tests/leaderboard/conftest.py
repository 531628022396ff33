from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.site import build
from tests.leaderboard.factories import one_of_everything


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of ``one_of_everything``, built once."""
    runs = tmp_path_factory.mktemp("board") / "runs"
    one_of_everything(runs)
    return build(runs).parent
