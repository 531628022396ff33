"""Which metrics a run measures: the suite's, the user's in place of them, or more beside them. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

from bench.core import registry
from bench.core.errors import UserError
from bench.core.types import Suite
from bench.metrics.requirements import PROTOCOL_OF

READ_BY: Mapping[str, str] = {
    "judges": "rewards", "vqa": "tifa", "questions": "tifa", "subject": "identity", "embedder": "identity",
}
"""Options of how images are judged, and the metric that reads them."""

_OWN = ("bench.", "rewards.")


def choose_metrics(text: str | None, own: tuple[str, ...]) -> tuple[str, ...]:
    """The suite's ``own`` metrics, those of ``a,b`` in place of them, or with ``+a,b`` those beside them, each once.

    Raises:
        UserError: no name, or one that no metric has (with the closest).
    """
    if text is None:
        return own
    beside = text.strip().startswith("+")
    names = [name.strip().removeprefix("+").strip() for name in text.split(",") if name.strip()]
    if not all(names) or not names:
        raise UserError(f"--metrics {text!r} names no metric", valid="a,b in place of the suite's, or +a,b beside them",
                        hint="bench list metrics")  # fmt: skip
    if not beside and "+" in text:
        raise UserError(f"--metrics {text!r} is half in place of the suite's metrics and half beside them",
                        valid="a,b in place of them, or +a,b beside them",
                        hint=f"--metrics +{','.join(names)}")  # fmt: skip
    for name in names:
        registry.find("metrics", name)
    return tuple(dict.fromkeys((*own, *names) if beside else names))


def with_metrics(suite: Suite, text: str | None) -> Suite:
    """The suite with those metrics; a second time changes nothing."""
    metrics = choose_metrics(text, suite.spec.metrics)
    return dataclasses.replace(suite, spec=dataclasses.replace(suite.spec, metrics=metrics))


def check_used(
    metrics: Collection[str], *, judges: str | None = None, vqa: Path | None = None, questions: Path | None = None,
    reference: tuple[Path, ...] = (), subject: Path | None = None, embedder: Path | None = None,
) -> None:  # fmt: skip
    """Options that no metric of the plan would read are refused, as nothing would come of them.

    A third party's metric may read any of them: where one is chosen, nothing is refused.

    Raises:
        UserError: names the option, and the metric to add.
    """
    entries = registry.entries("metrics")
    if any(name in entries and not entries[name].target.startswith(_OWN) for name in metrics):
        return
    given = {"judges": judges, "vqa": vqa, "questions": questions, "subject": subject, "embedder": embedder}
    for option, value in given.items():
        if value is not None and READ_BY[option] not in metrics:
            raise _unused(option, READ_BY[option], metrics)
    if reference and not set(PROTOCOL_OF) & set(metrics):
        raise _unused("reference", _of_protocol(reference[0]), metrics)


def _of_protocol(path: Path) -> str:
    """A metric that compares with the reference in that file; FID where the file does not say."""
    from bench.metrics.references import protocol_of

    try:
        found = protocol_of(path)
    except UserError:
        found = ""
    return next((metric for metric, protocol in PROTOCOL_OF.items() if protocol == found), "fid")


def _unused(option: str, metric: str, metrics: Collection[str]) -> UserError:
    return UserError(f"--{option} would do nothing: the metric {metric!r} reads it and is not measured here",
                     valid=f"measured: {', '.join(metrics) or 'nothing'}", hint=f"--metrics +{metric}")  # fmt: skip
