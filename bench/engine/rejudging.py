"""Other metrics and judges for a finished run: what ``bench score`` is told, over what the run was planned with.

None of it is part of a run's identity. It is kept in the run folder, so that the next scoring asks the same.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import suites
from bench.core.errors import UserError
from bench.core.judging import Judging
from bench.engine.options import choose_judging
from bench.engine.prepare import read_suite
from bench.metrics.choice import check_used, choose_metrics
from bench.metrics.requirements import absences, missing
from bench.store import atomic
from bench.store.runs import RunFolder


def rejudge(
    folder: RunFolder, *, metrics: str | None = None, judges: str | None = None, vqa: Path | None = None,
    questions: Path | None = None, reference: tuple[Path, ...] = (), subject: Path | None = None,
    embedder: Path | None = None, data: Path | None = None,
) -> list[str]:  # fmt: skip
    """Writes the choice into the run folder once all of it is checked; what is not named stays as it was.

    Args:
        metrics: as ``metrics.choice.choose_metrics`` reads it, over the run's own.
        data: folder of the published files, where questions and references of new metrics are looked for.

    Returns:
        What this machine lacks of it: sentences.

    Raises:
        UserError: unknown names, a path that is not there or is damaged, an option that no metric would read.
    """
    if not any((metrics, judges, vqa, questions, reference, subject, embedder)):
        return []
    spec, suite = folder.read_spec(), read_suite(folder)
    request = atomic.read_json(folder.request_path)
    chosen = choose_metrics(metrics, spec.metrics)
    check_used(chosen, judges=judges, vqa=vqa, questions=questions, reference=reference, subject=subject,
               embedder=embedder)  # fmt: skip
    suite = dataclasses.replace(suite, spec=dataclasses.replace(suite.spec, metrics=chosen))
    suite = suites.with_questions(suite, questions, data)
    new = choose_judging(spec.model, suite.spec, data=data, judges=judges, vqa=vqa, reference=reference,
                         subject=subject, embedder=embedder)  # fmt: skip
    old = Judging.from_json(request.get("judging", {}))
    judging = Judging(
        world=old.world, judges=old.judges if new.judges is None else new.judges, vqa=new.vqa or old.vqa,
        # the first of a protocol counts: those named now, then the run's, then those of the data folder
        references=tuple(dict.fromkeys((
            *new.references[: len(reference)], *old.references, *new.references[len(reference) :]
        ))),
        subject=new.subject or old.subject, embedder=new.embedder or old.embedder,
    )  # fmt: skip
    for problem in missing(chosen, suite, judging):
        raise UserError(problem)
    atomic.write_jsonl(folder.root / "questions.jsonl", [dataclasses.asdict(q) for q in suite.questions])
    atomic.write_json(folder.request_path, {**request, "judging": dataclasses.asdict(judging)})
    folder.write_spec(dataclasses.replace(spec, metrics=chosen))
    return absences(chosen, suite, judging)
