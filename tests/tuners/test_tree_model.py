"""The tree's reward: weights, gradients, standardised leaves, the losses along one path."""

import math

import pytest
import torch
from torch.nn import functional as F

from bench.trees.dimensions import BRANCH_OF, BRANCHES, DIMENSIONS
from bench.trees.feedback import Batch
from bench.trees.fit import pair_losses
from bench.trees.model import Reading, RewardTree, TreeScore, Weighing, combine
from bench.trees.trunks import Trunk

STEPS = 1e-6


class Pixels(Trunk):
    """Twelve means of the image and the length of the prompt: a trunk whose gradients are easy to see."""

    def __init__(self, generator):
        super().__init__()
        self.dim, self.side, self.family, self.digest = 8, 4, "test", "pixels"
        self.mix = torch.nn.Linear(13, 8)
        torch.nn.init.normal_(self.mix.weight, generator=generator)
        torch.nn.init.zeros_(self.mix.bias)

    def forward(self, images, texts):
        seen = F.adaptive_avg_pool2d(images, 2).flatten(1)
        read = torch.tensor([[len(t) / 10] for t in texts]).to(seen)
        return torch.tanh(self.mix(torch.cat([seen, read], dim=1)))

    def n_truncated(self, texts):
        return 0

    def layers(self):
        return [[self.mix]]

    def embeddings(self):
        return []


def tree(structure="tree", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return RewardTree(structure, lambda: Pixels(generator), generator)


def batch(dimensions, seed=0):
    n = len(dimensions)
    images = torch.rand((2 * n, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return Batch(images, ["text " * (1 + k % 3) for k in range(2 * n)], [DIMENSIONS.index(d) for d in dimensions])


def points(n=50, sd=1.5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    leaves = sd * torch.randn((n, 6), generator=rng, dtype=torch.float64)
    return leaves.requires_grad_(), torch.randn((n, 2), generator=rng, dtype=torch.float64).requires_grad_()


# -- eq. 7 and 8


@pytest.mark.parametrize(
    "weighing",
    [
        Weighing(),
        Weighing(literal=True),
        Weighing(uniform_gate=True),
        Weighing(gate_temperature=3, leaf_temperature=0.5),
    ],
)
def test_the_weights_of_each_level_sum_to_one_and_the_reward_is_their_sum(weighing):
    leaves, gate = points()
    reading = combine(leaves, gate, weighing)
    assert torch.allclose(reading.w_branch.sum(1), torch.ones(50, dtype=torch.float64))
    R = torch.zeros(50, dtype=torch.float64)
    for b in range(len(BRANCHES)):
        own = [k for k, of in enumerate(BRANCH_OF) if of == b]
        assert torch.allclose(reading.w_leaf[:, own].sum(1), torch.ones(50, dtype=torch.float64))
        R = R + reading.w_branch[:, b] * (reading.w_leaf[:, own] * leaves[:, own]).sum(1)
    assert torch.allclose(reading.reward, R, atol=1e-14)


def test_the_worst_leaf_of_a_branch_weighs_most():
    leaves, gate = points()
    w = combine(leaves, gate, Weighing()).w_leaf
    assert torch.equal(w[:, :2].argmax(1), leaves[:, :2].argmin(1))
    assert torch.equal(w[:, 2:].argmax(1), leaves[:, 2:].argmin(1))


def test_detached_weights_give_gradients_that_are_never_negative_and_sum_to_one():
    leaves, gate = points()
    combine(leaves, gate, Weighing()).reward.sum().backward()
    assert leaves.grad.min() > 0
    assert torch.allclose(leaves.grad.sum(1), torch.ones(50, dtype=torch.float64))
    assert gate.grad is None


def test_the_literal_gradient_is_w_b_w_k_times_one_minus_r_k_plus_r_b_and_turns_negative():
    leaves, gate = points(n=400)
    reading = combine(leaves, gate, Weighing(literal=True))
    reading.reward.sum().backward()
    R_b = torch.stack([(reading.w_leaf * leaves)[:, :2].sum(1), (reading.w_leaf * leaves)[:, 2:].sum(1)], 1)
    R_of, w_of = R_b[:, list(BRANCH_OF)], reading.w_branch[:, list(BRANCH_OF)]
    assert torch.allclose(leaves.grad, (w_of * reading.w_leaf * (1 - leaves + R_of)).detach(), atol=1e-14)
    assert torch.equal(leaves.grad < 0, (leaves > R_of + 1).detach())
    assert 0.2 < (leaves.grad < 0).double().mean() < 0.4  # a well-met dimension is pushed down
    assert gate.grad.abs().max() > 0  # and the gate can be played


@pytest.mark.parametrize("literal", [True, False])
def test_finite_differences_agree_with_the_literal_gradient_only(literal):
    leaves, gate = points(n=20)
    combine(leaves, gate, Weighing(literal=literal)).reward.sum().backward()
    numeric = torch.zeros_like(leaves)
    for k in range(6):
        shift = torch.zeros_like(leaves)
        shift[:, k] = STEPS
        up, down = (combine(leaves + s, gate, Weighing()).reward for s in (shift, -shift))
        numeric[:, k] = (up - down) / (2 * STEPS)
    assert torch.allclose(leaves.grad, numeric, atol=1e-8) is literal


def test_equal_leaves_give_their_common_value():
    _, gate = points()
    assert torch.allclose(
        combine(torch.full((50, 6), 0.7).double(), gate, Weighing()).reward, torch.tensor(0.7).double()
    )


def test_a_uniform_gate_and_a_hot_one_have_the_entropy_of_a_coin():
    leaves, gate = points()
    for weighing in (Weighing(uniform_gate=True), Weighing(gate_temperature=1e9)):
        assert torch.allclose(combine(leaves, gate, weighing).entropy(), torch.tensor(math.log(2)).double())
    assert combine(leaves, 1e3 * gate, Weighing()).entropy().min() >= 0


# -- structures


def test_other_structures_average_their_standardised_heads():
    x, texts = torch.rand(5, 3, 4, 4), ["a"] * 5
    model = tree("decoupled")
    assert len(model.trunks) == 6
    model.mean.fill_(0.3)
    model.sd.fill_(2.0)
    f, gate = model.raw(x, texts)
    assert gate is None
    reading = model.read(x, texts, Weighing())
    assert torch.allclose(reading.reward, ((f - 0.3) / 2).mean(1))
    own = torch.stack([model.leaves[j](model.trunks[j](x, texts))[:, 0] for j in range(6)], 1)
    assert torch.allclose(f, own)
    one = tree("global")
    assert one.read(x, texts, Weighing()).leaves.shape == (5, 1)


def test_the_score_is_differentiable_in_the_image_and_tells_what_it_saw():
    score = TreeScore(tree(), Weighing())
    x = torch.rand(3, 3, 4, 4, requires_grad=True)
    r = score.score(x, ["a", "b", "c"])
    (grad,) = torch.autograd.grad(r.sum(), x)
    assert grad.abs().amax((1, 2, 3)).min() > 0
    told = score.take()
    assert {f"leaf_{d}" for d in DIMENSIONS} | {"gate_entropy", "w_semantic"} == told.keys()
    assert score.seen == []
    assert torch.equal(score.measure(x, ["a", "b", "c"]), r)
    assert isinstance(score.model.read(x, ["a"] * 3, Weighing()), Reading)


# -- losses


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_pair_trains_the_trunk_the_gate_and_its_own_leaf_only(dimension):
    model = tree()
    bt, ce, _ = pair_losses(model, batch([dimension, dimension]))
    (bt + ce).sum().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    j = DIMENSIONS.index(dimension)
    assert {".".join(n.split(".")[:2]) for n in reached if n.startswith("leaves")} == {f"leaves.{j}"}
    assert any(n.startswith("trunks.0") for n in reached)
    assert any(n.startswith("gate") for n in reached)
    of_path = {id(p) for p in model.path(j)}
    assert {n for n, p in model.named_parameters() if id(p) in of_path} >= reached


def test_the_leaf_loss_is_bradley_terry_and_eq_5_as_printed_is_nan_for_a_misranked_pair():
    model, pairs = tree(), batch(["color", "style", "layout", "color"])
    bt, _, margin = pair_losses(model, pairs)
    for i, j in enumerate(pairs.dimensions):
        f = [model.along(j, pairs.images[[p]], [pairs.texts[p]])[0] for p in (i, 4 + i)]
        assert torch.allclose(margin[i], f[0] - f[1], atol=1e-6)
        assert torch.allclose(bt[i], -torch.log(torch.sigmoid(f[0] - f[1])), atol=1e-6)
    win, lose = torch.tensor(-0.4), torch.tensor(0.9)
    assert torch.isnan(torch.log(torch.sigmoid(win) - torch.sigmoid(lose)))
    assert torch.isfinite(F.softplus(lose - win))


def test_swapping_winner_and_loser_flips_the_leaf_gradient_at_a_tie():
    model = tree()
    pairs = batch(["detail"])
    swapped = Batch(pairs.images.flip(0), pairs.texts[::-1], pairs.dimensions)
    (a, _, m), (b, _, w) = pair_losses(model, pairs), pair_losses(model, swapped)
    assert torch.allclose(m, -w)
    # d softplus(-m)/dm = -sigma(-m): both orders' slopes sum to -1 and 1 times a sigmoid
    assert torch.allclose(a - b, -m, atol=1e-6)


def test_the_gate_learns_from_both_members():
    model, pairs = tree(), batch(["color", "style"])
    _, ce, _ = pair_losses(model, pairs)
    logits = [model.along(0, pairs.images[[p]], [pairs.texts[p]])[1] for p in range(4)]
    b = [BRANCH_OF[j] for j in pairs.dimensions] * 2
    each = [F.cross_entropy(g, torch.tensor([t])) for g, t in zip(logits, b, strict=True)]
    assert torch.allclose(ce, torch.stack([(each[0] + each[2]) / 2, (each[1] + each[3]) / 2]), atol=1e-6)
