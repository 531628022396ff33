from __future__ import annotations

from pathlib import Path

import pytest
from random_clip import save_random_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_clip(tmp_path_factory.mktemp("random-clip"))
