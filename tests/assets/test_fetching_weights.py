"""``bench assets fetch`` against a hub on this machine: resumed, checked, never half there."""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub
from layouts import safetensors

from bench.assets import fetch as fetching
from bench.assets import find, locate, need
from bench.assets.fetch import chosen_files, fetch
from bench.core.errors import UserError
from bench.store.download import N_TRIES


def checkpoint(n: int = 300_000) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", bytes(n))
    return out.getvalue()


HPS = {"HPS_v2_compressed.pt": checkpoint(), "HPS_v2.1_compressed.pt": checkpoint(200), "README.md": b"hello"}
PICK = {
    "config.json": b"{}", "preprocessor_config.json": b'{"size": 224}', "vocab.json": b"{}", "merges.txt": b"x",
    "model.safetensors": safetensors(1000), "pytorch_model.bin": bytes(9000), "README.md": b"hello",
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub({"xswu/HPSv2": dict(HPS), "yuvalkirstain/PickScore_v1": dict(PICK)})
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    yield served
    served.close()


def n_parts(cache: Path) -> int:
    return sum(path.is_file() for path in (cache / "assets" / ".partial").rglob("*"))


def test_a_folder_of_transformers_arrives_with_one_kind_of_weights(hub: Hub, cache: Path) -> None:
    folder = fetch(find("pickscore"))
    assert folder == need("pickscore")
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert there == {name: PICK[name] for name in PICK if name not in ("pytorch_model.bin", "README.md")}
    assert n_parts(cache) == 0
    n = len(hub.requests)
    fetch(find("pickscore"))
    assert len(hub.requests) == n + 1  # the listing: nothing is fetched twice


def test_two_assets_of_one_repository_share_its_folder(hub: Hub) -> None:
    folder = fetch(find("hps-v2"))
    assert [path.name for path in folder.iterdir()] == ["HPS_v2_compressed.pt"]
    assert locate("hps-v2.1") is None


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub) -> None:
    hub.pieces = itertools.repeat(70_000)
    folder = fetch(find("hps-v2"))
    assert (folder / "HPS_v2_compressed.pt").read_bytes() == HPS["HPS_v2_compressed.pt"]
    ranges = [r for path, r, _ in hub.requests if path.startswith("/storage")]
    assert ranges == ["", "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]


def test_a_connection_that_brings_nothing_ends_it_and_the_same_command_continues(hub: Hub, cache: Path) -> None:
    hub.pieces = iter([100_000, *[0] * N_TRIES])
    with pytest.raises(UserError, match=r"connection was cut; 100,000 bytes are here") as caught:
        fetch(find("hps-v2"), pause_s=0)
    assert caught.value.hint == "the same command again goes on from there"
    assert n_parts(cache) == 2 and locate("hps-v2") is None  # what came, and the note on it
    hub.requests.clear()
    folder = fetch(find("hps-v2"))
    assert (folder / "HPS_v2_compressed.pt").read_bytes() == HPS["HPS_v2_compressed.pt"]
    assert [r for path, r, _ in hub.requests if path.startswith("/storage")] == ["bytes=100000-"]


def test_bytes_that_are_not_the_hubs_are_not_kept(hub: Hub, cache: Path) -> None:
    hub.wrong_bytes = True
    with pytest.raises(UserError, match="arrived with sha256"):
        fetch(find("hps-v2"))
    assert locate("hps-v2") is None and n_parts(cache) == 0
    with pytest.raises(UserError, match="arrived with git digest"):
        fetch(find("pickscore"))
    assert locate("pickscore") is None and n_parts(cache) == 0


def test_a_hub_with_another_file_than_the_published_one(hub: Hub, cache: Path) -> None:
    """The catalogue knows the digest of v2.1: refused by the listing alone, or else by the bytes."""
    with pytest.raises(UserError, match="another file on the hub than the published one"):
        fetch(find("hps-v2.1"))
    assert not any(path.startswith("/storage") for path, _, _ in hub.requests)
    hub.states_digests = False
    with pytest.raises(UserError, match=r"arrived with sha256 .* published is c57a38fb"):
        fetch(find("hps-v2.1"))
    assert locate("hps-v2.1") is None and n_parts(cache) == 0


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(find("hps-v2"))
    for path, _, authorisation in hub.requests:
        assert authorisation == ("" if path.startswith("/storage") else "Bearer hf_secret"), path
    assert any(path.startswith("/storage") for path, _, _ in hub.requests)


def test_no_room_is_said_before_a_byte_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"no room: 300 kB are to be downloaded and .* has 1 kB free"):
        fetch(find("hps-v2"))
    assert not any(path.startswith("/storage") for path, _, _ in hub.requests)


def test_no_permission_no_such_revision_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.forbidden = True
    with pytest.raises(UserError, match=r"not open to you \(HTTP 403\)") as caught:
        fetch(find("sd35-medium"))
    assert "licence" in caught.value.valid and "HF_TOKEN" in caught.value.hint
    hub.forbidden = False
    with pytest.raises(UserError, match="does not exist"):
        fetch(find("sd15"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        fetch(find("hps-v2"))


def test_files_of_a_pipeline_that_loading_needs() -> None:
    """Of a repository like SDXL's: no half precision, no other framework, no single file, no safety checker."""
    available = [
        "README.md", "model_index.json", "sd_xl_base_1.0.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.bin", "unet/model.onnx",
        "unet/diffusion_pytorch_model.fp16.safetensors.index.json", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "text_encoder_2/model.safetensors", "text_encoder_2/flax_model.msgpack", "scheduler/scheduler_config.json",
        "safety_checker/model.safetensors",
    ]  # fmt: skip
    assert sorted(chosen_files(find("sdxl"), available)) == sorted([
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "text_encoder_2/model.safetensors", "scheduler/scheduler_config.json",
    ])  # fmt: skip


def test_pickles_are_taken_where_there_is_nothing_else_or_the_catalogue_says_so() -> None:
    only = ["config.json", "pytorch_model.bin", "tf_model.h5"]
    assert chosen_files(find("pickscore"), only) == ["config.json", "pytorch_model.bin"]
    shards = [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json",
    ]  # fmt: skip
    assert sorted(chosen_files(find("blip2"), shards)) == [shards[0], *shards[1:4]]
    assert chosen_files(find("clip-b32"), [*only, "model.safetensors"]) == ["config.json", "pytorch_model.bin"]


def test_a_file_from_a_plain_address(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the aesthetic head comes from its repository; its published digest is the catalogue's."""
    import dataclasses

    asset = find("aesthetic-v2")
    hub.repos["raw/x"] = {"sac+logos+ava1-l14-linearMSE.pth": b"\x80\x02}q\x00."}
    content = hub.repos["raw/x"][asset.files[0].path]
    known = dataclasses.replace(asset.files[0], bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    here = dataclasses.replace(asset, url=f"{hub.url}/raw/x/resolve/1", files=(known,))
    assert (fetch(here) / known.path).read_bytes() == content
    assert hub.requests[-1][0].endswith("sac%2Blogos%2Bava1-l14-linearMSE.pth")
    with pytest.raises(UserError, match="arrived with sha256"):
        fetch(dataclasses.replace(here, files=(dataclasses.replace(known, sha256="0" * 64),)))
