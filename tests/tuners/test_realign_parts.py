"""Stage 2's plans and who makes them: rules on words, the tiny world's reader, published models on random weights."""

import json

import pytest
import torch
from transformers import SamImageProcessorPil, SamModel

from bench.core.errors import UserError
from bench.tiny import weights_dir
from bench.tiny.render import render
from bench.tiny.world import Obj, Scene
from tuners.realign import parts, scale
from tuners.realign.plan import Found, Plan, Plans, mask_of, plan_from_json, runs
from tuners.realign.tiny import TinySight
from tuners.realign.words import ClosedWorld, Rules, match, phrases, singular

from .random_parts import save_clip, save_grounded_sam, save_language_model

TINY = {"tagger": "tiny", "judge": "tiny", "captioner": "rules", "segmenter": "tiny"}


def picture(*objects, background="grass"):
    return torch.from_numpy(render(Scene(objects, background))).permute(2, 0, 1).float() / 255


RED_CIRCLE = Obj("circle", "red", "large", "plain", 16, 20)
BLUE_CIRCLE = Obj("circle", "blue", "small", "plain", 48, 44)
BLUE_SQUARE = Obj("square", "blue", "small", "plain", 48, 44)


# -- plans are data


def test_a_plan_survives_json():
    mask = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    plan = Plan("a text", (Found("red circle", 2.0, "a red circle", mask), Found("sky", 0.0, "a sky", ~mask)))
    again = plan_from_json(json.loads(json.dumps(plan.to_json())))
    assert again.prompt == plan.prompt
    for a, b in zip(again.objects, plan.objects, strict=True):
        assert (a.tag, a.score, a.caption) == (b.tag, b.score, b.caption)
        assert torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("mask", [torch.zeros(2, 3), torch.ones(2, 3), torch.eye(3), torch.zeros(1, 1)])
def test_runs_give_back_every_mask(mask):
    mask = mask.bool()
    assert torch.equal(mask_of(runs(mask), *mask.shape), mask)


@pytest.mark.parametrize("broken", [{}, {"prompt": "x", "objects": [{}]}, {"prompt": "x", "objects": 3}])
def test_what_is_no_plan_is_refused(broken):
    with pytest.raises(UserError, match="no plan"):
        plan_from_json(broken)


def test_plans_are_made_once_for_a_picture_a_prompt_and_their_makers(tmp_path):
    image, made = torch.rand(3, 4, 4), []

    def make():
        made.append(1)
        return Plan("p", (Found("t", 2.0, "a t", torch.ones(4, 4, dtype=torch.bool)),))

    plans = Plans({"tagger": "x"}, tmp_path)
    for _ in range(2):
        plans.get(image, "p", make)
    assert len(made) == 1
    Plans({"tagger": "x"}, tmp_path).get(image, "p", make)  # another process: from disk
    assert len(made) == 1
    plans.get(image, "another prompt", make)
    plans.get(image + 0.1, "p", make)
    Plans({"tagger": "y"}, tmp_path).get(image, "p", make)
    assert len(made) == 4
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / f"{plans.key(image, 'p')}.json").write_text("{")
    with pytest.raises(UserError, match="delete it"):
        Plans({"tagger": "x"}, tmp_path).get(image, "p", make)


def test_the_folder_of_plans_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEBENCH_PLANS", str(tmp_path / "plans"))
    Plans({}).get(torch.zeros(3, 2, 2), "p", lambda: Plan("p", ()))
    assert len(list((tmp_path / "plans").iterdir())) == 1


# -- rules on words


@pytest.mark.parametrize(
    ("prompt", "noun", "found"),
    [
        ("a red circle and a blue square", "circle", ["a red circle"]),
        ("two small dotted red circles on the street", "circle", ["two small dotted red circles"]),
        ("a painting of a large star, at night", "star", ["a large star"]),
        ("A black cat laying on top of the arm of a red chair.", "chair", ["a red chair"]),
        ("A black cat laying on top of the arm of a red chair.", "cat", ["A black cat"]),
        ("red book and yellow pen", "pen", ["yellow pen"]),
        ("a red circle and a blue circle", "circle", ["a red circle", "a blue circle"]),
        ("a red circle", "square", []),
    ],
)
def test_noun_phrases_are_read_out_of_the_prompt(prompt, noun, found):
    assert [p.text for p in phrases(prompt, noun)] == found


def test_a_matched_noun_is_certain_and_any_other_possible():
    rules, prompt = Rules(), "a red book and a yellow pen"
    assert rules.scores(prompt, ["book", "desk", "pen"]) == [2.0, 0.5, 2.0]
    assert rules.captions(prompt, ["book", "desk", "pen"]) == ["a red book", "a desk", "a yellow pen"]
    assert singular("boxes") == "box"


def test_a_phrase_in_the_singular_speaks_of_one_tag_the_nearest():
    tags = ["green circle", "blue circle"]
    assert [p and p.text for p in match("a red square and a blue circle", tags)] == [None, "a blue circle"]
    assert [p and p.text for p in match("a red circle and a blue circle", tags)] == ["a red circle", "a blue circle"]
    assert [p and p.text for p in match("three circles", tags)] == ["three circles", "three circles"]


def test_in_a_closed_world_what_nothing_speaks_of_is_unlikely():
    judge = ClosedWorld()
    assert judge.scores("a red circle on grass", ["red circle", "blue circle", "blue star"]) == [2, 0, 0]
    assert judge.scores("a red circle and a blue object", ["red circle", "blue star"]) == [2, 0.5]
    assert judge.scores("three crosses, painted in oil", ["red cross", "blue star"]) == [2, 0]
    assert judge.scores("a dog on a sofa", ["blue star"]) == [0.5]


# -- the tiny world


def test_the_reader_tags_and_segments():
    sight = TinySight(weights_dir() / "tiny-vqa")
    image = picture(RED_CIRCLE, BLUE_SQUARE)
    (tags,) = sight.tags(image[None])
    assert set(tags) == {"red circle", "blue square"}
    red, blue, nothing = sight.masks(image, ["red circle", "blue square", "green star"])
    assert red[20, 16] and not red[44, 48] and blue[44, 48] and not blue[20, 16]
    assert 0.5 < red.sum() / (3.1416 * 14**2) < 1.3
    assert not nothing.any()
    assert sight.masks(torch.zeros(3, 32, 32), ["red circle"])[0].shape == (32, 32)


def test_the_planner_makes_a_plan_from_a_picture():
    planner = parts.Planner(TINY)
    (plan,) = planner.plan(picture(RED_CIRCLE, BLUE_CIRCLE)[None], ["a yellow circle and a green square"])
    by_tag = {o.tag: o for o in plan.objects}
    assert {o.score for o in plan.objects} == {2.0, 0.0}
    certain = next(o for o in plan.objects if o.score == 2)
    assert certain.caption == "a yellow circle"
    assert set(by_tag) == {"red circle", "blue circle"}
    assert planner.segmenter is planner.tagger


def test_a_planner_with_a_full_cache_loads_nothing(tmp_path, monkeypatch):
    image = picture(RED_CIRCLE)[None]
    first = parts.Planner(TINY, tmp_path).plan(image, ["a red circle"])
    monkeypatch.setattr(parts.Planner, "_load", lambda self, kind: pytest.fail(f"{kind} was loaded"))
    again = parts.Planner(TINY, tmp_path).plan(image, ["a red circle"])
    assert again[0].to_json() == first[0].to_json()


# -- refusals


@pytest.mark.parametrize(
    ("kind", "choice", "says"),
    [
        ("tagger", "ram", "tagger = 'ram' is none of tiny, clip=FOLDER"),
        ("judge", "llm", "llm=FOLDER"),
        ("judge", "llm=/nowhere/at/all", "names no folder that is here"),
        ("captioner", "rules=/tmp", "takes no folder"),
    ],
)
def test_a_wrong_choice_is_refused_with_what_is_valid(kind, choice, says):
    (problem,) = parts.problems(kind, choice)
    assert says in problem
    with pytest.raises(UserError):
        parts.Planner({**TINY, kind: choice})


def test_the_tiny_reader_is_refused_for_photographs():
    (problem,) = parts.problems("tagger", "tiny", tiny_world=False)
    assert problem == "tagger = tiny knows the tiny world only: choose among clip=FOLDER"
    assert parts.problems("judge", "rules", tiny_world=False) == []


def test_the_closed_worlds_judge_is_refused_for_photographs_though_it_has_no_weights():
    (problem,) = parts.problems("judge", "tiny", tiny_world=False)
    assert problem == "judge = tiny knows the tiny world only: choose among rules, llm=FOLDER"
    (problem,) = parts.problems("judge", "gpt", tiny_world=False)
    assert problem == "judge = 'gpt' is none of rules, llm=FOLDER"


# -- published models, random weights


def images(n=2, height=40, width=48):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(3))


def test_clip_tags_by_a_vocabulary(tmp_path):
    tagger = scale.ClipTagger(save_clip(tmp_path, "circle\n\nred square\nw3\n"))
    tags = tagger.tags(images())
    assert len(tags) == 2 and all(set(row) <= {"circle", "red square", "w3"} and row for row in tags)
    (tmp_path / "tags.txt").unlink()
    with pytest.raises(UserError, match=r"tags\.txt is missing"):
        scale.ClipTagger(tmp_path)


def test_a_language_model_is_asked_once_for_both(tmp_path):
    folder = save_language_model(tmp_path / "model")
    planner = parts.Planner({**TINY, "judge": f"llm={folder}", "captioner": f"llm={folder}"})
    judge = planner.judge
    assert planner.captioner is judge
    assert judge.scores("a red circle", ["circle"]) == [0.0]  # random weights answer nothing that can be read
    (question,) = judge._answers
    assert "circle" in question
    judge._answers[question] = '{"tag": "Circle", "likelihood": "certain", "caption": "a red circle"}'
    assert judge.scores("a red circle", ["circle"]) == [2.0]
    assert judge.captions("a red circle", ["circle"]) == ["a red circle"]


def test_what_a_language_model_garbles_is_left_out():
    told = scale.read_answer(
        'Here:\n{"tag": "dog", "likelihood": "possible", "caption": "a dog"}\n{"tag": "cat", "likelihood": "sure"}\n'
        '{"tag": "sky", "likelihood": "unlikely", "caption": "  "}\n{"tag": "car", "likeli'
    )
    assert told == {"dog": (0.5, "a dog")}


@pytest.fixture(scope="module")
def grounded(tmp_path_factory):
    return scale.GroundedSam(save_grounded_sam(tmp_path_factory.mktemp("grounded-sam")))


def test_each_tag_has_boxes_of_its_own_tokens(grounded, monkeypatch):
    ids, (circle, red_square) = grounded._question(["circle", "red square"])
    words = grounded.tokenizer.convert_ids_to_tokens(ids[0])
    assert words == ["[CLS]", "circle", ".", "red", "square", ".", "[SEP]"]
    assert [words[k] for k in circle] == ["circle"] and [words[k] for k in red_square] == ["red", "square"]
    monkeypatch.setattr(scale, "BOX_THRESHOLD", 0.0)
    image = images(1)[0]
    for boxes in grounded.boxes(image, ["circle", "red square"]):
        assert boxes.shape == (6, 4)
        assert ((boxes >= 0) & (boxes <= 1)).all()


def test_masks_are_those_of_sams_own_post_processing(grounded, monkeypatch):
    """On a picture of SAM's own size, where no preparation differs."""
    monkeypatch.setattr(scale, "BOX_THRESHOLD", 0.0)
    image = images(1, 32, 32)[0]
    boxes = grounded.boxes(image, ["circle"])[0]
    pixels = scale._normalise(image[None], *grounded._sam_norm)
    out = grounded.sam(pixel_values=pixels, input_boxes=32 * boxes[None], multimask_output=False)
    theirs = SamImageProcessorPil(size={"longest_edge": 32}, pad_size={"height": 32, "width": 32}).post_process_masks(
        out.pred_masks, torch.tensor([[32, 32]]), torch.tensor([[32, 32]])
    )
    (mask,) = grounded.masks(image, ["circle"])
    assert torch.equal(mask, torch.as_tensor(theirs[0])[:, 0].any(0))


def test_a_tag_that_is_not_found_has_an_empty_mask(grounded, monkeypatch):
    monkeypatch.setattr(scale, "BOX_THRESHOLD", 1.0)
    masks = grounded.masks(images(1)[0], ["circle", "red square"])
    assert [m.shape for m in masks] == [(40, 48)] * 2
    assert not any(m.any() for m in masks)


def test_incomplete_folders_name_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="grounding-dino is missing"):
        scale.GroundedSam(tmp_path)
    with pytest.raises(UserError, match="does not load as"):
        scale._load(SamModel, tmp_path)
