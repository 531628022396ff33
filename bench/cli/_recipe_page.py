"""``bench show recipe``: every setting with its source, and the command that says the same without the recipe."""

from __future__ import annotations

import shlex
from typing import Any

from bench.cli._output import table_lines

_FLAGS = {"set": "--set", "protocol": "--protocol", "budget": "--budget"}


def facts(name: str) -> dict[str, Any]:
    """A recipe as plain data. Raises UserError with the closest names."""
    from suites._recipes import recipe

    found = recipe(name)
    words = []
    for setting in found.settings:
        scope = setting.key.partition(".")[0]
        flag = {"hard_limit_s": "--hard-limit"}.get(setting.key, f"--{setting.key.replace('_', '-')}")
        words += [_FLAGS[scope], setting.pair] if scope in _FLAGS else [flag, str(setting.value)]
    return {
        "name": found.name, "title": found.title, "paper": found.paper,
        "settings": [{"key": s.key, "value": s.value, "source": s.source} for s in found.settings],
        "beyond": list(found.beyond),
        "run": f"bench run --recipe {name} --data DIR", "in_full": shlex.join(["bench", "run", *words]),
    }  # fmt: skip


def text(facts: dict[str, Any]) -> str:
    """The same for people."""
    rows = [(s["key"], str(s["value"]), s["source"]) for s in facts["settings"]]
    lines = [
        f"{facts['name']}: {facts['title']}",
        facts["paper"],
        "",
        *table_lines(("setting", "value", "source"), rows),
    ]
    if facts["beyond"]:
        lines += ["", "what the paper states and no setting here says:", *(f"  {line}" for line in facts["beyond"])]
    return "\n".join([*lines, "", f"run it:  {facts['run']}", f"in full: {facts['in_full']}"])
