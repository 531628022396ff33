"""``--metrics``: every metric and every option of judging can be reached from the command line, and none is idle."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from metric_world import picture
from PIL import Image
from random_clip import save_random_clip
from random_networks import save_random_blip_vqa, save_random_dinov2

from bench.cli import main
from bench.core.errors import UserError
from bench.metrics import distances, inception
from bench.metrics.choice import choose_metrics
from bench.metrics.extractors import Extractor

OWN = ("fid", "rewards")
PLAN = ("plan", "--suite", "coco", "--tuner", "drtune")


def test_in_place_of_the_suites_or_beside_them() -> None:
    assert choose_metrics(None, OWN) == OWN
    assert choose_metrics("cmmd, fid,cmmd", OWN) == ("cmmd", "fid")
    assert choose_metrics("+cmmd,fid", OWN) == choose_metrics("+cmmd,+fid", OWN) == ("fid", "rewards", "cmmd")
    for text, said in (("", "names no metric"), ("+", "names no metric"), ("cmmd,+kid", "half in place")):
        with pytest.raises(UserError, match=said):
            choose_metrics(text, OWN)


def test_metrics_change_the_spec_and_no_run_id(tmp_path: Path) -> None:
    from bench.cli.run_ import _unmeasured
    from bench.engine.options import Options
    from bench.engine.plan import make_plan

    (plain,) = make_plan(Options("coco", "drtune", runs=tmp_path)).runs
    (more,) = make_plan(Options("coco", "drtune", metrics="+jpeg-size", runs=tmp_path)).runs
    assert more.spec.metrics == (*plain.spec.metrics, "jpeg-size") == more.suite.spec.metrics
    assert more.spec.run_id == plain.spec.run_id
    # a finished one says what it lacks
    plain.folder.write_spec(plain.spec)
    assert _unmeasured(more).endswith(f"bench score {plain.spec.run_id} --metrics +jpeg-size)")
    assert _unmeasured(plain) == ""
    # a run that was begun measures what is asked now, and keeps all else
    more.folder.write_spec(more.spec)
    assert plain.folder.read_spec() == more.spec


def test_questions_without_tifa_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from suites.coco import suite

    file = tmp_path / "q.json"
    prompts = suite("sample", variant="", data_dir=None, limit=3).prompts
    file.write_text(json.dumps(questions([p.text for p in prompts])))
    command = [*PLAN, "--questions", str(file), "--runs", str(tmp_path)]
    assert main([*command, "--metrics", "fid"]) == 2
    assert "--metrics +tifa" in capsys.readouterr().err
    assert main([*command, "--metrics", "tifa"]) == 0


def questions(captions: list[str]) -> list[dict[str, Any]]:
    return [{"caption": text, "question": "is there a cat ?", "choices": ["yes", "no"], "answer": "yes",
             "element_type": "animal"} for text in captions]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--metrics", "+cmd"], "did you mean 'cmmd'"),
        (["--metrics", "fid", "--vqa", "."], "--metrics +tifa"),
        (["--metrics", "fid", "--judges", "tiny-pick"], "--metrics +rewards"),
        (["--metrics", "clipscore", "--reference", __file__], "--metrics +fid"),
        (["--subject", "."], "--metrics +identity"),
        (["--embedder", __file__], "--metrics +identity"),
    ],
)
def test_unknown_names_and_idle_options_are_refused_with_what_to_type(
    typed: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, *typed, "--runs", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_reference_of_another_protocol_names_the_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.metrics.gaussian import Gaussian
    from bench.metrics.references import Reference, write_reference

    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).numpy()
    write_reference(tmp_path / "clean.npz", Reference("x", "clean", "0" * 64, 9, "", x, Gaussian.of(x)))
    command = [*PLAN, "--runs", str(tmp_path), "--reference", str(tmp_path / "clean.npz")]
    assert main([*command, "--metrics", "fid"]) == 1
    assert "--metrics +fid-clean" in capsys.readouterr().out
    assert main([*command, "--metrics", "fid-clean"]) == 0


def test_what_the_tiny_world_has_no_network_for_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main([*PLAN, "--metrics", "+fd-dinov2,cmmd,identity", "--runs", str(tmp_path), "--json"]) == 0
    absent = json.loads(capsys.readouterr().out)["absent"]
    assert [s.partition(" is absent")[0] for s in absent] == ["fd-dinov2", "cmmd", "identity"]


# --------------------------------------------------------------------------------------- all of them, from the keyboard


class Regions(torch.nn.Module):
    """Stands in for Inception: 4 x 4 region means of the prepared picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Columns of three pictures under everything that no suite's card lists, TIFA by a reader of one's own."""
    from suites.coco import suite

    root = tmp_path_factory.mktemp("every-metric")
    prompts = suite("sample", variant="", data_dir=None, limit=3).prompts
    for i in range(3):
        (root / "images").mkdir(exist_ok=True)
        (root / "subject").mkdir(exist_ok=True)
        Image.fromarray(picture(i, side=96)).save(root / "images" / f"{i}.png")
        Image.fromarray(picture(i + 10, side=96)).save(root / "subject" / f"{i}.png")
    (root / "images" / "index.csv").write_text(
        "prompt_id,path\n" + "".join(f"{p.id},{i}.png\n" for i, p in enumerate(prompts))
    )
    (root / "q.json").write_text(json.dumps(questions([p.text for p in prompts])))
    save_random_dinov2(root / "models" / "dinov2-large")
    save_random_clip(root / "models" / "clip-vit-large-patch14-336")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        torch.jit.trace(pool, torch.zeros(1, 3, 112, 112)).save(str(root / "face.pt"))  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEBENCH_MODELS", str(root / "models"))
        patch.setenv("XDG_CACHE_HOME", str(root / "home"))
        patch.setenv("TUNEBENCH_OTHER_WEIGHTS", "dinov2-large,clip-l14-336")
        patch.delenv(distances.REFERENCE_VARIABLE, raising=False)
        patch.setattr(inception, "load_inception", lambda device: Regions())
        patch.setattr(Extractor, "num_features", 48)
        reference = str(root / "clean.npz")
        assert main(["refs", "build", str(root / "subject"), "--protocol", "clean", "--out", reference]) == 0
        command = ["eval", "--images", str(root / "images"), "--suite", "coco", "--limit", "3", "--name", "elsewhere",
                   "--model", "none", "--runs", str(root / "runs")]  # fmt: skip
        assert main([*command, "--metrics", "jpeg-size"]) == 0
        record = next((root / "runs").rglob("record.json"))
        assert {m["name"] for m in json.loads(record.read_text())["metrics"]} == {"jpeg-size/q95"}
        assert main(["score", record.parent.name, "--metrics", "+fid-clean", "--runs", str(root / "runs")]) == 0
        assert {m["name"] for m in json.loads(record.read_text())["metrics"]} == {"jpeg-size/q95", "fid/clean"}
        # bench score takes what bench run takes about judging, keeps it, and leaves out nothing that it was not told
        score = ["score", record.parent.name, "--runs", str(root / "runs")]
        request = json.loads((record.parent / "request.json").read_text())
        assert main([*score, "--embedder", str(root / "face.pt"), "--subject", str(root / "subject")]) == 2
        assert main([*score, "--metrics", "+identity", "--subject", str(root / "subject")]) == 2
        assert main([*score, "--metrics", "+tifa", "--questions", str(root / "none.json")]) == 2
        assert json.loads((record.parent / "request.json").read_text()) == request
        for more in (
            ["--metrics", "+identity", "--subject", str(root / "subject"), "--embedder", str(root / "face.pt")],
            ["--metrics", "+tifa", "--vqa", str(save_random_blip_vqa(root / "my-blip")), "--questions",
             str(root / "q.json"), "--reference", reference],
        ):  # fmt: skip
            assert main([*score, *more]) == 0
        found = {m["name"]: m for m in json.loads(record.read_text())["metrics"]}
        assert set(found) == {"jpeg-size/q95", "fid/clean", "identity/face", "tifa/my-blip/literal"}
        assert found["fid/clean"]["passport"]["reference_name"] == "subject"
        # the same images under more metrics are the same run, measured again
        assert main([
            *command, "--metrics", "+fd-dinov2,cmmd,identity,jpeg-size,fid-clean,fid-torch-fidelity",
            "--subject", str(root / "subject"), "--embedder", str(root / "face.pt"), "--reference", reference,
            "--vqa", str(root / "my-blip"), "--questions", str(root / "q.json"),
        ]) == 0  # fmt: skip
        assert [record] == list((root / "runs").rglob("record.json"))
        yield {m["name"]: m for m in json.loads(record.read_text())["metrics"]}


@pytest.mark.parametrize(
    "column",
    ["fid/clean", "fid/torch-fidelity", "fd/dinov2-l14", "cmmd/clip-l14-336", "identity/face", "jpeg-size/q95",
     "tifa/my-blip/literal"],
)  # fmt: skip
def test_a_metric_that_no_card_lists_is_measured(column: str, measured: dict[str, Any]) -> None:
    assert measured[column]["value"] is not None, measured[column]["warnings"]
    assert measured["fid/clean"]["passport"]["reference_name"] == "subject"
