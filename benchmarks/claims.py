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
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench.core.crossed import crossed_mean_ci
from bench.core.types import SamplerSpec
from bench.diffusion.models import load_model
from bench.diffusion.rollout import Path as RolloutPath
from bench.diffusion.rollout import accumulate_gradients
from bench.diffusion.samplers import Noise, build_sampler
from bench.engine.plan import PlannedRun, make_plan
from bench.engine.prepare import prepare
from bench.launch.base import Job
from bench.launch.local import Local
from benchmarks.claims_results import Results
from benchmarks.papers import CLAIMS, LEARNERS, Arm, Claim, Line, Table
from rewards.expression import load_reward

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
        run, metric = planned[curve_arm(claim)][0], f"reward/{LEARNERS[name]}"
        if results.status(run) != "done":
            rows.append(f"| {name} | not measured: {results.status(run)} |")
            continue
        base = results.scores(run, metric, "f000")
        cells = []
        for share in shares[1:]:
            at = crossed_mean_ci((results.scores(run, metric, f"f{round(100 * share):03d}") - base)[None])
            cells.append(f"{at.value:+.3f} [{at.ci_low:.3f}, {at.ci_high:.3f}]")
        rows.append(f"| {name}, {LEARNERS[name]} | " + " | ".join(cells) + " |")
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
