"""Fitting the tree: what it learns in the tiny world, resume, several processes, BLIP."""

import functools
import json

import pytest
import torch

from bench.core.budget import Budget, Ledger
from bench.core.errors import UserError
from bench.core.seeds import derive_seed
from bench.diffusion.meters import Meters
from bench.trees.dimensions import DIMENSIONS
from bench.trees.feedback import Feedback
from bench.trees.fit import Fit, FitPlan, load_trained_state, trained_state
from bench.trees.model import RewardTree, Weighing
from bench.trees.trunks import TINY, BlipTrunk, backbone_problem, build_trunk
from tuners.tree.scenes import scene_pair

from .world import context

SEED = functools.partial(derive_seed, 0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    feedback = Feedback(tmp_path_factory.mktemp("scenes"))
    for lo in range(0, 900, 180):
        feedback.add([scene_pair(DIMENSIONS[i % 6], SEED("scene", pair=i)) for i in range(lo, lo + 180)])
    return feedback


def tiny_tree(structure="tree", frozen=-1.0):
    generator = torch.Generator().manual_seed(0)
    return RewardTree(structure, lambda: build_trunk(TINY, generator, frozen), generator)


@pytest.fixture(scope="module")
def fitted(scenes):
    """A quarter of the default fit."""
    fit = Fit(tiny_tree(), scenes, FitPlan(90), SEED)
    fit.advance(90)
    return fit, fit.finish()


def test_the_tiny_world_is_learned_in_every_dimension(fitted):
    _, card = fitted
    assert card["n_held_out"] == 150
    accuracy = card["pair_accuracy"]
    assert accuracy.keys() == set(DIMENSIONS)
    assert min(accuracy.values()) > 0.65
    assert sum(accuracy.values()) / 6 > 0.85


def test_the_gate_tells_held_out_pairs_apart_and_losers_better_than_winners(fitted):
    """Chance is 0.5 whatever a gate always says: both branches count the same."""
    _, card = fitted
    gate = card["gate_accuracy"]
    assert gate["pair"] > 0.6
    assert gate["loser"] > gate["winner"]
    assert gate["point"] == pytest.approx((gate["winner"] + gate["loser"]) / 2)
    assert 0 < card["gate_entropy"] < 0.6932


def test_leaves_are_standardised_on_held_out_points_and_frozen(fitted, scenes):
    fit, _ = fitted
    r = []
    for i in scenes.held_out():
        pair = scenes.batch([i])
        r.append(fit.model.read(pair.images, pair.texts, Weighing()).leaves)
    r = torch.cat(r).double()
    assert torch.allclose(r.mean(0), torch.zeros(6).double(), atol=1e-4)
    assert torch.allclose(r.std(0, correction=0), torch.ones(6).double(), atol=1e-4)
    assert not any(p.requires_grad for p in fit.model.parameters())


def test_a_fitted_tree_prefers_the_picture_that_the_prompt_asks_for(fitted):
    fit, _ = fitted
    pairs = [scene_pair(d, SEED("fresh", pair=k)) for k in range(30) for d in DIMENSIONS]
    x = torch.stack([p.winner for p in pairs] + [p.loser for p in pairs]).float() / 255
    with torch.no_grad():
        R = fit.model.read(x, [p.winner_text for p in pairs] + [p.loser_text for p in pairs], Weighing()).reward
    assert (R[:180] > R[180:]).float().mean() > 0.7


@pytest.mark.parametrize("structure", ["global", "decoupled"])
def test_other_structures_fit_too(tmp_path, structure):
    few = Feedback(tmp_path)
    few.add([scene_pair(DIMENSIONS[i % 6], i) for i in range(48)])
    fit = Fit(tiny_tree(structure), few, FitPlan(12), SEED)
    first = fit.advance(6)
    assert "gate_loss" not in first
    assert fit.advance(6)["leaf_loss"] < first["leaf_loss"]
    card = fit.finish()
    assert "gate_accuracy" not in card
    assert card["mean"].keys() == set(fit.model.names)


def test_one_step_leaves_every_other_leaf_bit_for_bit(tmp_path):
    feedback = Feedback(tmp_path)
    feedback.add([scene_pair("lighting", k) for k in range(8)])
    fit = Fit(tiny_tree(), feedback, FitPlan(4, batch=4), SEED)
    before = trained_state(fit.model)
    fit.advance(2)
    changed = {k for k, v in trained_state(fit.model).items() if not torch.equal(v, before[k])}
    leaves = {k.split(".")[1] for k in changed if k.startswith("leaves")}
    assert leaves == {str(DIMENSIONS.index("lighting"))}
    assert any(k.startswith("gate") for k in changed)
    assert any(k.startswith("trunks") for k in changed)


def test_a_fit_that_was_stopped_anywhere_continues_bit_for_bit(scenes):
    def end(stops):
        fit = Fit(tiny_tree(), scenes, FitPlan(5, batch=6), SEED)
        for k in stops:
            fit.advance(k - fit.step)
            other = Fit(tiny_tree(), scenes, FitPlan(5, batch=6), SEED)
            other.load_state_dict(fit.state_dict())
            fit = other
        fit.advance(99)
        assert fit.done
        fit.finish()
        return trained_state(fit.model)

    whole, killed = end([]), end([1, 3])
    assert all(torch.equal(v, killed[k]) for k, v in whole.items())
    fresh = tiny_tree()
    load_trained_state(fresh, whole)
    assert torch.equal(fresh.sd, whole["sd"])


def test_micro_batches_and_shares_change_nothing_but_rounding(scenes):
    """Two processes are played one after the other: each gives its part's gradient, and both take the sum."""
    plan = FitPlan(1, batch=6)

    def gradients(share, micro):
        taken = []
        fit = Fit(
            tiny_tree(), scenes, FitPlan(1, batch=6, micro_batch=micro), SEED, share=share,
            all_reduce=lambda g: taken.append([x.clone() for x in g]),
        )  # fmt: skip
        fit.advance(1)
        return taken[0]

    whole = gradients(range, plan.batch)
    parts = [gradients(lambda n, r=r: range(r * n // 2, (r + 1) * n // 2), 2) for r in (0, 1)]
    for a, b, c in zip(whole, *parts, strict=True):
        assert torch.allclose(a, b + c, atol=2e-5 * max(1.0, a.abs().max().item()))


def test_a_fit_is_charged_in_flops_and_steps_and_uses_no_unet(scenes):
    ledger = Ledger(Budget(denoiser_u=1e12))
    model = context().model
    with Meters(model, ledger.charge) as meters:
        ctx = context(ledger=ledger, meters=meters)
        fit = Fit(tiny_tree(), scenes, FitPlan(2, batch=4), SEED, charge=ctx.charge_flops)
        fit.advance(1)
        one = dict(ledger.spent)
        fit.advance(1)
        assert ledger.spent["flops"] == 2 * one["flops"]
        assert (ledger.spent["steps"], ledger.spent["denoiser_u"], ledger.spent["images"]) == (2, 0, 0)
    # 8 points through a three-layer tower of width 96 on 65 tokens: about 28 MFLOP forward each, twice that backward
    assert 8 * 3 * 28e6 < one["flops"] < 2 * 8 * 3 * 28e6
    assert all(p.grad is None for p in fit.model.parameters())


# -- BLIP


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A random BLIP of a few thousand weights with its tokenizer, as save_pretrained writes them."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "square"]
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={**shape, "vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 64,
                     "pad_token_id": 0, "bos_token_id": 2, "sep_token_id": 3},
        vision_config={**shape, "image_size": 32, "patch_size": 8}, image_text_hidden_size=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BlipForImageTextRetrieval(config).save_pretrained(folder)
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


def test_blip_sees_picture_and_prompt_and_passes_gradient_to_the_picture(blip):
    trunk = build_trunk(str(blip), torch.Generator().manual_seed(0))
    assert isinstance(trunk, BlipTrunk)
    assert (trunk.dim, trunk.side) == (16, 32)
    x = torch.rand((2, 3, 20, 20), generator=torch.Generator().manual_seed(1), requires_grad=True)
    h = trunk(x, ["a red circle", "a blue square"])
    assert h.shape == (2, 16)
    assert not torch.allclose(h, trunk(x, ["a blue circle", "a red square"]))
    (grad,) = torch.autograd.grad(h.square().sum(), x)
    assert grad.abs().amax((1, 2, 3)).min() > 0
    # a longer prompt beside it changes nothing: padding is masked
    assert torch.allclose(trunk(x, ["a red circle", "a " * 60])[:1], h[:1], atol=1e-6)


def test_blip_keeps_its_first_layers_and_they_stay_out_of_the_state(blip):
    generator = torch.Generator().manual_seed(0)
    model = RewardTree("tree", lambda: build_trunk(str(blip), generator), generator)
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    # 0.7 of three layers is two
    assert any("encoder.layers.2" in n for n in free) and not any("encoder.layers.1" in n for n in free)
    assert not any("embeddings" in n for n in free)
    assert trained_state(model).keys() >= free
    assert not any("layers.1" in n for n in trained_state(model))
    everything = build_trunk(str(blip), generator, 0.0)
    assert all(p.requires_grad for p in everything.parameters())


def test_blip_is_fitted_like_the_tiny_trunk(blip, tmp_path):
    feedback = Feedback(tmp_path)
    feedback.add([scene_pair(DIMENSIONS[k % 6], k).at(32) for k in range(24)])
    generator = torch.Generator().manual_seed(0)
    model = RewardTree("tree", lambda: build_trunk(str(blip), generator, 0.0), generator)
    fit = Fit(model, feedback, FitPlan(80, batch=6, lr=1e-2, trunk_lr=1.0), SEED)
    first = fit.advance(20)["leaf_loss"]
    fit.advance(40)
    assert fit.advance(20)["leaf_loss"] < first
    assert set(fit.finish()["pair_accuracy"]) == set(DIMENSIONS)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no folder with a config.json"),
        ({"config.json": "{"}, "is not JSON"),
        ({"config.json": '{"model_type": "clip"}'}, "type 'clip', not 'blip'"),
        ({"config.json": '{"model_type": "blip"}'}, r"no \*.safetensors"),
        ({"config.json": '{"model_type": "blip"}', "model.safetensors": ""}, "no tokenizer"),
    ],
)
def test_a_folder_that_is_no_blip_is_refused_with_what_is_valid(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as err:
        build_trunk(str(tmp_path), torch.Generator())
    assert "BlipForImageTextRetrieval.save_pretrained" in str(err.value)
    assert backbone_problem(str(tmp_path)) == err.value.problem


def test_the_card_is_json(fitted):
    assert json.loads(json.dumps(fitted[1]))["structure"] == "tree"
