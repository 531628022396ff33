"""Colour shift: HSV against the standard library, HG-DPO's percentages, paired intervals."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metric_world import picture

from bench.core.contract import Scene
from bench.core.paired import Interval
from bench.metrics.colour import CHANNELS, Colour, hsv, lab, magnitude

byte = st.integers(0, 255)


@given(byte, byte, byte)
def test_hsv_is_the_standard_librarys(r: int, g: int, b: int) -> None:
    rgb = torch.tensor([r, g, b], dtype=torch.float64) / 255
    assert hsv(rgb.view(1, 3, 1, 1)).flatten().tolist() == pytest.approx(
        colorsys.rgb_to_hsv(*rgb.tolist()), abs=1e-12
    )  # fmt: skip


def bluish(i: int) -> np.ndarray:
    """Colours away from the ends of the scale, all hues around blue, where a mean of hues means something."""
    rng = np.random.default_rng(i)
    image = np.empty((16, 16, 3))
    image[..., 2] = rng.uniform(160, 200, (16, 16))
    image[..., 1] = rng.uniform(60, 100, (16, 16))
    image[..., 0] = rng.uniform(60, 100, (16, 16))
    return image.astype(np.uint8)


def darker(i: int) -> np.ndarray:
    return (bluish(i) // 2).astype(np.uint8)


def shifts(scene: Scene) -> dict[str, float]:
    return {m.name.removeprefix("colour-shift/"): m.value for m in Colour().score(scene) if m.value is not None}


def test_the_base_has_no_shift_of_its_own(make_scene: Callable[..., Scene]) -> None:
    assert Colour().score(make_scene(pictures=bluish, base_pictures=None)) == []


def test_both_means_stand_beside_the_shift(make_scene: Callable[..., Scene]) -> None:
    hue, _, value = Colour().score(make_scene(pictures=darker, base_pictures=bluish))
    assert [m["value"] for m in (hue.detail["mean"], hue.detail["base_mean"])] == pytest.approx([2 / 3] * 2, abs=0.02)
    assert value.detail["mean"]["value"] == pytest.approx(value.detail["base_mean"]["value"] / 2, rel=0.01)


def test_equal_images_do_not_shift(make_scene: Callable[..., Scene]) -> None:
    assert shifts(make_scene(pictures=bluish, base_pictures=bluish)) == dict.fromkeys(CHANNELS, 0.0)


def test_halved_brightness_is_minus_50_percent_of_value_alone(make_scene: Callable[..., Scene]) -> None:
    """Hue and saturation are ratios, so they stay, up to the rounding of 8 bits."""
    measured = {m.name: m for m in Colour().score(make_scene(pictures=darker, base_pictures=bluish))}
    value = measured["colour-shift/value"]
    assert value.value == pytest.approx(50, abs=0.5)
    assert value.detail["signed"]["value"] == -value.value
    assert value.ci_low is not None and value.ci_high is not None
    assert value.ci_low <= value.value <= value.ci_high
    assert measured["colour-shift/hue"].value == pytest.approx(0, abs=0.5)
    assert measured["colour-shift/saturation"].value == pytest.approx(0, abs=1)
    assert value.per_image is not None
    assert np.mean(value.per_image) == pytest.approx(value.detail["signed"]["value"])
    assert value.higher_is_better is False
    assert (value.unit, value.n) == ("%", 6)


def test_it_is_the_papers_figure(make_scene: Callable[..., Scene]) -> None:
    """Table 2: percent change of the set's mean of each channel."""
    scene = make_scene()  # two sets of noise

    def channel_means(first: int) -> np.ndarray:
        pixels = np.stack([picture(first + i) for i in range(6)]).reshape(-1, 3) / 255
        return np.mean([colorsys.rgb_to_hsv(*p) for p in pixels], axis=0)

    tuned, base = channel_means(0), channel_means(100)
    expected = 100 * abs(tuned - base) / base
    assert [shifts(scene)[c] for c in CHANNELS] == pytest.approx(list(expected), rel=1e-4)


def test_hue_is_a_circle(make_scene: Callable[..., Scene]) -> None:
    """From 10 degrees to 350 is a turn of 20, which means of hue call more than a third of the circle."""

    def of_hue(degrees: float) -> Callable[[int], np.ndarray]:
        rgb = (255 * np.array(colorsys.hsv_to_rgb(degrees / 360, 1, 1))).round().astype(np.uint8)
        return lambda i: np.tile(rgb, (16, 16, 1))

    hue = Colour().score(make_scene(pictures=of_hue(350), base_pictures=of_hue(10)))[0]
    assert hue.value > 3000
    assert hue.detail["circular"]["shift_degrees"] == pytest.approx(-20, abs=0.5)
    assert hue.detail["circular"]["base_degrees"] == pytest.approx(10, abs=0.3)


def test_grey_has_no_hue_to_turn(make_scene: Callable[..., Scene]) -> None:
    hue = Colour().score(make_scene(pictures=bluish, base_pictures=lambda i: np.full((16, 16, 3), 90, np.uint8)))[0]
    assert hue.detail["circular"]["base_degrees"] is None
    assert hue.detail["circular"]["shift_degrees"] is None


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [((1, 1, 1), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((1, 0, 0), (53.24, 80.09, 67.20)),
     ((0, 0, 1), (32.30, 79.19, -107.86)), ((0.02, 0.02, 0.02), (1.40, 0, 0))],
)  # fmt: skip
def test_lab_of_known_colours(rgb: tuple[float, ...], expected: tuple[float, ...]) -> None:
    found = lab(torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)).flatten().tolist()
    assert found == pytest.approx(expected, abs=0.02)


def test_delta_e_is_of_pairs(make_scene: Callable[..., Scene]) -> None:
    value = Colour().score(make_scene(pictures=lambda i: np.full((16, 16, 3), 255, np.uint8),
                                      base_pictures=lambda i: np.full((16, 16, 3), 119, np.uint8)))[2]  # fmt: skip
    assert value.detail["delta_e"]["value"] == pytest.approx(100 - 50.03, abs=0.1)  # mid grey's L* is 50


def test_black_images_have_no_percentage(make_scene: Callable[..., Scene]) -> None:
    black = make_scene(pictures=bluish, base_pictures=lambda i: np.zeros((16, 16, 3), np.uint8))
    measured = Colour().score(black)
    assert [m.value for m in measured] == [None] * 3
    assert "has no percentage" in measured[0].warnings[0]


@pytest.mark.parametrize(
    ("signed", "expected"),
    [((-3, -5, -1), (3, 1, 5)), ((2, 1, 4), (2, 1, 4)), ((-1, -3, 2), (1, 0, 3)), ((0, 0, 0), (0, 0, 0))],
)
def test_the_interval_of_a_size(signed: tuple[float, ...], expected: tuple[float, ...]) -> None:
    size = magnitude(Interval(*signed, 10, 5))
    assert (size.value, size.ci_low, size.ci_high) == expected
