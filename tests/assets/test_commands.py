"""``bench assets`` as people type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub
from layouts import pipeline_folder, transformers_folder
from test_fetching_weights import HPS

from bench.cli import main


def bench(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench", "assets", *args], capture_output=True, text=True, check=False,
                          env={**os.environ, **env})  # fmt: skip


def test_status_says_what_is_needed_and_how_to_get_it(tmp_path: Path) -> None:
    asked = ("status", "--model", "sd15", "--reward", "symmetry + 0.5*pickscore")
    done = bench(*asked, TUNEBENCH_MODELS=str(tmp_path), HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["sd15", "clip-h14-processor", "pickscore"]
    assert "missing" in lines[3] and "a4e4367c6dfa" in lines[3] and "MIT" in lines[3]
    assert lines[3].endswith("bench assets fetch pickscore")
    transformers_folder(tmp_path / "PickScore_v1")
    done = bench("status", "pickscore", "--json", TUNEBENCH_MODELS=str(tmp_path), HF_HUB_CACHE=str(tmp_path / "hub"))
    (told,) = json.loads(done.stdout)["assets"]
    assert done.returncode == 0
    assert (told["state"], told["folder"], told["todo"]) == ("found", str(tmp_path / "PickScore_v1"), None)


def test_status_of_all_and_of_wrong_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    from bench.assets import catalogue

    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    transformers_folder(tmp_path / "clip-vit-large-patch14")
    assert main(["assets", "status"]) == 1
    said = capsys.readouterr().out
    assert {line.split()[0] for line in said.splitlines()} >= set(catalogue())
    unpinned = {name for name, asset in catalogue().items() if not asset.revision}
    assert {line.split()[0] for line in said.splitlines() if " unpinned " in line} == unpinned
    assert "clip-l14: " in said and "it has" in said
    assert main(["assets", "status", "--reward", "symmetry"]) == 0
    assert "no published weights are needed" in capsys.readouterr().out
    assert main(["assets", "status", "clip-l41"]) == 2
    assert "did you mean 'clip-l14'" in capsys.readouterr().err
    assert main(["assets", "fetch"]) == 2


@pytest.mark.parametrize("command", ["status", "fetch"])
def test_names_that_nobody_has(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*args: str) -> str:
        assert main(["assets", command, *args]) == 2
        said = capsys.readouterr()
        assert not said.out
        return said.err

    assert "no model named 'sd51'" in (said := refused("--model", "sd51")) and "did you mean 'sd15'" in said
    assert "no reward named 'pikscore'" in (said := refused("--reward", "symmetry + pikscore"))
    assert "did you mean 'pickscore'" in said
    assert "no suite named 'hpsv3'" in refused("--suite", "hpsv3")
    said = refused("--model", "org/name@deadbeef")
    assert "org/name@deadbeef is not in the catalogue" in said
    assert "hf download org/name --revision deadbeef --local-dir FOLDER, then --model FOLDER" in said
    # the catalogue's repository at another commit is not the catalogue's
    assert "not in the catalogue" in refused("--model", "stabilityai/stable-diffusion-xl-base-1.0@deadbeef")


def assets_of(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    assert main(["assets", "status", *args, "--json"]) in (0, 1)
    return [told["name"] for told in json.loads(capsys.readouterr().out)["assets"]]


def test_a_model_by_name_repository_and_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert assets_of(capsys, "--model", "sdxl") == ["sdxl"]
    assert assets_of(capsys, "--model", "stabilityai/stable-diffusion-xl-base-1.0") == ["sdxl"]
    assert assets_of(capsys, "--model", "runwayml/stable-diffusion-v1-5") == ["sd15"]
    folder = pipeline_folder(tmp_path / "mine")
    assert assets_of(capsys, "--model", str(folder)) == assets_of(capsys, "--model", f"sd15={folder}") == []
    assert assets_of(capsys, "--model", "tiny-sd") == []


def test_a_model_whose_weights_are_here_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    pipeline_folder(tmp_path / "stable-diffusion-v1-5")
    assert assets_of(capsys, "--model", "sd15") == ["sd15"]


def test_a_suite_needs_its_reward_its_judges_and_its_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    from bench.assets import needed
    from bench.metrics.panel import PREFERENCE_JUDGES

    found = set(assets_of(capsys, "--suite", "hpsv2-400"))
    # what is computed at scale on hpsv2: rewards, clipscore, diversity, colour
    assert found == {a.name for a in needed(rewards=PREFERENCE_JUDGES["published"], metrics=["clipscore", "diversity"])}
    assert found >= {"hps-v2.1", "pickscore", "imagereward", "aesthetic-v2", "clip-h14", "lpips-alex"}
    # the tiny model is judged by the tiny world's own, on published prompts too
    assert assets_of(capsys, "--suite", "hpsv2-400", "--model", "tiny-sd") == []


def test_sizes_are_figures_or_say_who_tells_them(capsys: pytest.CaptureFixture[str]) -> None:
    from bench.assets import find

    assert main(["assets", "status"]) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert not [line for line in lines.values() if "unknown" in line]
    for name, size in (("sd15", "4.27 GB"), ("sdxl", "13.9 GB"), ("clip-h14", "3.94 GB"), ("lpips-alex", "6.01 kB")):
        assert size in lines[name]
    assert "told by the hub before a fetch" in lines["blip2"]
    assert "told by pip before a fetch" in lines["lpips-alexnet"]
    # what no file of it states is shown, and no file is checked against it
    assert find("sdxl").files == ()


def test_every_asset_is_needed_by_something_or_by_a_path_that_a_user_gives() -> None:
    from bench.assets import catalogue

    unused = {name for name, asset in catalogue().items() if not asset.used_by}
    # --vqa takes a folder of the larger reader; RealignDiff's second stage takes folders of its detector and its masks
    assert unused == {"blip-vqa-capfilt-large", "grounding-dino", "sam"}


def test_fetch_then_found(tmp_path: Path) -> None:
    hub = Hub({"xswu/HPSv2": dict(HPS)}, pieces=[120_000])
    env = {"HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path / "c"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = bench("fetch", "hps-v2", **env)
    hub.close()
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().removeprefix("hps-v2: "))
    assert (folder / "HPS_v2_compressed.pt").read_bytes() == HPS["HPS_v2_compressed.pt"]
    assert folder.is_relative_to(tmp_path / "c" / "tunebench" / "assets")
    assert bench("status", "hps-v2", **env).returncode == 0
    assert "is there" in bench("fetch", "hps-v2", **env).stderr


def test_neither_imports_torch() -> None:
    code = ("import sys; from bench.cli import main; main(['assets', 'status']); "
            "print('HEAVY', sorted({'torch', 'transformers', 'diffusers', 'pandas'} & set(sys.modules)))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr
