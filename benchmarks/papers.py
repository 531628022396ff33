"""What the papers claim, and what would show it in the tiny world: arms to tune, and how their scores are compared.

Every comparison is claimed to be above zero and is paired by prompt and noise; intervals are over tuning seeds and
prompts at once (bench.core.crossed). ``benchmarks.claims`` makes the runs and the page.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.core.crossed import crossed_mean_ci
from bench.core.paired import Interval
from bench.engine.options import Options

Table = NDArray[np.float64]
"""(n_seeds, n_prompts): each prompt's value, noise seeds averaged."""


@dataclass(frozen=True)
class Arm:
    """A way to tune that a claim compares."""

    tuner: str
    reward: str = ""
    """"" is the tuner's own, else the suite's (tiny-pick)."""
    settings: tuple[str, ...] = ()
    budget: tuple[str, ...] = ()
    suite: str = "coco"
    fractions: str = "0,1"

    def options(self, runs: Path, seed: int) -> Options:
        return Options(suite=self.suite, tuner=self.tuner, reward=self.reward or None, settings=self.settings,
                       budget=self.budget, seeds=f"{seed},", fractions=self.fractions, runs=runs)  # fmt: skip

    def command(self, seeds: int) -> str:
        words = ["bench", "run", "--suite", self.suite, "--tuner", self.tuner]
        words += ["--reward", self.reward] if self.reward else []
        for flag, values in (("--set", self.settings), ("--budget", self.budget)):
            for value in values:
                words += [flag, value]
        return shlex.join([*words, "--seeds", str(seeds), "--fractions", self.fractions])


@dataclass(frozen=True)
class Line:
    """One comparison of a claim: claimed to be above zero."""

    text: str
    interval: Interval

    @property
    def verdict(self) -> str:
        return "holds" if self.interval.ci_low > 0 else "does not hold" if self.interval.ci_high < 0 else "undecided"


Scores = Callable[[Arm, str], Table]
"""Per-prompt scores of an arm's final images: raw values of a score file by its metric name."""
Base = Callable[[Arm, str], Table]


@dataclass(frozen=True)
class Claim:
    """A statement of a paper and what would show it here."""

    key: str
    statement: str
    published: str
    arms: Mapping[str, Arm]
    compare: Callable[[Mapping[str, Arm], Scores, Base], list[Line]]


def _above(text: str, a: Table, b: Table) -> Line:
    return Line(text, crossed_mean_ci(a - b))


# -- DRTune, Table 1: symmetry

_LOW_LEVEL = ("lr=3e-3",)
_RIVALS = ("refl-10", "draft-10", "alignprop")


def _symmetry(arms: Mapping[str, Arm], tuned: Scores, base: Base) -> list[Line]:
    metric = "reward/symmetry"
    ours = tuned(arms["drtune"], metric)
    lines = [_above("DRTune's cost below the base's", base(arms["drtune"], metric), ours)]
    for rival in _RIVALS:
        lines.append(_above(f"DRTune's cost below {rival}'s ({tuned(arms[rival], metric).mean():.3f} against "
                            f"{ours.mean():.3f})", tuned(arms[rival], metric), ours))  # fmt: skip
    return lines


def _others_keep_it(arms: Mapping[str, Arm], tuned: Scores, base: Base) -> list[Line]:
    metric = "reward/symmetry"
    return [
        _above(f"{rival}'s cost ({tuned(arms[rival], metric).mean():.3f}) not below the base's "
               f"({base(arms[rival], metric).mean():.3f})", tuned(arms[rival], metric), base(arms[rival], metric))
        for rival in _RIVALS
    ]  # fmt: skip


# -- HG-DPO, Tables 2, 3, 5

_DPO = ("D=64",)
_STEPS = ("steps=300",)


def _wins(arm: Arm, tuned: Scores, base: Base, metric: str) -> Table:
    difference = tuned(arm, metric) - base(arm, metric)
    return 0.5 + 0.5 * np.sign(difference)


def _rising(names: Sequence[str], what: str) -> Callable[[Mapping[str, Arm], Scores, Base], list[Line]]:
    def compare(arms: Mapping[str, Arm], tuned: Scores, base: Base) -> list[Line]:
        rates = {n: _wins(arms[n], tuned, base, "reward/tiny-pick") for n in names}
        return [
            _above(f"win rate against the base at {b} ({100 * rates[b].mean():.1f} %) above {a} "
                   f"({100 * rates[a].mean():.1f} %)", rates[b], rates[a])
            for a, b in itertools.pairwise(names)
        ]  # fmt: skip

    return compare


def _colour(arms: Mapping[str, Arm], tuned: Scores, base: Base) -> list[Line]:
    lines = []
    for channel in ("hue", "saturation", "value"):
        shift = {n: tuned(arms[n], f"colour-shift/{channel}") for n in arms}
        for name in ("hgdpo", "hgdpo-lan"):
            text = (
                f"{channel}: shift under {name} ({abs(shift[name].mean()):.2f} %) below dpo's "
                f"({abs(shift['dpo'].mean()):.2f} %)"
            )
            lines.append(Line(text, _smaller(shift[name], shift["dpo"])))
    return lines


def _smaller(a: Table, b: Table) -> Interval:
    """|mean b| - |mean a| with its interval over seeds and prompts: a shift has a size only as a whole, so that each
    table is turned to the side on which its mean lies."""
    return crossed_mean_ci(np.sign(b.mean()) * b - np.sign(a.mean()) * a)


# -- TreeReward, Fig. 5; RealignDiff, Table II


def _tree(arms: Mapping[str, Arm], tuned: Scores, base: Base) -> list[Line]:
    lines = []
    for metric in ("reward/tiny-judge", "tifa/tiny-vqa"):
        value = {n: tuned(arms[n], metric) for n in arms}
        lines += [
            _above(f"{metric}: adaptive tree ({value['treereward'].mean():.4f}) above decoupled "
                   f"({value['treereward-decoupled'].mean():.4f})", value["treereward"], value["treereward-decoupled"]),
            _above(f"{metric}: decoupled above global ({value['treereward-global'].mean():.4f})",
                   value["treereward-decoupled"], value["treereward-global"]),
        ]  # fmt: skip
    return lines


def _realign(arms: Mapping[str, Arm], tuned: Scores, base: Base) -> list[Line]:
    lines = []
    for metric in ("clipscore/tiny-clip", "tifa/tiny-vqa"):
        coarse, both = (tuned(arms[n], metric) for n in ("realigndiff-coarse", "realigndiff"))
        start = base(arms["realigndiff-coarse"], metric)
        lines += [
            _above(f"{metric}: coarse ({coarse.mean():.4f}) above base ({start.mean():.4f})", coarse, start),
            _above(f"{metric}: coarse + fine ({both.mean():.4f}) above coarse", both, coarse),
        ]
    return lines


# -- every tuner learns

LEARNERS = {
    "drtune": "tiny-pick", "refl": "tiny-pick", "draft": "tiny-pick", "alignprop": "tiny-pick", "hgdpo": "tiny-pick",
    "raft": "tiny-pick", "realigndiff-coarse": "tiny-caption", "treereward": "tree",
}  # fmt: skip
"""Tuner or preset → the reward it tunes for; TreeReward's is one that it fits itself, anew with every seed."""


def _learning(arms: Mapping[str, Arm], tuned: Scores, base: Base) -> list[Line]:
    lines = []
    for name, arm in arms.items():
        metric = f"reward/{LEARNERS[name]}"
        lines.append(_above(f"{metric} above the base's", tuned(arm, metric), base(arm, metric)))
    return lines


CLAIMS = [
    *(
        Claim(f"learning-{name}", f"{name} raises the reward that it tunes for", "the paper's main table",
              {name: Arm(name)}, _learning)
        for name in LEARNERS
    ),
    Claim("symmetry", "DRTune lowers the symmetry cost further than ReFL, DRaFT and AlignProp",
          "DRTune Table 1: .0551 against .7512 (ReFL-10), .7250 (DRaFT-10), .7840 (AlignProp)",
          {name: Arm(name, "symmetry", _LOW_LEVEL) for name in ("drtune", *_RIVALS)}, _symmetry),
    Claim("symmetry-others", "ReFL, DRaFT and AlignProp do not lower the symmetry cost", "DRTune Table 1, Fig. 4",
          {name: Arm(name, "symmetry", _LOW_LEVEL) for name in _RIVALS}, _others_keep_it),
    Claim("pool-size", "HG-DPO's win rate rises with the pool size N",
          "HG-DPO Table 3: 66, 82, 84, 89 %, N = 2, 5, 10, 20",
          {f"N={n}": Arm("hgdpo", settings=(*_DPO, f"N={n}"), budget=_STEPS) for n in (2, 5, 10)},
          _rising(["N=2", "N=5", "N=10"], "N")),
    Claim("pair-rank", "HG-DPO's win rate rises with the loser's rank l", "HG-DPO Table 5",
          # the last of ten is the default: pool-size has that arm too
          {f"l={r}": Arm("hgdpo", settings=(*_DPO, "N=10", *rank), budget=_STEPS)
           for r, rank in ((2, ("pair_rank=2",)), (5, ("pair_rank=5",)), (10, ()))},
          _rising(["l=2", "l=5", "l=10"], "l")),
    Claim("colour-shift", "statistic matching and latent adaptive normalisation remove DPO's colour shift",
          "HG-DPO Table 2 (hue, saturation, value)",
          {name: Arm(name) for name in ("dpo", "hgdpo", "hgdpo-lan")}, _colour),
    Claim("tree", "adaptive tree above decoupled above global reward", "TreeReward Fig. 5",
          {name: Arm(name) for name in ("treereward", "treereward-decoupled", "treereward-global")}, _tree),
    Claim("realign", "coarse + fine above coarse above base", "RealignDiff Table II",
          {name: Arm(name) for name in ("realigndiff-coarse", "realigndiff")}, _realign),
]  # fmt: skip
