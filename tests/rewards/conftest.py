from __future__ import annotations

from pathlib import Path

import pytest
from random_clip import save_random_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_clip(tmp_path_factory.mktemp("random-clip"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random models in the published layouts."""
    from random_published import save_models

    return save_models(tmp_path_factory.mktemp("published"))


@pytest.fixture
def published(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """They stand in for the published ones, and say so; nothing of the user's own caches is seen."""
    from random_published import NOT_THE_PUBLISHED

    monkeypatch.setenv("TUNEBENCH_MODELS", str(model_folder))
    monkeypatch.setenv("TUNEBENCH_OTHER_WEIGHTS", NOT_THE_PUBLISHED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return model_folder
