"""What a user may set in place of a suite's settings: samplers, global batch, noise seeds. The prompts stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.core.errors import UserError, unknown_name
from bench.core.types import SamplerSpec, Suite

SAMPLERS = ("sampler", "train_sampler")
"""For evaluation images, and for the rollouts of tuners."""

_SAMPLER_FIELDS: Mapping[str, Callable[[str], Any]] = {
    "scheduler": str, "n_steps": int, "guidance": float, "eta": float, "resolution": int,
}  # fmt: skip


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


_READERS: Mapping[str, Callable[[str], Any]] = {
    **{f"{s}.{field}": read for s in SAMPLERS for field, read in _SAMPLER_FIELDS.items()},
    "global_batch": int, "eval_seeds": _seeds,
}  # fmt: skip

KEYS = tuple(_READERS)
"""Everything that may be set."""


def parse_protocol(pairs: Sequence[str]) -> dict[str, Any]:
    """``sampler.n_steps=25`` … as values by key; a later pair of a key counts.

    Raises:
        UserError: no pair, an unknown key (with the closest), a value of the wrong kind.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = (part.strip() for part in pair.partition("="))
        if not sign:
            raise UserError(f"--protocol {pair!r} is not key=value", hint="--protocol sampler.n_steps=25")
        if key not in _READERS:
            raise unknown_name("suite setting", key, KEYS, "bench run --help")
        try:
            found[key] = _READERS[key](text.replace("_", "") if key != "sampler.scheduler" else text)
        except ValueError:
            raise UserError(f"--protocol {key} = {text!r}", valid=_kind(key), hint="bench show suite NAME") from None
        _check(key, found[key])
    return found


def _kind(key: str) -> str:
    kind = _READERS[key]
    return {int: "a whole number", float: "a number", _seeds: "whole numbers with commas"}.get(kind, "a name")


def _check(key: str, value: Any) -> None:
    name = key.rpartition(".")[2]
    if name in ("n_steps", "resolution", "global_batch") and value < 1:
        raise UserError(f"--protocol {key} = {value}", valid="a whole number from 1")
    if name in ("guidance", "eta") and not 0 <= value < float("inf"):
        raise UserError(f"--protocol {key} = {value}", valid="a number from 0")
    if key == "eval_seeds" and (not value or min(value) < 0 or len(set(value)) != len(value)):
        raise UserError(f"--protocol eval_seeds = {value}", valid="different whole numbers from 0, such as 0,1,2,3")


def with_protocol(suite: Suite, protocol: Mapping[str, Any]) -> Suite:
    """The suite with those settings; its prompts and its name are what they were."""
    changes: dict[str, Any] = {key: value for key, value in protocol.items() if "." not in key}
    for name in SAMPLERS:
        own = {key.partition(".")[2]: value for key, value in protocol.items() if key.startswith(f"{name}.")}
        if own:
            sampler: SamplerSpec = getattr(suite.spec, name)
            changes[name] = dataclasses.replace(sampler, **own)
    return dataclasses.replace(suite, spec=dataclasses.replace(suite.spec, **changes)) if changes else suite


def at_scale(suite: Suite, model: str, *, own_budget: bool = False) -> Suite:
    """The suite as it is for that base model: with its settings for real ones, unless the model is tiny.

    Args:
        own_budget: the user names a budget, so where the suite's comes from is of no interest.
    """
    scale = suite.scale
    if scale is None or model.startswith("tiny-"):
        return suite
    spec = dataclasses.replace(suite.spec, budget=scale.budget, reward=scale.reward, metrics=scale.metrics)
    notes = () if own_budget else (f"budget for base models beyond the tiny world: {scale.source}",)
    return dataclasses.replace(suite, spec=spec, notes=(*suite.notes, *notes))
