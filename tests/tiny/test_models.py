"""The stored weights: they open with the library classes, are what the card says, and work on held-out scenes."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import AutoTokenizer, CLIPModel

from bench.tiny import MODELS, weights_dir
from bench.tiny.data import as_images, round_trip
from bench.tiny.evaluate import card, digests, pair_accuracy, reader_accuracy, retrieval, tifa
from bench.tiny.language import Thing, caption_of, describe
from bench.tiny.loop import draw
from bench.tiny.models import load_pipeline, load_reader, load_scorer
from bench.tiny.questions import questions
from bench.tiny.reader import Reader, answer_from
from bench.tiny.reference import reference_scenes
from bench.tiny.scorers import scores
from bench.tiny.tokens import END_ID, MAX_LENGTH, START_ID, UNKNOWN_ID, token_ids, tokenizer
from bench.tiny.vocabulary import vocabulary
from bench.tiny.world import Scene

COCO_LIKE = (
    "A woman in a red coat, holding an umbrella 🌂, walks two small dogs past the fruit stand of an old market while "
    "a man on a bicycle waits at the traffic light behind a green bus, near 3.5 tonnes of naïve 日本 crates; nobody "
    "looks at the large clock above the station's door, which has shown five past seven since the spring of 1987."
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


@lru_cache(maxsize=1)
def reader() -> Reader:
    return load_reader()


@lru_cache(maxsize=4)
def scorer(name: str) -> CLIPModel:
    return load_scorer(name)


@lru_cache(maxsize=1)
def scenes() -> list[Scene]:
    return list(reference_scenes(100, seed=21))


# ---------------------------------------------------------------------------------------------------- tokens


def test_every_vocabulary_word_is_one_token() -> None:
    ids = token_ids(list(vocabulary()))
    assert (ids[:, 0] == START_ID).all() and (ids[:, 2] == END_ID).all()
    assert UNKNOWN_ID not in ids
    assert len(set(ids[:, 1].tolist())) == len(vocabulary())


def test_unknown_words_are_one_unknown_token_each() -> None:
    assert token_ids(["a bicycle 日本 😀 circle"])[0, :7].tolist() == [
        START_ID, token_ids(["a"])[0, 1], UNKNOWN_ID, UNKNOWN_ID, UNKNOWN_ID, token_ids(["circle"])[0, 1], END_ID,
    ]  # fmt: skip


def test_case_and_unicode_form_do_not_matter() -> None:
    assert torch.equal(token_ids(["A RED Circle"]), token_ids(["a red circle"]))
    assert tokenizer()("nai\u0308ve")["input_ids"] == tokenizer()("naïve")["input_ids"]


def test_long_captions_are_cut_and_keep_the_end() -> None:
    ids = token_ids([COCO_LIKE, ""])
    assert ids.shape == (2, MAX_LENGTH)
    assert ids[0, -1] == END_ID and END_ID not in ids[0, 1:-1]
    assert (ids[1, 1:] == END_ID).all()


@pytest.mark.parametrize("folder", ["tiny-sd/tokenizer", "tiny-clip", "tiny-pick", "tiny-judge"])
def test_stored_tokenizers_agree_with_the_code(folder: str) -> None:
    stored = AutoTokenizer.from_pretrained(weights_dir() / folder)
    texts = ["a small striped red circle left of two blue crosses at night", COCO_LIKE, ""]
    ids = stored(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    assert stored.model_max_length == MAX_LENGTH
    assert torch.equal(ids, token_ids(texts))


# ---------------------------------------------------------------------------------------------------- files


def test_files_are_those_that_were_measured_and_small() -> None:
    measured = json.loads((weights_dir() / "measured.json").read_text())
    assert digests(weights_dir()) == measured["files"]
    assert sum(path.stat().st_size for path in weights_dir().rglob("*") if path.is_file()) <= 30 * 2**20
    assert (weights_dir() / "MODEL_CARD.md").read_text() == card(measured)


def test_weights_are_float16_and_finite() -> None:
    from safetensors.torch import load_file

    for name in MODELS:
        for path in (weights_dir() / name).rglob("*.safetensors"):
            tensors = load_file(path)
            assert all(t.dtype == torch.float16 for t in tensors.values() if t.is_floating_point()), path
            assert all(torch.isfinite(t).all() for t in tensors.values()), path


def test_pipeline_has_stable_diffusions_parts() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(weights_dir() / "tiny-sd", dtype=torch.float32)
    assert isinstance(pipe.vae, AutoencoderKL) and isinstance(pipe.unet, UNet2DConditionModel)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert pipe.safety_checker is None and pipe.vae_scale_factor == 8 and pipe.unet.dtype == torch.float32
    config = pipe.scheduler.config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert config.prediction_type == "epsilon" and not config.clip_sample and not config.set_alpha_to_one


# ---------------------------------------------------------------------------------------------------- quality


def test_reader_answers_on_held_out_renders_and_after_the_autoencoder() -> None:
    assert reader_accuracy(reader(), scenes()[:50], 9)["overall"] >= 0.93
    decoded = reader_accuracy(reader(), scenes()[:50], 9, lambda x: round_trip(pipeline().vae, x))
    assert decoded["overall"] >= 0.85


def test_reader_interface() -> None:
    images = as_images(scenes()[:2])
    answers = reader().answer(images, ["how many objects are there?", "is it day or night?"])
    assert answers[0] in ("one", "two", "three", "four") and answers[1] in ("day", "night")
    assert answer_from(None, "is there a red circle?") == "no"
    assert answer_from(None, "how many circles are there?") == "zero"
    with pytest.raises(ValueError, match="not a question"):
        reader().answer(images[:1], ["what is the meaning of it all?"])


def test_clip_finds_held_out_pictures() -> None:
    assert retrieval(scorer("tiny-clip"), scenes(), 9)["text_to_image"] >= 0.85


@pytest.mark.parametrize(("name", "least"), [("tiny-pick", 0.85), ("tiny-judge", 0.82)])
def test_scorers_prefer_the_right_picture(name: str, least: float) -> None:
    assert pair_accuracy(scorer(name), scenes(), 9, None)["overall"] >= least
    assert pair_accuracy(scorer(name), scenes(), 9, pipeline().vae)["overall"] >= least - 0.05


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-pick", "tiny-judge"])
def test_scores_have_a_gradient_in_the_picture(name: str) -> None:
    images = torch.rand((2, 3, 96, 96), generator=torch.Generator().manual_seed(0)).requires_grad_()
    scores(scorer(name), images, ["a red circle", "a bicycle"]).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_generated_pictures_show_what_was_asked_for() -> None:
    rng = np.random.default_rng(8)
    captions = [describe(scene, rng) for scene in reference_scenes(16, seed=33)]
    generators = [torch.Generator().manual_seed(i) for i in range(len(captions))]
    texts = [caption.text for caption in captions]
    images = pipeline()(
        texts, num_inference_steps=20, guidance_scale=4.5, generator=generators, output_type="pt"
    ).images
    asked = tifa(reader(), captions, images)["overall"]
    others = tifa(reader(), captions[1:] + captions[:1], images)["overall"]
    assert asked >= 0.5
    assert asked > others + 0.05


def test_an_image_does_not_depend_on_its_batch() -> None:
    texts = [caption_of(Thing("circle", "red")).text, caption_of(Thing("star", "blue")).text]

    def latents(subset: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(100 + i) for i in subset]
        out = pipeline()([texts[i] for i in subset], num_inference_steps=4, generator=generators, output_type="latent")
        return torch.as_tensor(out.images)

    assert torch.allclose(latents([0, 1])[1], latents([1])[0], atol=1e-4)


def test_measured_figures_meet_the_targets_of_the_card() -> None:
    measured = json.loads((weights_dir() / "measured.json").read_text())
    assert 0.55 <= measured["sd"]["tifa"]["overall"] <= 0.92
    assert measured["sd"]["unet_gflop"] <= 0.25
    assert measured["vqa"]["renders"]["overall"] >= 0.95
    assert set(measured["sd"]["tifa"]) >= {q.kind for q in questions(caption_of(Thing("star", "red")).facts)}


def test_weights_folder_is_where_the_package_is() -> None:
    assert weights_dir().parent == Path(__file__).resolve().parents[2] / "bench" / "tiny"
    assert draw("x", 1).np.integers(1000) == draw("x", 1).np.integers(1000)
