"""Options: what the user typed, as one dataclass that the command line and TOML both fill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import UserError
from bench.core.judging import Judging, world_of
from bench.core.types import SuiteSpec


@dataclass(frozen=True)
class Options:
    """Everything that ``run`` and ``plan`` accept. Turned into a plan in one place: ``bench.engine.plan``."""

    suite: str
    """Suite names, comma-separated; ``hpsv2-400`` and ``coco.val2017`` name variants."""
    tuner: str
    """Tuner or preset names, comma-separated; ``all``; or a path to a file."""
    reward: str | None = None
    """Reward expression; None is the suite's own."""
    model: str | None = None
    """Base model: a name, a folder, NAME=FOLDER or a hub id; None is the suite's own."""
    edition: str | None = None
    """None: sample, or full where only that edition has the prompts that ``suite`` names."""
    seeds: str = "1"
    """A number of tuning seeds (3 means 0, 1, 2) or a list with a comma ("4,", "0,7")."""
    budget: tuple[str, ...] = ()
    """``kind=limit`` pairs that replace the suite's budget."""
    settings: tuple[str, ...] = ()
    """``key=value`` for every tuner of the plan, or ``tuner.key=value`` for one."""
    protocol: tuple[str, ...] = ()
    """``key=value`` in place of the suite's settings, such as ``sampler.n_steps=25`` (``bench.engine.protocol``)."""
    train_list: str | None = None
    """A published list of training prompts by name, or a file; None is the suite's own."""
    recipe: str = ""
    """Where the options that the user did not give come from; named in the spec, changes nothing by itself."""
    data: Path | None = None
    """Folder of the published prompt files; None reads TUNEBENCH_DATA."""
    limit: int | None = None
    """Only the first prompts: a smoke test, never ranked."""
    fractions: str | None = None
    """Shares of the budget at which the adapter is kept and scored, such as "0,0.5,1"; None is the suite's."""
    hard_limit_s: float | None = None
    """Wall-clock seconds of tuning after which the run is ended from outside."""
    processes: int = 1
    """Processes that tune one run together, one a GPU; they change the answer by rounding only, so no run's id."""
    micro_batch: int | None = None
    """Samples per forward, accumulated to the suite's global batch; None is global batch / processes. Not in the id."""
    skip_invalid: bool = False
    """Leave out runs that cannot start and carry out the others; ``tuner="all"`` does so by itself."""
    metrics: str | None = None
    """``a,b`` in place of the suite's metrics, ``+a,b`` beside them; None is the suite's. In no run's id."""
    questions: Path | None = None
    """Questions for TIFA or DSG in place of the suite's; see ``suites.with_questions``."""
    judges: str | None = None
    """Rewards to ask in place of the world's judges, comma-separated."""
    vqa: Path | None = None
    """Folder of the VQA model that TIFA asks."""
    reference: tuple[Path, ...] = ()
    """Files of reference statistics, one a protocol."""
    subject: Path | None = None
    """Folder of photographs, for ``identity``."""
    embedder: Path | None = None
    """TorchScript file or transformers folder that ``identity`` compares with."""
    runs: Path = Path("runs")

    def judging(self, model: str, suite: SuiteSpec) -> Judging:
        """How the images of a run are judged: all paths absolute, for a worker elsewhere."""
        return choose_judging(
            model, suite, data=self.data, judges=self.judges, vqa=self.vqa, reference=self.reference,
            subject=self.subject, embedder=self.embedder,
        )  # fmt: skip


def choose_judging(
    model: str, suite: SuiteSpec, *, data: Path | None = None, judges: str | None = None, vqa: Path | None = None,
    reference: tuple[Path, ...] = (), subject: Path | None = None, embedder: Path | None = None,
) -> Judging:  # fmt: skip
    """The user's choices over the world's defaults; named references come before those in the data folder.

    Raises:
        UserError: a path that is not there, or ``--judges`` without a name.
    """
    from bench.metrics.references import references_in
    from bench.metrics.requirements import PROTOCOL_OF

    named = [("vqa", vqa), ("subject", subject), ("embedder", embedder), *(("reference", r) for r in reference)]
    for option, path in named:
        if path is not None and not path.exists():
            raise UserError(f"--{option} {path} is not there", valid="a file or folder on this machine")
    names = None if judges is None else tuple(dict.fromkeys(n.strip() for n in judges.split(",") if n.strip()))
    if names == ():
        raise UserError("--judges names no reward", hint="bench list rewards")

    def absolute(path: Path | None) -> str:
        return "" if path is None else str(path.resolve())

    protocols = {PROTOCOL_OF[metric] for metric in suite.metrics if metric in PROTOCOL_OF}
    found = [*reference, *references_in(data, suite.name, suite.variant, protocols)]
    return Judging(
        world=world_of(model, suite.edition), judges=names, vqa=absolute(vqa), subject=absolute(subject),
        references=tuple(map(absolute, found)), embedder=absolute(embedder),
    )  # fmt: skip
