"""How names and figures are written on the pages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from bench.core.budget import Budget
from bench.core.identity import canonical_json

METRIC_KINDS: dict[str, tuple[str, str]] = {
    "winrate": (
        "Win rate",
        "Share of prompts where the tuned image beats the base model's image from the same noise, a tie counting half. "
        "50 % is the base model.",
    ),
    "human": ("Human win rate", "Share of prompts where people preferred the tuned image, by question."),
    "human-rank": ("Human rank", "Mean rank that people gave, by question; 1 is best."),
    "human-scale": ("Human score", "Mean score that people gave, by question."),
    "clipscore": ("CLIP score", "Agreement of image and prompt in an image-text embedding."),
    "tifa": ("TIFA", "Share of questions about the prompt that a model answers rightly from the image."),
    "fid": ("FID", "Fréchet distance between Inception features of generated and reference images. Depends on n."),
    "kid": ("KID", "Kernel distance between the same features; unbiased in n."),
    "fd": ("FD", "Fréchet distance as in FID, between features of another network than Inception."),
    "cmmd": ("CMMD", "Kernel distance of CLIP features of generated and reference images, times 1000."),
    "dsg": ("DSG", "TIFA whose questions count only where those that they depend on hold."),
    "diversity": ("Diversity", "How different the images are from each other."),
    "vendi": ("Vendi", "Effective number of different images."),
    "identity": ("Identity", "Mean cosine to the photographs of the subject."),
    "jpeg-size": ("JPEG size", "Mean size of an image's file in kB."),
    "colour-shift": (
        "Colour shift", "Change of mean hue, saturation or brightness against the base model's images, in per cent."
    ),
}  # fmt: skip
"""The columns every board has, in order: label and help. Direction and role are never here: records declare them."""

BEHIND = frozenset({"kid", "fd", "cmmd", "diversity", "vendi", "identity", "jpeg-size", "colour-shift"})
"""Kinds whose columns come after what was spent, the seeds and the status: these shall not need scrolling to."""

ROLE_HELP = {
    "held-out": "no part of what the tuner optimised: the evidence",
    "related": "shares backbone or training data with the trained reward: weak evidence",
    "trained-on": "what the tuner optimised: says that tuning worked, not that images are better",
}

STATUS_HELP = {
    "done": "tuned, generated and scored",
    "failed": "ended with an error",
    "interrupted": "stopped from outside and not resumed",
    "lost": "its process vanished",
    "diverged": "tuning produced non-finite numbers; its last good snapshot is shown",
}

_KIND_UNITS = {
    "denoiser_u": "U", "steps": "steps", "images": "images", "reward_calls": "reward calls", "flops": "FLOP",
    "denoiser_fwd": "forwards", "denoiser_bwd": "backwards", "device_s": "device-s",
}  # fmt: skip


_known = lru_cache(maxsize=4096)
"""For functions of a metric's name alone: a page asks hundreds of times for some dozens of names."""
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_DIGEST = re.compile(r"[0-9a-f]{32,}")


@_known
def kind_of(metric: str) -> str:
    """``winrate`` of ``winrate/tiny-judge``."""
    return metric.split("/", 1)[0]


@_known
def subject_of(metric: str) -> str:
    """``tiny-judge`` of ``winrate/tiny-judge``; empty where there is none."""
    return metric.partition("/")[2]


@_known
def metric_label(metric: str) -> str:
    """The heading of a metric: known kinds by their usual name, others as they call themselves."""
    return METRIC_KINDS[kind_of(metric)][0] if kind_of(metric) in METRIC_KINDS else metric


@_known
def full_label(metric: str) -> str:
    """``CLIP score tiny-clip``; metrics of unknown kinds as they call themselves."""
    known = kind_of(metric) in METRIC_KINDS
    return f"{metric_label(metric)} {subject_of(metric)}".strip() if known else metric


@_known
def is_share(metric: str) -> bool:
    """Whether values are shown in per cent."""
    return kind_of(metric) in ("winrate", "human")


def places(metric: str, values: Iterable[float], half_widths: Iterable[float]) -> int:
    """Decimals for a column: two significant digits of the narrowest interval, else four of the largest value."""
    scale = 100.0 if is_share(metric) else 1.0
    halves = [h * scale for h in half_widths if h > 0]
    if halves:
        return min(6, max(0, 1 - math.floor(math.log10(min(halves)))))
    largest = max((abs(v) * scale for v in values), default=0.0)
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest > 0 else 2


def figure(metric: str, value: float | None, decimals: int, *, signed: bool = False) -> str:
    """A value as people read it: per cent for shares, a true minus sign, an en dash for nothing."""
    if value is None:
        return "–"
    number = value * 100 if is_share(metric) else value
    text = f"{number:+,.{decimals}f}" if signed else f"{number:,.{decimals}f}"
    if not text.strip("+-0.,"):  # a rounded-off -0.0 has no sign
        text = text.lstrip("+-")
    return text.replace("-", "−")


def span(metric: str, low: float | None, high: float | None, decimals: int, *, signed: bool = False) -> str:
    """An interval, or nothing; a dash between the ends where no sign could be taken for it."""
    if low is None or high is None:
        return ""
    between = " to " if signed or low < 0 else "–"
    return f"{figure(metric, low, decimals, signed=signed)}{between}{figure(metric, high, decimals, signed=signed)}"


def share(value: float, decimals: int = 0) -> str:
    """``99.2 %``"""
    return f"{100 * value:.{decimals}f} %"


def unit_of(kind: str) -> str:
    """The short unit of a budget kind."""
    return _KIND_UNITS.get(kind, kind)


def number(value: float) -> str:
    """An amount of a budget kind: grouped digits, four significant ones for fractions, powers of ten when huge."""
    if abs(value) >= 1e9:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def beside(kind: str, value: float, limit: float) -> str:
    """A value without its unit, in the unit that ``amount`` gives the limit: ``7.92`` beside 8.00 device-hours."""
    if kind == "device_s" and limit >= 3600:
        return f"{value / 3600:,.2f}"
    return f"{value:,.0f}" if 1000 <= value < 1e9 else number(value)


def amount(kind: str, value: float) -> str:
    """``12,000 U`` · ``1.98 device-hours``"""
    if kind == "device_s" and value >= 3600:
        return f"{value / 3600:,.2f} device-hours"
    return f"{number(value)} {unit_of(kind)}"


def budget_text(budget: Budget) -> str:
    """Every limit, the primary one first."""
    limits = sorted(budget.limits(), key=lambda item: item[0] != budget.primary)
    return " and ".join(amount(kind, limit) for kind, limit in limits)


def plain_value(value: Any) -> str:
    """A setting or passport field in one line; of a digest the first 12 digits (all are in the exports)."""
    if not isinstance(value, str):
        return canonical_json(value)
    return f"{value[:12]}…" if _DIGEST.fullmatch(value) else value
