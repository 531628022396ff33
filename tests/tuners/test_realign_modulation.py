"""Stage 2's attention: the oracles of research/tuners.md section 5, number 16."""

import pytest
import torch

from bench.core.contract import Patch
from bench.core.errors import UserError
from bench.diffusion.random_tiny import random_pipeline
from tuners.realign.modulation import ModulatedAttention, Modulation, Regions, install, layer_shape, modulate

RNG = torch.Generator().manual_seed(3)
ONE = torch.ones(())


def products(*shape):
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=RNG)


def some_regions(rows=1, side=16, length=16, outside=0.0, scores=((2.0, 0.5),)):
    """A left and a right half; tokens 2-3 speak of the left one, 5 of the right one."""
    masks = torch.zeros(rows, 2, side, side, dtype=torch.bool)
    masks[:, 0, :, : side // 2] = True
    masks[:, 1, : side // 2, side // 2 :] = True
    tokens = torch.zeros(rows, 2, length, dtype=torch.bool)
    tokens[:, 0, 2:4] = True
    tokens[:, 1, 5] = True
    return Regions(masks, torch.tensor(scores, dtype=torch.float64).expand(rows, 2), tokens, outside)


# -- eq. 8-10


@pytest.mark.parametrize(("S", "B", "strength"), [(1.0, 0.3, 0.0), (1.0, 1.0, 0.9), (0.0, 0.3, 0.9)])
def test_nothing_changes_at_lambda_0_at_b_1_and_at_s_0(S, B, strength):
    p = products(2, 4, 6, 7)
    R = torch.rand(6, 7, generator=RNG) > 0.5
    assert torch.equal(modulate(p, R, S * ONE, B * ONE, strength), p)
    assert not torch.equal(modulate(p, R, ONE, 0.3 * ONE, 0.9), p)


def test_at_lambda_1_s_1_b_0_attention_is_uniform_over_the_tokens_of_r():
    """Every token of R stands at the row's maximum and every other one at its minimum."""
    p = products(5, 9)
    R = torch.zeros(5, 9, dtype=torch.bool)
    R[:, [1, 4, 5]] = True
    weights = modulate(p, R, ONE, 0 * ONE, 1.0).softmax(-1)
    spread = (p.amax(-1) - p.amin(-1)).exp()
    assert torch.allclose(weights[:, [1, 4, 5]], (spread / (3 * spread + 6))[:, None].expand(5, 3), rtol=1e-12)
    assert torch.allclose(weights[~R].view(5, 6), (1 / (3 * spread + 6))[:, None].expand(5, 6), rtol=1e-12)


def test_it_is_equation_8_as_printed():
    p = products(6, 7)
    R = torch.rand(6, 7, generator=RNG) > 0.5
    S, B = (torch.rand(*shape, generator=RNG, dtype=torch.float64) for shape in ((6, 1), (1, 7)))
    lam = 0.7
    pos, neg = p.amax(-1, keepdim=True) - p, p - p.amin(-1, keepdim=True)
    M = lam * R.double() * pos * (1 - B) - lam * (1 - R.double()) * neg * (1 - B)
    assert torch.allclose(modulate(p, R, S, B, lam), p + S * M, rtol=1e-12)


def test_b_as_printed_leaves_0_to_1_and_turns_signs():
    """B = Q K^T: a token of R whose product is above 1 is pushed down instead of up."""
    p = torch.tensor([[-5.0, 2.0, 11.0]])
    assert ((1 - p) < 0).any()
    assert ((1 - p) > 1).any()
    R = torch.tensor([[False, True, False]])
    assert modulate(p, R, ONE, p, 0.5)[0, 1] < p[0, 1] < modulate(p, R, ONE, 0.2 * ONE, 0.5)[0, 1]


# -- maps


def test_maps_are_what_masks_and_captions_say():
    regions = some_regions()
    cross, own = regions.cross(4, 4), regions.self(4, 4)
    left, right = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    left[:, :2] = True
    right[:2, 2:] = True
    left, right = left.flatten(), right.flatten()
    R = cross.R[0, 0]
    assert torch.equal(R[:, 2], left) and torch.equal(R[:, 3], left) and torch.equal(R[:, 5], right)
    assert R.sum() == 2 * left.sum() + right.sum()
    assert cross.B[0, 0, 0].tolist() == [0, 0, 0.5, 0.5, 0, 0.25] + 10 * [0]
    assert torch.equal(own.R[0, 0], (left[:, None] & left) | (right[:, None] & right))
    assert torch.equal(own.B[0, 0, :, 0], 0.5 * left + 0.25 * right)
    assert torch.equal(cross.S[0, 0, :, 0], 2.0 * left + 0.5 * right)
    assert torch.equal(some_regions(outside=1.0).cross(4, 4).S[0, 0, :, 0], 1 + 1.0 * left - 0.5 * right)


def test_where_masks_overlap_the_surest_object_counts():
    masks = torch.ones(1, 2, 4, 4, dtype=torch.bool)
    regions = Regions(masks, torch.tensor([[0.5, 2.0]]), torch.zeros(1, 2, 3, dtype=torch.bool), 0.0)
    assert (regions.cross(2, 2).S == 2).all()


@pytest.mark.parametrize(("n", "shape"), [(64 * 96, (64, 96)), (32 * 48, (32, 48)), (8 * 12, (8, 12))])
def test_the_shape_of_a_layer_follows_from_its_queries(n, shape):
    assert layer_shape(64, 96, n) == shape


def test_a_layer_of_another_shape_is_refused():
    with pytest.raises(UserError, match="no halving of 8 x 8"):
        layer_shape(8, 8, 15)


# -- processors on a real U-Net, float64


@pytest.fixture(scope="module")
def model():
    return random_pipeline(0, torch.float64)


def call(model, rows=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, 8, 8, generator=rng, dtype=torch.float64)
    text = torch.randn(rows, 16, 16, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        return model.denoiser(x, torch.tensor(901), text)


def modulated(model, state, **kwargs):
    before = install(model.unet, state)
    try:
        return call(model, **kwargs)
    finally:
        model.unet.set_attn_processor(before)


def state(rows=1, cross=0.0, own=0.0, **kwargs):
    return Modulation(some_regions(rows), (8, 8), cross_strength=cross, self_strength=own, **kwargs)


@pytest.mark.parametrize("lora", [False, True])
def test_the_unmodulated_processor_is_diffusers_own(model, lora):
    if lora:
        for p in model.attach_adapter(rank=2, alpha=2, generator=torch.Generator().manual_seed(0)):
            p.data += 0.3
    plain = call(model)
    if lora:
        with model.with_patch(Patch(adapter=False)):
            assert (call(model) - plain).abs().max() > 1e-3
    assert (modulated(model, state(rows=2)) - plain).abs().max() < 1e-10
    assert (modulated(model, state(rows=2, cross=1.0, own=0.3)) - plain).abs().max() > 1e-3
    assert torch.equal(call(model), plain)


def test_the_unconditional_half_is_untouched(model):
    plain, changed = call(model), modulated(model, state(rows=1, cross=1.0, own=0.3))
    assert (changed[0] - plain[0]).abs().max() < 1e-12
    assert (changed[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("literal", [False, True])
def test_rows_of_the_attention_sum_to_1(literal):
    """With values that are all 1, attention gives 1 whatever its weights are."""
    process = ModulatedAttention(state(rows=1, cross=0.9, literal=literal))
    q, k = products(1, 2, 64, 4), products(1, 2, 16, 4)
    out = process._modulated("cross", q, k, torch.ones(1, 2, 16, 4, dtype=torch.float64))
    assert torch.allclose(out, torch.ones_like(out), rtol=1e-12)


def test_b_as_printed_gives_another_picture(model):
    area, printed = (modulated(model, state(rows=2, cross=1.0, literal=flag)) for flag in (False, True))
    assert (area - printed).abs().max() > 1e-3


def test_the_first_processors_come_back_and_foreign_ones_are_refused(model):
    before = model.unet.attn_processors
    modulated(model, state(rows=2))
    assert all(model.unet.attn_processors[name] is processor for name, processor in before.items())
    install(model.unet, state())
    with pytest.raises(UserError, match="ModulatedAttention"):
        install(model.unet, state())
    model.unet.set_attn_processor(before)


def test_a_region_turns_its_pixels_towards_its_tokens(model):
    """Pixels of the left half give the tokens of their caption more weight; pixels outside of all masks keep theirs."""
    q, k = products(1, 2, 64, 4), products(1, 2, 16, 4)
    speaks = torch.zeros(1, 2, 16, 1, dtype=torch.float64)
    speaks[:, :, 2:4] = 1
    off, on = (ModulatedAttention(state(cross=c))._modulated("cross", q, k, speaks)[..., 0] for c in (0.0, 0.9))
    left, right = some_regions().at(8, 8)[0]
    assert (on[..., left] > off[..., left]).all()
    assert torch.allclose(on[..., ~(left | right)], off[..., ~(left | right)], rtol=1e-12)
