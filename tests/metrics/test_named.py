"""What ``--vqa``, ``--subject`` and ``--embedder`` name is read when a run is planned, not after its hours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from metric_world import picture
from PIL import Image
from random_networks import save_random_blip_vqa, save_random_dinov2

from bench.cli import main
from bench.core.judging import Judging
from bench.metrics.named import problems_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("named")
    save_random_blip_vqa(root / "vqa")
    save_random_dinov2(root / "face")
    (root / "subject").mkdir()
    Image.fromarray(picture(0)).save(root / "subject" / "0.png")
    return root


def judged(root: Path) -> Judging:
    return Judging(vqa=str(root / "vqa"), subject=str(root / "subject"), embedder=str(root / "face"))


def test_whole_ones_are_no_problem(world: Path) -> None:
    assert problems_of(judged(world)) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("vqa/config.json", "has no config.json"),
        ("vqa/model.safetensors", "has no weights"),
        ("vqa/config.json={", "cannot be read"),
        ("vqa/config.json={}", "names no model_type"),
        ("vqa/tokenizer.json={", "tokenizer.json cannot be read"),
        ("vqa/model.safetensors=cut", "is cut off"),
        ("face/model.safetensors=text", "is cut off"),
        ('face/model.safetensors.index.json={"weight_map": {"a": "model-2.safetensors"}}', "lacks model-2.safetensors"),
        ("face/model.safetensors.index.json={}", "is no index of weights"),
        ("subject/0.png", "there are no pictures"),
        ("subject/0.png=cut", "1 of 1 pictures cannot be decoded"),
    ],
)
def test_damage_is_one_problem_that_names_the_option(damage: str, said: str, world: Path, tmp_path: Path) -> None:
    root = shutil.copytree(world, tmp_path / "w")
    name, sign, content = damage.partition("=")
    file = root / name
    if not sign:
        file.unlink()
    elif content == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    else:
        file.write_text(content)
    (problem,) = problems_of(judged(root))
    assert problem.startswith(f"--{'embedder' if name.startswith('face') else name.partition('/')[0]}: ")
    assert said in problem
    assert "\n" not in problem


def test_the_plan_says_so(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--suite", "coco", "--tuner", "drtune", "--metrics", "+identity", "--runs", str(tmp_path)]
    (tmp_path / "face.pt").write_bytes(b"no script")
    for typed, said in (
        (["--subject", str(world / "subject")], "--subject without --embedder"),
        (["--embedder", str(world / "face")], "--embedder without --subject"),
        (["--subject", str(world / "subject"), "--embedder", str(tmp_path / "face.pt")], "is no TorchScript file"),
        (["--vqa", str(tmp_path / "face.pt")], "is no folder"),
    ):
        assert main([*command, *typed, "--json"]) == 1
        (problem,) = json.loads(capsys.readouterr().out)["problems"]
        assert said in problem
    whole = ["--subject", str(world / "subject"), "--embedder", str(world / "face"), "--vqa", str(world / "vqa")]
    assert main([*command, *whole]) == 0
