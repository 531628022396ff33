"""DRTune eq. 6: closed forms, invariances, gradient."""

from __future__ import annotations

import math

import pytest
import torch

from bench.core.errors import ContractError
from rewards.symmetry import Symmetry

reward = Symmetry()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_white_noise_is_two_over_root_pi() -> None:
    value = reward.measure(noise(4, 3, 256, 256), [""] * 4)
    torch.testing.assert_close(value, torch.full((4,), 2 / math.sqrt(math.pi)), atol=0.004, rtol=0)


def test_a_mirrored_picture_is_zero_and_a_vertical_mirror_is_not() -> None:
    half = noise(1, 3, 32, 16)
    assert reward.measure(torch.cat([half, half.flip(-1)], dim=-1), [""]).item() == 0
    half = noise(1, 3, 16, 32)
    assert reward.measure(torch.cat([half, half.flip(-2)], dim=-2), [""]).item() > 1


def test_half_black_half_white_by_hand() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1
    assert reward.measure(image, [""]).item() == pytest.approx(1 / 0.5)


def test_contrast_and_brightness_do_not_matter() -> None:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(reward.measure(image, ["", ""]), reward.measure(0.3 * image + 0.2, ["", ""]))


def test_score_is_the_negated_cost() -> None:
    image = noise(2, 3, 16, 16)
    assert torch.equal(reward.score(image, ["", ""]), -reward.measure(image, ["", ""]))


def test_gradient_equals_finite_differences() -> None:
    image = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(reward.measure(image, [""]).sum(), image)
    direction = noise(1, 3, 6, 6, seed=3)
    step = 1e-3
    with torch.no_grad():
        ahead, behind = (reward.measure(image + s * direction, [""]).item() for s in (step, -step))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=2e-3)


def test_one_colour_gives_zero_and_finite_gradients() -> None:
    image = torch.full((1, 3, 8, 8), 0.3, requires_grad=True)
    value = reward.measure(image, [""])
    (gradient,) = torch.autograd.grad(value.sum(), image)
    assert value.item() == 0
    assert torch.isfinite(gradient).all()


def test_wrong_shapes_name_the_reward() -> None:
    with pytest.raises(ContractError, match="symmetry"):
        reward.measure(torch.zeros(2, 1, 8, 8), ["", ""])
    with pytest.raises(ContractError, match="prompts"):
        reward.measure(torch.zeros(2, 3, 8, 8), [""])
