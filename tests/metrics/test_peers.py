"""The same pictures through the peers' own packages (``tools/env dev`` puts them aside, in ``.venv/peers``): features
and distances of pytorch-fid, torch-fidelity and clean-fid, and what each protocol of ours makes of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_protocols import photograph

from bench.metrics.extractors import load_extractor
from bench.metrics.frechet import frechet_distance
from bench.metrics.gaussian import Gaussian, frechet
from bench.metrics.requirements import inception_file

PEERS = Path(os.environ.get("TUNEBENCH_PEERS", Path(sys.prefix) / "peers"))
PROGRAM = Path(__file__).parent / "peers_program.py"
PROTOCOLS = ("pytorch-fid", "torch-fidelity", "clean")
WHOLE = bool(os.environ.get("TUNEBENCH_SLOW"))
"""Distances over all 2048 features: SciPy's root alone takes a minute."""
SIZES = ((96, 96), (340, 400))
"""Both are brought to 299: one up, one down."""
N = 40 if WHOLE else 8


@pytest.fixture(scope="module")
def pictures() -> list[list[np.ndarray]]:
    return [[photograph(*size, seed=100 * k + i) for i in range(N)] for k, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def theirs(pictures: list[list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    if not (PEERS / "pytorch_fid").is_dir():
        missing = f"the peers' packages are not in {PEERS}: sh tools/env dev"
        if os.environ.get("TUNEBENCH_CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    root = tmp_path_factory.mktemp("peers")
    for k, images in enumerate(pictures):
        (root / str(k)).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / str(k) / f"{i:03d}.png")
    command = [sys.executable, str(PROGRAM), str(inception_file()), str(root / "out.npz"), str(root / "0"),
               str(root / "1"), *(["--whole"] if WHOLE else [])]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(PEERS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(root / "out.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def ours(pictures: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
    found = {}
    for protocol in PROTOCOLS:
        network = load_extractor(protocol)
        for k, images in enumerate(pictures):
            batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            with torch.no_grad():
                found[f"{protocol} {k}"] = network(batch).numpy()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_features_are_the_peers(protocol: str, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Tolerance: 2e-4 of the features' size, which TensorFlow-1 coordinates in float32 and folded batch norm use."""
    for k in range(len(SIZES)):
        mine, there = ours[f"{protocol} {k}"].astype(np.float64), theirs[f"{protocol} {k}"].astype(np.float64)
        assert np.linalg.norm(mine - there) < 2e-4 * np.linalg.norm(there)
        # and each protocol is itself: another's features are much further away
        for other in PROTOCOLS:
            if other != protocol:
                assert np.linalg.norm(mine - theirs[f"{other} {k}"]) > 5e-3 * np.linalg.norm(there)


@pytest.mark.slow
def test_distances_are_the_peers(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Tolerance: 1e-6 of the distance on the peers' own features, 1e-3 from the pictures on."""
    n = 4
    for i, protocol in enumerate(PROTOCOLS):
        a, b = (theirs[f"{protocol} {k}"][:, :n].astype(np.float64) for k in (0, 1))
        assert _distance(a, b) == pytest.approx(theirs["few"][i], rel=1e-6)
        assert frechet_distance(a, b) == pytest.approx(theirs["few"][i], rel=1e-6)
        mine = [ours[f"{protocol} {k}"] for k in (0, 1)]
        assert _distance(*(x[:, :n] for x in mine)) == pytest.approx(theirs["few"][i], rel=1e-3)
        if WHOLE:
            print(f"{protocol}: {frechet_distance(*mine):.6f} here, {theirs['whole'][i]:.6f} there")
            assert frechet_distance(*mine) == pytest.approx(theirs["whole"][i], rel=1e-3)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet(*(Gaussian(x.mean(0, dtype=np.float64), np.cov(x, rowvar=False, dtype=np.float64)) for x in (a, b)))
