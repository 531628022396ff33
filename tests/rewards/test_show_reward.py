"""``bench show reward``, with weights and without: the same facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.assets import catalogue
from bench.cli import main
from rewards.clip import PUBLISHED

NEED_WEIGHTS = sorted({name for asset in catalogue().values() for name in asset.used_by.get("rewards", ())})


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def shown(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, Any]:
    assert main(["show", "reward", name, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


@pytest.mark.parametrize("name", NEED_WEIGHTS)
def test_without_weights(name: str, nothing: None, capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown(capsys, name)
    assert facts["name"] == name and facts["family"] and facts["unit"] and facts["licence"]
    assert facts["weights"].startswith("missing: ") and "bench assets fetch " in facts["weights"]
    assert facts["weights_sha256"] is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_facts_without_weights_are_those_with_them(
    name: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    having = shown(capsys, name)
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path / "none"))
    lacking = shown(capsys, name)
    assert (having["weights"], lacking["weights"].split(":")[0]) == ("here", "missing")
    own = {"weights", "weights_sha256"}
    if name == "aesthetic":  # its bounds are its head's
        assert having["range"] is not None
        own |= {"range"}
    assert {k: v for k, v in lacking.items() if k not in own} == {k: v for k, v in having.items() if k not in own}


def test_hps_as_published(nothing: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "reward", "hps-v2.1"]) == 0
    said = capsys.readouterr().out
    for line in ("family: ViT-H/14", "input_px: 224", "range: -1.0; 1.0", "cost_gmac: 167", "licence: Apache-2.0",
                 "differentiable: True"):  # fmt: skip
        assert line in said
    assert "weights: missing: clip-h14-processor (told by the hub before a fetch), hps-v2.1 (1.97 GB); " in said
    assert said.rstrip().endswith("bench assets fetch --reward hps-v2.1")


def test_a_detector_whose_score_is_a_cost(nothing: None, capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown(capsys, "objectness(class=cat)")
    assert (facts["name"], facts["direction"], facts["input_px"]) == ("objectness(class=cat)", "minimise", 768)
    assert main(["show", "reward", "objectness(clas=cat)"]) == 2
    assert "has no argument 'clas'" in capsys.readouterr().err


def test_what_needs_no_weights_and_what_is_no_one_reward(nothing: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "symmetry")["weights"] == "none"
    assert shown(capsys, "tiny-pick")["weights"] == "here"
    assert main(["show", "reward", "symmetry + pickscore"]) == 2
    assert "bench assets fetch clip-h14-processor" in capsys.readouterr().err
    assert main(["show", "reward", "pikscore"]) == 2
    assert "did you mean 'pickscore'" in capsys.readouterr().err
