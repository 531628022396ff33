"""Identity of a subject, and what real JPEG files weigh."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_world import make_suite, picture
from PIL import Image
from random_networks import save_random_dinov2

from bench.core.contract import Scene
from bench.core.errors import UserError
from bench.core.judging import Judging
from bench.metrics.identity import Identity, load_embedder
from bench.metrics.jpeg import JPEGSize


class Colours(torch.nn.Module):
    """A face network in miniature: mean colours of the four quarters of 112 x 112."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


@pytest.fixture
def embedder(tmp_path: Path) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(Colours(), torch.zeros(1, 3, 112, 112)).save(str(tmp_path / "arcface.pt"))  # type: ignore[no-untyped-call]
    return tmp_path / "arcface.pt"


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((16, 16, 3), colour, np.uint8)


def test_identity_is_the_cosine_to_the_photographs_mean(
    make_scene: Callable[..., Scene], embedder: Path, tmp_path: Path
) -> None:
    subject = tmp_path / "subject"
    subject.mkdir()
    for i, colour in enumerate([(255, 0, 0), (255, 255, 0)]):
        Image.fromarray(plain(colour)).save(subject / f"{i}.png")
    s = make_scene(suite=make_suite(edition="full"), pictures=lambda i: plain((255, 0, 0) if i % 2 else (0, 255, 255)))
    judging = Judging("published", subject=str(subject), embedder=str(embedder))
    (result,) = Identity().score(Scene(s.suite, s.tuned, s.base, "symmetry", "cpu", s.cache_dir, judging=judging))
    # photographs (1, -1, -1) and (1, 1, -1) by channel, of mean direction (1, 0, -1); images (-1, 1, 1) and (1, -1, -1)
    cosine = 2 / np.sqrt(2 * 3)
    assert result.name == "identity/arcface"
    assert result.per_image == pytest.approx([-cosine, cosine] * 3, abs=1e-6)
    assert result.detail["photographs_to_their_mean"] == pytest.approx(cosine, abs=1e-6)
    (subject / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2\.png"):
        Identity().score(Scene(s.suite, s.tuned, s.base, "symmetry", "cpu", s.cache_dir, judging=judging))
    (nobody,) = Identity().score(s)
    assert nobody.value is None
    assert "--subject" in nobody.warnings[0]


def test_a_transformers_folder_embeds_by_its_own_processor(tmp_path: Path) -> None:
    from transformers import AutoModel, BitImageProcessorPil

    folder = save_random_dinov2(tmp_path / "dino")
    processor = BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor.save_pretrained(folder)
    embed, sha = load_embedder(folder, "cpu")
    image = torch.from_numpy(picture(0, side=40)).permute(2, 0, 1)[None]
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(**processor([picture(0, side=40)], return_tensors="pt")).pooler_output
        assert embed(image).numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert len(sha) == 64
    (tmp_path / "no.pt").write_bytes(b"no script")
    for nothing in (tmp_path / "no.pt", tmp_path):
        with pytest.raises(UserError):
            load_embedder(nothing, "cpu")


def test_jpeg_size_is_the_encoders(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(pictures=lambda i: picture(i, side=32, contrast=0.1 * (i + 1)))
    (result,) = JPEGSize().score(scene)
    assert (result.name, result.unit) == ("jpeg-size/q95", "kB")
    for i, value in enumerate(result.per_image or ()):
        file = io.BytesIO()
        Image.fromarray(picture(i, side=32, contrast=0.1 * (i + 1))).save(file, "JPEG", quality=95, subsampling=2)
        assert value == pytest.approx(len(file.getvalue()) / 1000)
    assert list(result.per_image or ()) == sorted(result.per_image or ())  # more contrast, more bytes
