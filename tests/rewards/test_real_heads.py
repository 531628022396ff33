"""The aesthetic reward's published head on real CLIP points. Skipped without ``../shared/weights``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.assets import need
from rewards.aesthetic import ALARM, folded
from rewards.checkpoints import read_checkpoint

SCORES = (1.655, 2.359, 3.070, 3.672, 4.238, 4.701, 5.073, 5.365, 5.577, 5.747)
"""Of the v2 head on the embeddings that LAION ships for ratings 0..9, as shared/weights states them."""


@pytest.fixture(scope="module")
def weights() -> Path:
    """Small published weights: ``TUNEBENCH_WEIGHTS``, else ``../shared/weights`` beside the repository."""
    given = os.environ.get("TUNEBENCH_WEIGHTS")
    place = Path(given) if given else Path(__file__).parents[2].parent / "shared" / "weights"
    if not (place / "laion-aesthetic-v2").is_dir():
        pytest.skip(f"THE SMALL PUBLISHED WEIGHTS ARE NOT HERE ({place}): set TUNEBENCH_WEIGHTS to test them")
    return place


@pytest.fixture
def head(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The head as the catalogue finds it, digest checked."""
    monkeypatch.setenv("TUNEBENCH_MODELS", str(weights))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TUNEBENCH_OTHER_WEIGHTS", raising=False)
    return need("aesthetic-v2") / "sac+logos+ava1-l14-linearMSE.pth"


def test_scores_of_real_embeddings(head: Path, weights: Path) -> None:
    weight, bias = folded(read_checkpoint(head, "aesthetic-v2"), head)
    points = [
        np.load(weights / "laion-aesthetic-v1" / "rating-embeddings" / f"vit_l_14_rating{k}.npy") for k in range(10)
    ]
    features = torch.from_numpy(np.concatenate(points)).double()
    features = features / features.norm(dim=1, keepdim=True)
    assert (features @ weight + bias).tolist() == pytest.approx(SCORES, abs=6e-4)


def test_the_folded_vector_is_the_stored_one(head: Path, weights: Path) -> None:
    weight, bias = folded(read_checkpoint(head, "aesthetic-v2"), head)
    stored = np.load(weights / "laion-aesthetic-v2" / "folded_affine_f64.npz")
    np.testing.assert_allclose(weight.numpy(), stored["weight"], atol=1e-6)
    assert bias == pytest.approx(float(stored["bias"]), abs=1e-6)
    size = float(weight.norm())
    assert (size, bias) == pytest.approx((17.9956, 5.23665), abs=1e-4)
    assert (bias - size, bias + size) == pytest.approx((-12.759, 23.232), abs=1e-3)
    assert bias + size > ALARM


def test_the_folded_vector_is_the_float32_chain(head: Path) -> None:
    state = read_checkpoint(head, "aesthetic-v2")
    weight, bias = folded(state, head)
    x = torch.nn.functional.normalize(torch.randn(16, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
    chain = x
    for number in (0, 2, 4, 6, 7):
        chain = chain @ state[f"layers.{number}.weight"].T + state[f"layers.{number}.bias"]
    torch.testing.assert_close((x.double() @ weight + bias).float(), chain[:, 0], atol=2e-5, rtol=0)
