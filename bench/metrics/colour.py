"""Colour shift of tuned images against the base model's, as in HG-DPO's table 2 (Na et al., arXiv 2405.20216)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bench.core.contract import Images, Measured, Metric, Scene
from bench.core.paired import Interval, cluster_mean_ci, mean_difference
from bench.metrics.layout import is_base, layout

CHANNELS = ("hue", "saturation", "value")
_NETWORK = "hsv-means-1"
_ON_THE_CIRCLE = "hue-on-the-circle-1"
_LAB = "lab-means-1"


class Colour(Metric):
    """Change of mean hue, saturation and value against the base, in percent of the base's mean; lower is better."""

    name = "colour"
    higher_is_better = False

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        passport = {"space": "HSV, hue in turns", "captions": scene.suite.spec.prompt_hash, "n": at.n}
        if is_base(scene):
            return []  # nothing to shift from; each shift's detail holds the base's means
        tuned, base = hsv_means(scene.tuned), hsv_means(scene.base)
        beside: dict[str, dict[str, object]] = {
            "hue": {"circular": circular_hue_shift(scene.tuned, scene.base)},
            "value": {"delta_e": _facts(delta_e(scene.tuned, scene.base, at.prompt_ids))},
        }
        measured = []
        for c, channel in enumerate(CHANNELS):
            before = cluster_mean_ci(base[:, c], at.prompt_ids)
            detail: dict[str, object] = {
                "mean": _facts(cluster_mean_ci(tuned[:, c], at.prompt_ids)), "base_mean": _facts(before),
                **beside.get(channel, {}),
            }  # fmt: skip
            if before.value == 0:
                measured.append(Measured(
                    name=f"colour-shift/{channel}", value=None, higher_is_better=False, n=0, unit="%", detail=detail,
                    warnings=(f"the base's mean {channel} is 0: a change has no percentage",),
                ))  # fmt: skip
                continue
            percent = 100 / before.value
            signed = mean_difference(percent * tuned[:, c], percent * base[:, c], at.prompt_ids)
            size = magnitude(signed)
            measured.append(Measured(
                name=f"colour-shift/{channel}", value=size.value, ci_low=size.ci_low, ci_high=size.ci_high,
                higher_is_better=False, n=at.n, unit="%", passport=passport,
                # signed, so that their mean is the signed shift
                per_image=tuple(map(float, percent * (tuned[:, c] - base[:, c]))),
                detail={**detail, "signed": _facts(signed)},
            ))  # fmt: skip
        return measured

    def precompute(self, scene: Scene) -> None:
        hsv_means(scene.tuned)
        _hues(scene.tuned)
        _lab_means(scene.tuned)


def magnitude(signed: Interval) -> Interval:
    """The interval of |x| from that of x: it starts at 0 where x may have either sign."""
    ends = sorted((abs(signed.ci_low), abs(signed.ci_high)))
    low = 0.0 if signed.ci_low <= 0 <= signed.ci_high else ends[0]
    return Interval(abs(signed.value), low, ends[1], signed.n, signed.n_clusters)


def circular_hue_shift(tuned: Images, base: Images) -> dict[str, float | None]:
    """Mean hue of both sets on the circle, each pixel counting by its saturation (grey has no hue), and the turn from
    base to tuned in (-180, 180] degrees; None where a set is grey."""
    angles = []
    for images in (tuned, base):
        x, y = _hues(images).sum(0)
        grey = np.hypot(x, y) <= 1e-9 * len(images.folder.refs)
        angles.append(None if grey else float(np.degrees(np.arctan2(y, x)) % 360))
    after, before = angles
    turn = None if after is None or before is None else 180 - (180 - after + before) % 360
    return {"tuned_degrees": after, "base_degrees": before, "shift_degrees": turn}


def delta_e(tuned: Images, base: Images, prompt_ids: Sequence[str]) -> Interval:
    """Mean over pairs of the distance of their mean colours in CIELAB (delta E of 1976); 2.3 is just noticeable."""
    a, b = _lab_means(tuned), _lab_means(base)
    return cluster_mean_ci(np.linalg.norm(a - b, axis=1), prompt_ids)


def _lab_means(images: Images) -> NDArray[np.float64]:
    return images.features(_LAB, lambda batch: lab(batch.float() / 255).mean((2, 3))).astype(np.float64)


def _hues(images: Images) -> NDArray[np.float64]:
    return images.features(_ON_THE_CIRCLE, _hue_vectors).astype(np.float64)


def _hue_vectors(batch: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) uint8 → (B, 2): means of saturation times cosine and sine of the hue."""
    hue, saturation, _ = hsv(batch.float() / 255).unbind(1)
    turn = 2 * torch.pi * hue
    return torch.stack([(saturation * turn.cos()).mean((1, 2)), (saturation * turn.sin()).mean((1, 2))], 1)


def lab(rgb: torch.Tensor) -> torch.Tensor:
    """sRGB (B, 3, H, W) in [0, 1] → CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = rgb.new_tensor([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                             [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    white = to_xyz.sum(1)
    t = torch.einsum("xc,bchw->bxhw", to_xyz / white[:, None], linear)
    f = torch.where(t > (6 / 29) ** 3, t.clamp_min(1e-12) ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def hsv_means(images: Images) -> NDArray[np.float64]:
    """(N, 3): each image's mean hue, saturation and value, each in [0, 1]; cached like features."""
    return images.features(_NETWORK, lambda batch: hsv(batch.float() / 255).mean((2, 3))).astype(np.float64)


def hsv(rgb: torch.Tensor) -> torch.Tensor:
    """RGB (B, 3, H, W) in [0, 1] → hue in turns, saturation, value: (B, 3, H, W) in [0, 1]; grey has hue 0.

    The means are plain, as in the paper, though hue is a circle: reds just below 1 and just above 0 average to cyan.
    Paired with the same picture of the base, a shift of the whole set shows all the same.
    """
    value, brightest = rgb.max(1)
    chroma = value - rgb.amin(1)
    r, g, b = rgb.unbind(1)
    step = chroma.clamp_min(torch.finfo(rgb.dtype).tiny)
    sector = torch.stack([((g - b) / step) % 6, (b - r) / step + 2, (r - g) / step + 4], 1)
    hue = sector.gather(1, brightest[:, None])[:, 0] / 6
    hue = torch.where(chroma > 0, hue, torch.zeros_like(hue))
    saturation = torch.where(value > 0, chroma / value.clamp_min(torch.finfo(rgb.dtype).tiny), torch.zeros_like(value))
    return torch.stack([hue, saturation, value], 1)


def _facts(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "ci_low": interval.ci_low, "ci_high": interval.ci_high}
