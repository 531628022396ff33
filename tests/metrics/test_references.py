"""Reference statistics: built from a folder, kept with a passport, refused where they do not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_world import make_suite, picture
from PIL import Image
from torch import Tensor, nn

from bench.core.contract import Scene
from bench.core.errors import UserError
from bench.core.judging import Judging
from bench.metrics import distances, inception, references
from bench.metrics.extractors import Extractor
from bench.metrics.fid import FID, KID
from bench.metrics.gaussian import Gaussian
from bench.metrics.references import build, protocol_of, read_reference, references_in, unused, write_reference


class Regions(nn.Module):
    """Stands in for Inception: 4 x 4 region means of the prepared picture."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


@pytest.fixture(autouse=True)
def _small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "load_inception", lambda device: Regions())
    monkeypatch.setattr(Extractor, "num_features", 48)
    monkeypatch.delenv(distances.REFERENCE_VARIABLE, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seventy pictures of several sizes in two folders."""
    root = tmp_path / "photographs"
    for i in range(70):
        path = root / ("a" if i % 2 else "b") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i, side=12 + i % 5)).save(path)
    return root


def expected_features(folder: Path) -> np.ndarray:
    network = Extractor("pytorch-fid")
    images = [torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1)[None] for p in sorted(folder.rglob("*.png"))]
    return torch.cat([network(image) for image in images]).numpy()


def test_a_folder_becomes_statistics(folder: Path, tmp_path: Path) -> None:
    done: list[int] = []
    made = build(folder, Extractor("pytorch-fid"), advance=done.append)
    assert sum(done) == made.n == 70
    x = expected_features(folder)
    assert made.features == pytest.approx(x, abs=1e-6)
    assert made.gaussian.mu == pytest.approx(x.mean(0, np.float64), abs=1e-9)
    assert np.abs(made.gaussian.sigma - np.cov(x.T.astype(np.float64))).max() < 1e-12
    file = tmp_path / "reference.npz"
    write_reference(file, made)
    again = read_reference(file, "pytorch-fid")
    assert again.passport == made.passport
    assert again.passport["extractor"] == inception.SHA256
    assert np.array_equal(again.gaussian.root, made.gaussian.root)
    with np.load(file) as plain:  # what pytorch-fid itself reads
        assert plain["mu"].shape == (48,)
        assert plain["sigma"].shape == (48, 48)


def test_the_content_hash_is_of_the_pictures_alone(folder: Path) -> None:
    paths = references.pictures_of(folder)
    before = references.check_pictures(paths)
    each = sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in paths)
    assert before == hashlib.sha256("".join(each).encode()).hexdigest()
    paths[0].rename(folder / "renamed.png")
    assert references.check_pictures(references.pictures_of(folder)) == before
    Image.fromarray(picture(999)).save(folder / "renamed.png")
    assert references.check_pictures(references.pictures_of(folder)) != before


def test_broken_pictures_are_named_before_the_network_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (folder / "a" / "03.png").read_bytes()
    (folder / "a" / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "04.png").write_bytes(b"no picture")
    monkeypatch.setattr(Regions, "forward", lambda self, x: pytest.fail("the network ran"))
    with pytest.raises(UserError) as err:
        build(folder, Extractor("pytorch-fid"))
    assert err.value.problem.startswith("2 of 70 pictures cannot be decoded: ")
    assert "a/03.png" in err.value.problem
    assert "b/04.png" in err.value.problem
    with pytest.raises(UserError, match="there is no folder"):
        build(folder / "nowhere", Extractor("pytorch-fid"))
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        build(folder / "empty", Extractor("pytorch-fid"))


def test_another_protocol_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    write_reference(tmp_path / "clean.npz", build(folder, Extractor("clean")))
    with pytest.raises(UserError) as err:
        read_reference(tmp_path / "clean.npz", "pytorch-fid")
    assert "'clean'" in err.value.problem
    assert "--protocol pytorch-fid" in err.value.hint
    assert protocol_of(tmp_path / "clean.npz") == "clean"
    said = unused([str(tmp_path / "clean.npz")], {"fid": "pytorch-fid"})
    assert len(said) == 1
    assert "'clean': fid needs pytorch-fid" in said[0]
    assert unused([str(tmp_path / "clean.npz")], {"fid-clean": "clean"}) == []


def test_pytorch_fids_own_file_is_taken_over(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(100, 48))
    np.savez(tmp_path / "coco.npz", mu=x.mean(0), sigma=np.cov(x.T))
    found = read_reference(tmp_path / "coco.npz", "pytorch-fid")
    assert (found.n, found.extractor, found.features) == (None, "", None)
    assert found.gaussian.sigma == pytest.approx(np.cov(x.T))
    assert "pytorch-fid" in found.name


@pytest.mark.parametrize("content", ["text", "cut", "other", "nan", "shape", "passport"])
def test_other_files_are_refused(content: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    if content == "text":
        file.write_text("mu")
    elif content == "cut":
        write_reference(file, build(folder, Extractor("clean")))
        file.write_bytes(file.read_bytes()[:-4000])
    else:
        mu, sigma = np.zeros(3), np.eye(3)
        arrays = {"other": {"weights": mu}, "nan": {"mu": mu * np.nan, "sigma": sigma},
                  "shape": {"mu": mu, "sigma": mu},
                  "passport": {"mu": mu, "sigma": sigma, "root": sigma, "passport": np.array("{}")}}  # fmt: skip
        np.savez(file, **arrays[content])
    with pytest.raises(UserError, match=r"x\.npz"):
        read_reference(file)
    with pytest.raises(UserError, match="cannot be read as reference"):
        read_reference(tmp_path / "nothing.npz")


def with_reference(scene: Scene, *files: Path) -> Scene:
    judging = Judging(world="published", references=tuple(map(str, files)))
    return Scene(scene.suite, scene.tuned, scene.base, scene.trained_reward, "cpu", scene.cache_dir, judging=judging)


def test_fid_and_kid_take_the_file(make_scene: Callable[..., Scene], folder: Path, tmp_path: Path) -> None:
    made = build(folder, Extractor("pytorch-fid"))
    write_reference(tmp_path / "ours.npz", made)
    scene = with_reference(make_scene(suite=make_suite(edition="full")), tmp_path / "ours.npz")
    fid = {m.name: m for m in FID().score(scene)}
    tuned = scene.tuned.features(Extractor("pytorch-fid").name, Extractor("pytorch-fid"))
    from bench.metrics.frechet import frechet_distance

    assert fid["fid"].value == pytest.approx(frechet_distance(tuned, made.features), rel=1e-9)
    assert fid["fid"].passport["reference"] == made.content_hash
    assert fid["fid"].passport["n_reference"] == 70
    assert {m.name for m in KID().score(scene)} == {"kid", "kid-to-base"}
    # without features the sums must do, and KID says what it lacks
    write_reference(tmp_path / "sums.npz", build(folder, Extractor("pytorch-fid"), keep_features=False))
    bare = with_reference(scene, tmp_path / "sums.npz")
    assert FID().score(bare)[0].value == pytest.approx(fid["fid"].value, rel=1e-6)
    with pytest.raises(UserError, match="mean and covariance only"):
        KID().score(bare)
    # what a cached answer depends on follows the file
    assert FID.depends(scene) != FID.depends(bare)


def test_other_weights_and_sizes_are_refused(make_scene: Callable[..., Scene], folder: Path, tmp_path: Path) -> None:
    made = build(folder, Extractor("pytorch-fid"))
    import dataclasses

    scene = make_scene(suite=make_suite(edition="full"))
    write_reference(tmp_path / "other.npz", dataclasses.replace(made, extractor="f" * 64))
    with pytest.raises(UserError, match="other weights"):
        FID().score(with_reference(scene, tmp_path / "other.npz"))
    np.savez(tmp_path / "wide.npz", mu=np.zeros(64), sigma=np.eye(64))
    with pytest.raises(UserError, match="64 dimensions"):
        FID().score(with_reference(scene, tmp_path / "wide.npz"))


def test_the_data_folder_has_a_place_for_them(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "data" / "references" / "coco.val2017"
    write_reference(home / "fid.npz", build(folder, Extractor("pytorch-fid")))
    write_reference(home / "clean.npz", build(folder, Extractor("clean")))
    assert references_in(tmp_path / "data", "coco", "val2017", {"pytorch-fid"}) == [home / "fid.npz"]
    assert references_in(tmp_path / "data", "coco", "", {"pytorch-fid"}) == []
    assert references_in(None, "coco", "", {"pytorch-fid"}) == []


def test_the_command_builds_shows_and_does_not_build_twice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cli import main

    file = tmp_path / "coco.npz"
    command = ["refs", "build", str(folder), "--protocol", "pytorch-fid", "--out", str(file)]
    assert main(command) == 0
    assert main(["refs", "show", str(file)]) == 0
    said = capsys.readouterr().out
    assert "protocol     pytorch-fid" in said
    assert "n            70" in said
    monkeypatch.setattr(Regions, "forward", lambda self, x: pytest.fail("computed again"))
    assert main(command) == 0
    assert "holds these 70 pictures" in capsys.readouterr().err
    assert main(["refs", "build", str(folder), "--protocol", "pytorch_fid", "--out", str(file)]) == 2
    assert "did you mean 'pytorch-fid'" in capsys.readouterr().err
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(4), sigma=np.eye(4))
    assert main(["refs", "import", str(tmp_path / "theirs.npz"), "--out", str(tmp_path / "kept.npz")]) == 0
    kept = read_reference(tmp_path / "kept.npz")
    assert (kept.n, kept.protocol) == (None, "pytorch-fid")
    assert isinstance(kept.gaussian, Gaussian)


def test_what_was_typed_is_looked_at_before_the_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cli import main

    monkeypatch.setattr(references, "check_pictures", lambda paths: pytest.fail("pictures were decoded"))
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    command = ["refs", "build", str(folder), "--out", str(tmp_path / "x.npz")]
    for typed, said in (
        (["--protocol", "nonsense"], "no protocol named 'nonsense'"),
        (["--protocol", "clean", "--device", "tpu"], "--device 'tpu' is no device"),
        (["--protocol", "clean", "--device", "cuda:x"], "is no device"),
        (["--protocol", "clean", "--device", "cuda:99"], "--device cuda:99: this Python sees"),
        (["--protocol", "dinov2-l14"], "bench assets fetch dinov2-large"),
        (["--protocol", "cmmd"], "bench assets fetch clip-l14-336"),
    ):
        assert main([*command, *typed]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text", "array", "objects", "no numbers", "pickle"])
def test_foreign_files_are_told_in_our_words(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NumPy would advise to load pickles, which run whatever is in them."""
    import pickle
    import zipfile

    from bench.cli import main

    file = tmp_path / "q.txt"
    if kind == "text":
        file.write_text("questions")
    elif kind == "pickle":
        file.write_bytes(pickle.dumps({"mu": 1}))
    elif kind == "array":
        with file.open("wb") as f:
            np.save(f, np.zeros(3))
    elif kind == "objects":
        with file.open("wb") as f:
            np.savez(f, mu=np.array([None]), sigma=np.eye(1))
    else:
        with zipfile.ZipFile(file, "w") as z:
            z.writestr("mu", "a")
            z.writestr("sigma", "b")
    for command in (["refs", "show", str(file)], ["refs", "import", str(file), "--out", str(tmp_path / "y.npz")],
                    ["plan", "--suite", "coco", "--tuner", "drtune", "--reference", str(file)]):  # fmt: skip
        assert main(command) in (1, 2)
        said = capsys.readouterr()
        assert f"{file} cannot be read as reference statistics: " in said.err + said.out
        assert "pickle" not in said.err + said.out
