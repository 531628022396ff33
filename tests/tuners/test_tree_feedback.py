"""Where pairs come from: scenes, the base model, votes; and the folder that holds them."""

import json

import pytest
import torch
from PIL import Image

from bench.core.budget import Budget, Ledger
from bench.core.errors import UserError
from bench.core.types import SamplerSpec
from bench.diffusion.meters import Meters
from bench.tiny.models import load_scorer
from bench.tiny.scorers import scores
from bench.trees.dimensions import BRANCHES, DIMENSIONS
from bench.trees.feedback import HELD_OUT_ONE_IN, Feedback
from bench.trees.pairs import Pair
from bench.trees.votes import load_vote, missing_dimensions, read_votes
from tuners.tree.generated import (
    AESTHETIC_WAYS,
    CANDIDATES,
    STYLE_WORDS,
    TRIGGERS,
    recipe,
    recipe_cost,
    sample_pair,
    substitute_style,
)
from tuners.tree.scenes import scene_pair

from .world import context

# -- scenes


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_scene_pair_is_a_function_of_its_seed_and_its_members_differ(dimension):
    for seed in range(12):
        pair, again = scene_pair(dimension, seed), scene_pair(dimension, seed)
        assert torch.equal(pair.winner, again.winner) and torch.equal(pair.loser, again.loser)
        assert (pair.winner_text, pair.loser_text) == (again.winner_text, again.loser_text)
        assert pair.winner.shape == pair.loser.shape == (3, 64, 64) and pair.winner.dtype == torch.uint8
        if pair.how == "recaption":
            assert torch.equal(pair.winner, pair.loser) and pair.winner_text != pair.loser_text
        else:
            assert not torch.equal(pair.winner, pair.loser) and pair.winner_text == pair.loser_text


def test_a_judge_that_was_never_shown_a_pair_agrees_with_most_of_each_dimension():
    judge = load_scorer("tiny-judge")
    for dimension in DIMENSIONS:
        pairs = [scene_pair(dimension, 1000 + k) for k in range(40)]
        images = torch.stack([x for p in pairs for x in (p.winner, p.loser)]).float() / 255
        with torch.no_grad():
            s = scores(judge, images, [t for p in pairs for t in (p.winner_text, p.loser_text)]).view(-1, 2)
        assert (s[:, 0] > s[:, 1]).float().mean() > 0.6, dimension


def test_style_pairs_name_the_winners_style():
    words = {"photo", "photograph", "anime", "cartoon", "concept", "painting", "oil"}
    assert all(words & set(scene_pair("style", k).winner_text.replace(",", "").split()) for k in range(20))


# -- the folder


def filled(folder, n=24):
    feedback = Feedback(folder)
    for lo in range(0, n, 12):
        feedback.add([scene_pair(DIMENSIONS[i % 6], i) for i in range(lo, lo + 12)])
    return feedback


def test_pairs_come_back_as_they_were_put_in(tmp_path):
    feedback = filled(tmp_path)
    batch = feedback.batch([13, 0])
    pairs = [scene_pair(DIMENSIONS[1], 13), scene_pair(DIMENSIONS[0], 0)]
    expected = torch.stack([p.winner for p in pairs] + [p.loser for p in pairs]).float() / 255
    assert torch.equal(batch.images, expected)
    assert batch.texts == [p.winner_text for p in pairs] + [p.loser_text for p in pairs]
    assert batch.dimensions == [1, 0]
    assert sum(sum(of.values()) for of in feedback.counts().values()) == len(feedback) == 24


def test_each_dimension_holds_out_one_pair_in_six_and_fitting_never_sees_it(tmp_path):
    feedback = filled(tmp_path, 72)
    held, train = feedback.held_out(), feedback.train()
    assert sorted(held + train) == list(range(72))
    assert [feedback.dimension(i) for i in held].count(3) == 72 / 6 / HELD_OUT_ONE_IN


def test_a_folder_is_taken_up_by_digest_and_a_damaged_shard_is_refused(tmp_path):
    feedback = filled(tmp_path)
    (tmp_path / ".tmp-half-written").write_bytes(b"x")
    again = Feedback(tmp_path)
    again.restore(feedback.state()[:1])
    assert len(again) == 12
    again.restore(feedback.state())
    assert torch.equal(again.batch([20]).images, feedback.batch([20]).images)
    victim = tmp_path / f"{feedback.state()[1]}.npy"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"gone or damaged"):
        again.restore(feedback.state())
    victim.unlink()
    with pytest.raises(UserError, match=r"gone or damaged"):
        again.restore(feedback.state())


# -- the base model


@pytest.mark.parametrize("prompt", ["a painting of a dog", "An oil painting of two cats", "a dog on a hill"])
def test_substitution_changes_the_style_word_and_nothing_else(prompt):
    for seed in range(10):
        own, other = substitute_style(prompt, torch.Generator().manual_seed(seed))
        assert own != other
        named = [w for w in STYLE_WORDS if w in own.lower()]
        assert named
        # longest common ends: what is between them is one vocabulary word in each
        head = next(i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b)
        assert own[:head] == other[:head]
        assert own.startswith(prompt)


def test_every_dimension_gets_as_many_recipes_and_aesthetics_all_three_ways():
    made = [recipe(i, "a dog", i) for i in range(36)]
    assert {d: sum(r.dimension == d for r in made) for d in DIMENSIONS} == dict.fromkeys(DIMENSIONS, 6)
    for d in BRANCHES["aesthetic"]:
        assert {r.how for r in made if r.dimension == d} == set(AESTHETIC_WAYS)
    triggered = next(r for r in made if (r.dimension, r.how) == ("lighting", "trigger"))
    assert triggered.winner_text.removeprefix("a dog, ") in TRIGGERS["lighting"][0]
    assert triggered.loser_text.removeprefix("a dog, ") in TRIGGERS["lighting"][1]
    assert triggered.prompt == "a dog"


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize("how", ["substitute", "recaption", *AESTHETIC_WAYS])
def test_a_generated_pair_costs_what_is_said(how, guidance):
    spec = SamplerSpec("ddim", n_steps=4, guidance=guidance)
    made = next(r for i in range(18) if (r := recipe(i, "a photo of a dog", 5)).how == how)
    ledger = Ledger(Budget(denoiser_u=1e12))
    model = context().model
    calls = []

    def aligner(images, texts):
        calls.append(len(texts))
        return torch.arange(len(texts)).float()

    with Meters(model, ledger.charge):
        pair = sample_pair(model, spec, made, [f"text {k}" for k in range(CANDIDATES - 1)], aligner, 16)
    said = recipe_cost(how, spec)
    for kind in ("denoiser_fwd", "denoiser_u", "images"):
        assert ledger.spent[kind] == said.get(kind), kind
    assert sum(calls) == said.get("reward_calls")
    if how == "recaption":
        assert torch.equal(pair.winner, pair.loser)
        assert (pair.winner_text, pair.loser_text) == (f"text {CANDIDATES - 2}", made.prompt)
    else:
        assert not torch.equal(pair.winner, pair.loser)
        assert pair.winner_text == pair.loser_text == made.prompt


def test_an_image_that_its_prompt_describes_best_teaches_by_the_worst_text():
    made = recipe(1, "a dog", 5)
    agree = torch.tensor([9.0, 3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0])
    pair = sample_pair(
        context().model, SamplerSpec("ddim", n_steps=2), made, [f"t{k}" for k in range(1, 8)], lambda x, y: agree, 16
    )
    assert (pair.winner_text, pair.loser_text) == ("a dog", "t2")


def test_an_aligner_that_cannot_tell_still_leaves_two_texts():
    made = recipe(1, "a dog", 5)
    others = [f"t{k}" for k in range(1, 8)]
    spec = SamplerSpec("ddim", n_steps=2)
    pair = sample_pair(context().model, spec, made, others, lambda x, y: torch.zeros(8), 16)
    assert pair.winner_text != pair.loser_text


# -- votes


def votes(folder, lines):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10), "red" if name == "a.png" else "blue").save(folder / name)
    path = folder / "votes.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


GOOD = {"dimension": "color", "prompt": "a red card", "winner": "a.png", "loser": "b.png", "voter": 7}


def test_votes_are_read_with_images_beside_their_file(tmp_path):
    found = read_votes(votes(tmp_path, [GOOD, "", {**GOOD, "dimension": "content", "loser_prompt": "a card"}]))
    assert [v.dimension for v in found] == ["color", "content"]
    pair = load_vote(found[1], 8)
    assert (pair.winner_text, pair.loser_text, pair.how) == ("a red card", "a card", "vote")
    assert pair.winner.shape == (3, 8, 8)
    assert pair.winner[0].min() == 255 and pair.loser[2].min() == 255
    assert missing_dimensions(found * 2) == ["style", "lighting", "detail", "layout"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no vote"),
        (["", "  "], "holds no vote"),
        ([GOOD, "{not json"], r"line 2: not JSON"),
        ([GOOD, "", [1]], r"line 3: no text under 'dimension'"),
        ([{k: v for k, v in GOOD.items() if k != "loser"}], r"line 1: no text under 'loser'"),
        ([GOOD, GOOD, {**GOOD, "dimension": "colour"}], r"line 3: unknown dimension 'colour'"),
        ([GOOD, {**GOOD, "winner": "gone.png"}], r"line 2: there is no image .*gone.png"),
    ],
)
def test_a_bad_vote_file_is_refused_by_line(tmp_path, lines, message):
    with pytest.raises(UserError, match=message) as err:
        read_votes(votes(tmp_path, lines))
    assert err.value.valid


def test_an_image_that_cannot_be_read_is_a_users_error(tmp_path):
    found = read_votes(votes(tmp_path, [GOOD]))
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"a.png of a vote cannot be read"):
        load_vote(found[0], 8)


def test_pairs_are_brought_to_one_size():
    pair = Pair("color", "vote", torch.zeros(3, 8, 8, dtype=torch.uint8), "a", torch.full((3, 8, 8), 255).byte(), "a")
    assert pair.at(8).winner is pair.winner
    assert pair.at(4).loser.shape == (3, 4, 4) and pair.at(4).loser.min() == 255
