"""The papers' own claims at the scale of the tiny world, in one table: ``python -m benchmarks.claims``

Each claim compares tuned models over tuning seeds, paired by prompt and noise; intervals are over seeds and prompts at
once (bench.core.crossed). A claim *holds* where every interval it needs lies on the claimed side of zero, *does not
hold* where one lies on the other side (*holds in part*, where another lies on the claimed one), and is *undecided*
otherwise: a claim that fails here is a finding about the tiny world, not a proof that the paper is wrong. The runs are
ordinary runs (each is printed as the command that repeats it), so a stopped benchmark continues where it was; what they
gave is kept in ``benchmarks/claims.jsonl``, so that none is made twice.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.core.crossed import crossed_mean_ci
from bench.core.paired import Interval
from bench.core.types import SamplerSpec
from bench.diffusion.models import load_model
from bench.diffusion.rollout import Path as RolloutPath
from bench.diffusion.rollout import accumulate_gradients
from bench.diffusion.samplers import Noise, build_sampler
from bench.engine.options import Options
from bench.engine.plan import PlannedRun, make_plan
from bench.engine.prepare import prepare
from bench.launch.base import Job
from bench.launch.local import Local
from benchmarks.claims_results import Results
from rewards.expression import load_reward

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

_LEARNERS = {
    "drtune": "tiny-pick", "refl": "tiny-pick", "draft": "tiny-pick", "alignprop": "tiny-pick", "hgdpo": "tiny-pick",
    "raft": "tiny-pick", "realigndiff-coarse": "tiny-caption", "treereward": "tiny-pick",
}  # fmt: skip
"""Tuner or preset → the reward it is given; TreeReward tunes for one of its own, tiny-pick only judges it."""


def _learning(arms: Mapping[str, Arm], tuned: Scores, base: Base) -> list[Line]:
    lines = []
    for name, arm in arms.items():
        metric = f"reward/{_LEARNERS[name]}"
        lines.append(_above(f"{metric} above the base's", tuned(arm, metric), base(arm, metric)))
    return lines


CLAIMS = [
    *(
        Claim(f"learning-{name}", f"{name} raises the reward that it is given", "the paper's main table",
              {name: Arm(name)}, _learning)
        for name in _LEARNERS
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
          {f"l={r}": Arm("hgdpo", settings=(*_DPO, "N=10", f"pair_rank={r}"), budget=_STEPS) for r in (2, 5, 10)},
          _rising(["l=2", "l=5", "l=10"], "l")),
    Claim("colour-shift", "statistic matching and latent adaptive normalisation remove DPO's colour shift",
          "HG-DPO Table 2 (hue, saturation, value)",
          {name: Arm(name) for name in ("dpo", "hgdpo", "hgdpo-lan")}, _colour),
    Claim("tree", "adaptive tree above decoupled above global reward", "TreeReward Fig. 5",
          {name: Arm(name) for name in ("treereward", "treereward-decoupled", "treereward-global")}, _tree),
    Claim("realign", "coarse + fine above coarse above base", "RealignDiff Table II",
          {name: Arm(name) for name in ("realigndiff-coarse", "realigndiff")}, _realign),
]  # fmt: skip


# -- the reward along the budget, of tuners that do not raise it for certain

_CURVE_FRACTIONS = "0,0.1,0.25,0.5,0.75,1"


def curve_arm(claim: Claim) -> Arm:
    """The claim's tuner, scored along the budget."""
    (arm,) = claim.arms.values()
    return replace(arm, fractions=_CURVE_FRACTIONS)


def curve_rows(
    claims: Sequence[Claim], planned: Mapping[Arm, list[PlannedRun]], results: Results
) -> list[str]:  # fmt: skip
    """A table: mean reward at each share of the budget less the base's, with its interval over prompts; seed 0."""
    shares = [float(x) for x in _CURVE_FRACTIONS.split(",")]
    rows = ["", "## The reward along the budget, where it does not rise for certain", "",
            "Difference to the base, with its interval over prompts; tuning seed 0.", "",
            "| tuner, reward | " + " | ".join(f"{x:.0%}" for x in shares[1:]) + " |",
            "|---|" + "---|" * (len(shares) - 1)]  # fmt: skip
    commands = []
    for claim in claims:
        (name,) = claim.arms
        run, metric = planned[curve_arm(claim)][0], f"reward/{_LEARNERS[name]}"
        if results.status(run) != "done":
            rows.append(f"| {name} | not measured: {results.status(run)} |")
            continue
        base = results.scores(run, metric, "f000")
        cells = []
        for share in shares[1:]:
            at = crossed_mean_ci((results.scores(run, metric, f"f{round(100 * share):03d}") - base)[None])
            cells.append(f"{at.value:+.3f} [{at.ci_low:.3f}, {at.ci_high:.3f}]")
        rows.append(f"| {name}, {_LEARNERS[name]} | " + " | ".join(cells) + " |")
        commands.append(f"    {curve_arm(claim).command(1)}")
    return [*rows, "", *commands]


# -- the gradient's norm, without runs


def gradient_norms(seeds: int, batch: int = 4) -> dict[str, dict[int, list[float]]]:
    """Norm of the adapter's gradient of the last K steps, with gradient through the U-Net's input and without
    (DRTune Fig. 7), on tiny-sd at T = 20 with the suite's reward; one value a batch of prompts."""
    model = load_model("tiny-sd")
    reward = load_reward("tiny-pick", "cpu")
    sampler = build_sampler(model, SamplerSpec("ddim", n_steps=20, guidance=4.0))
    from suites.coco import suite

    texts = [p.text for p in suite("sample", variant="", data_dir=None, limit=None).train_prompts]
    rank = int(model.source.tuning_defaults["rank"])
    parameters = model.attach_adapter(rank=rank, alpha=rank, generator=torch.Generator().manual_seed(0))
    norms: dict[str, dict[int, list[float]]] = {"through the input": {}, "stop gradient": {}}
    for k in (1, 2, 5, 10, 15, 20):
        for name, through in (("through the input", True), ("stop gradient", False)):
            path = RolloutPath(frozenset(range(20 - k, 20)), stop=19, through_input=through)
            for seed in range(seeds):
                part = texts[seed * batch : (seed + 1) * batch]
                noise = Noise([1000 * seed + j for j in range(batch)])
                for p in parameters:
                    p.grad = None
                accumulate_gradients(
                    model, sampler, path, part, noise, lambda images, part=part: -reward.score(images, part).mean()
                )
                norm = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm().item()
                norms[name].setdefault(k, []).append(norm)
    return norms


# -- running and reading


def plan_arm(arm: Arm, runs: Path, seeds: int) -> list[PlannedRun]:
    """The arm's runs, one a tuning seed. Raises UserError, also for what would fail later."""
    planned = []
    for seed in range(seeds):
        plan = make_plan(arm.options(runs, seed))
        if plan.problems:
            raise SystemExit(f"{arm.command(seeds)}\n{plan.problems[0]}")
        planned += plan.runs
    return planned


def run_all(planned: Sequence[PlannedRun], results: Results, command: str, jobs: int) -> None:
    """Makes the runs whose results are not kept; what each gave is kept as soon as it ended."""
    todo = {run.folder.root: run for run in planned if results.status(run) == "not run"}
    keeping = threading.Lock()
    for run in todo.values():
        prepare(run, {"device": "cpu", "command": command})

    def one(run: PlannedRun) -> None:
        Local().launch([Job(run.folder.root, run.spec.budget.hard_wall_s)], quiet=True)
        with keeping:
            ended = results.status(run)
            results.save()
        print(f"{run.spec.label}, seed {run.spec.seed} ({run.spec.run_id}): {ended}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, todo.values()))


def combined(verdicts: Sequence[str]) -> str:
    """The verdict on a claim that needs all of its comparisons."""
    if "does not hold" in verdicts:
        return "holds in part" if "holds" in verdicts else "does not hold"
    return "undecided" if "undecided" in verdicts else "holds"


def judge(claim: Claim, planned: Mapping[Arm, list[PlannedRun]], results: Results) -> tuple[str, list[Line], str]:
    """(verdict, lines, remark): from the tuning seeds that every arm has finished."""
    rows: list[tuple[PlannedRun, ...]] = list(zip(*(planned[arm] for arm in claim.arms.values()), strict=True))
    ended = [row for row in rows if all(results.status(run) == "done" for run in row)]
    missing = [run for row in rows if row not in ended for run in row if results.status(run) != "done"]
    remark = ", ".join(f"{run.spec.label} seed {run.spec.seed} {results.status(run)}" for run in missing[:1])
    if not ended:
        return "not measured", [], remark
    used = {arm: [row[k] for row in ended] for k, arm in enumerate(claim.arms.values())}

    def tuned(arm: Arm, metric: str) -> Table:
        return np.stack([results.scores(run, metric, "f100") for run in used[arm]])

    def base(arm: Arm, metric: str) -> Table:
        return np.stack([results.scores(run, metric, "f000") for run in used[arm]])

    lines = claim.compare(claim.arms, tuned, base)
    verdict = combined([line.verdict for line in lines])
    return verdict, lines, f"{len(ended)} of {len(rows)} seeds, {remark}" if remark else ""


def report(
    claims: Sequence[Claim], planned: Mapping[Arm, list[PlannedRun]], results: Results,
    norms: dict[str, dict[int, list[float]]], seeds: int, unsure: Sequence[Claim] = (),
) -> str:  # fmt: skip
    """The Markdown page; ``unsure`` are the learning claims that get a curve."""
    out = [
        "# The papers' claims, at the scale of the tiny world", "",
        f"Written by `python -m benchmarks.claims --seeds {seeds}` ({seeds} tuning seeds, 64 prompts, 2 noise seeds;",
        "95 % intervals over seeds and prompts). Each line is claimed to be above zero.", "",
        "| claim | published | here |", "|---|---|---|",
    ]  # fmt: skip
    sections: list[str] = []
    for claim in claims:
        verdict, lines, trouble = judge(claim, planned, results)
        out.append(f"| {claim.statement} | {claim.published} | **{verdict}**{': ' + trouble if trouble else ''} |")
        sections += [
            "",
            f"## {claim.statement}",
            "",
            "| comparison | difference | 95 % interval | verdict |",
            "|---|---|---|---|",
        ]
        sections += [
            f"| {line.text} | {line.interval.value:+.4f} | [{line.interval.ci_low:.4f}, {line.interval.ci_high:.4f}] "
            f"| {line.verdict} |" for line in lines
        ]  # fmt: skip
        sections += ["", *(f"    {arm.command(seeds)}" for arm in claim.arms.values())]
    if unsure:
        sections += curve_rows(unsure, planned, results)
    if norms:
        verdict, rows = _norm_rows(norms)
        out.append("| the gradient's norm grows rapidly with K through the U-Net's input, not under stop-gradient | "
                   f"DRTune Fig. 7 | **{verdict}** |")  # fmt: skip
        sections += rows
    return "\n".join([*out, *sections, ""])


def _norm_rows(norms: dict[str, dict[int, list[float]]]) -> tuple[str, list[str]]:
    ks = sorted(next(iter(norms.values())))
    rows = ["", "## Norm of the adapter's gradient of the last K of 20 steps, mean and range over batches", "",
            "| K | " + " | ".join(norms) + " |", "|---|" + "---|" * len(norms)]  # fmt: skip
    for k in ks:
        cells = [f"{np.mean(v[k]):.2f} ({min(v[k]):.2f} to {max(v[k]):.2f})" for v in norms.values()]
        rows.append(f"| {k} | " + " | ".join(cells) + " |")
    growth = {name: np.log(v[ks[-1]]) - np.log(v[ks[0]]) for name, v in norms.items()}
    difference = crossed_mean_ci((growth["through the input"] - growth["stop gradient"])[None])
    line = Line("", difference)
    rows += ["", f"log of the growth from K = 1 to 20, through the input minus stop gradient: {difference.value:+.3f} "
             f"[{difference.ci_low:.3f}, {difference.ci_high:.3f}]"]  # fmt: skip
    return line.verdict, rows


def _named(key: str, name: str) -> bool:
    """Whether ``--only name`` means this claim: by its key, or by the first words of it."""
    return key == name or key.startswith(f"{name}-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("claims-runs"))
    parser.add_argument("--seeds", type=int, default=3, help="tuning seeds of every arm")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--only", default="", help=f"of {', '.join(c.key for c in CLAIMS)}, gradient-norm")
    parser.add_argument("--report", action="store_true", help="start no runs: report what there is")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/claims.jsonl"),
                        help="what runs gave, here or elsewhere: none of them is made again")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("benchmarks/CLAIMS.md"))
    args = parser.parse_args()
    wanted = {name for name in args.only.split(",") if name}
    if unknown := {n for n in wanted - {"gradient-norm"} if not any(_named(c.key, n) for c in CLAIMS)}:
        parser.error(f"unknown claim {sorted(unknown)[0]!r}; valid: {', '.join(c.key for c in CLAIMS)}, gradient-norm")
    claims = [c for c in CLAIMS if not wanted or any(_named(c.key, name) for name in wanted)]
    results = Results(args.results)
    planned = {arm: plan_arm(arm, args.runs, args.seeds) for claim in claims for arm in claim.arms.values()}
    if not args.report:
        command = shlex.join(["python", "-m", "benchmarks.claims", *sys.argv[1:]])
        run_all([run for runs in planned.values() for run in runs], results, command, args.jobs)
    unsure = [c for c in claims if c.key.startswith("learning-") and judge(c, planned, results)[0] != "holds"]
    planned |= {arm: plan_arm(arm, args.runs, 1) for arm in map(curve_arm, unsure)}
    if not args.report:
        run_all([planned[curve_arm(c)][0] for c in unsure], results, command, args.jobs)
    torch.set_num_threads(1)
    norms = gradient_norms(8) if not wanted or "gradient-norm" in wanted else {}
    page = report(claims, planned, results, norms, args.seeds, unsure)
    results.save()
    args.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
