"""The command line that asks for exactly one run again, from its record's spec alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from bench.core.budget import KINDS
from bench.core.identity import canonical_json


def command(spec: Mapping[str, Any]) -> str:
    """``python -m bench run …`` with every option that changes the answer; plain ones first, long ones after.

    What the machine decides (device, launcher, processes, folders) is left out: it is under Provenance.
    """
    variant = str(spec.get("variant") or "")
    suite = str(spec.get("suite_name") or str(spec["suite"]).partition("-")[0]) + (f".{variant}" if variant else "")
    # A tuner given as a file has its digest in the spec and not its path, which is another on every machine.
    tuner = f"./{spec['tuner']}.py" if spec.get("tuner_sha256") else str(spec["tuner"])
    options = [("--suite", suite), ("--edition", spec["edition"]), ("--tuner", tuner), ("--reward", spec["reward"]),
               ("--model", spec["model"]), ("--seeds", f"{spec['seed']},")]  # fmt: skip
    options += [("--set", f"{name}={_value(value)}") for name, value in sorted((spec.get("settings") or {}).items())]
    options += [("--budget", f"{kind}={_value(limit)}") for kind, limit in _limits(spec["budget"])]
    if spec["budget"].get("hard_wall_s") is not None:
        options.append(("--hard-limit", _value(spec["budget"]["hard_wall_s"])))
    if spec.get("fractions"):
        options.append(("--fractions", ",".join(_value(f) for f in spec["fractions"])))
    if spec.get("metrics"):
        # Always: a record does not say what the suite measures unless asked, and that may be another list by now.
        options.append(("--metrics", ",".join(spec["metrics"])))
    if spec.get("train_list"):
        options.append(("--train-list", str(spec["train_list"])))
    options += [
        ("--protocol", f"{key}={_listed(value)}") for key, value in sorted((spec.get("protocol") or {}).items())
    ]
    if spec.get("limit") is not None:
        options.append(("--limit", str(spec["limit"])))
    words = ["python", "-m", "bench", "run"]
    return " ".join([*words, *(f"{name} {shlex.quote(str(value))}" for name, value in options)])


def _limits(budget: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The primary kind first: on the command line the first one is it."""
    found = [(kind, budget[kind]) for kind in KINDS if budget.get(kind) is not None]
    return sorted(found, key=lambda item: item[0] != budget.get("primary"))


def _listed(value: Any) -> str:
    """As ``--protocol`` reads it: noise seeds with commas."""
    return ",".join(map(_value, value)) if isinstance(value, (list, tuple)) else _value(value)


def _value(value: Any) -> str:
    """As ``--set`` and ``--budget`` read it: true, 0.003, 24000."""
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else canonical_json(value)
