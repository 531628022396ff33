"""What the user's words choose: tuners with their settings, seeds, shares of the budget, its limits."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.budget import Budget
from bench.core.contract import Tuner, changed_settings, make_config
from bench.core.errors import UserError, unknown_name
from bench.core.identity import file_sha256
from bench.engine.options import Options


@dataclass(frozen=True)
class ChosenTuner:
    """A tuner with its settings resolved."""

    ref: str
    cls: type[Tuner]
    config: Any
    label: str
    file_sha256: str


def names(text: str, kind: str) -> list[str]:
    """The words between commas. Raises UserError where there is none."""
    names = [n.strip() for n in text.split(",") if n.strip()]
    if not names:
        raise UserError(f"no {kind} was named", hint=f"bench list {kind}s")
    return names


def tuners_of(options: Options) -> tuple[list[ChosenTuner], tuple[str, ...]]:
    """The tuners that were asked for, and of ``all`` those that do not load, with the reason."""
    broken: list[str] = []
    if options.tuner == "all":
        chosen = []
        for name in registry.entries("tuners"):
            try:
                chosen.append(choose_tuner(name))
            except UserError as err:
                broken.append(err.problem)
    else:
        chosen = [choose_tuner(name) for name in names(options.tuner, "tuner")]
    keys = [pair.split("=", 1)[0].strip() for pair in options.settings]
    for key in keys:
        scope, _, _ = key.rpartition(".")
        if scope and scope not in {c.cls.name for c in chosen} | {c.label for c in chosen}:
            raise UserError(
                f"--set {key}: no tuner {scope!r} in this plan", valid=", ".join(c.cls.name for c in chosen)
            )
    return [_with_settings(c, options.settings) for c in chosen], tuple(broken)


def choose_tuner(name: str) -> ChosenTuner:
    """The tuner, preset or file of that name. Raises UserError with the closest names."""
    entries = registry.entries("tuners")
    if name in entries or name.endswith(".py") or "/" in name:
        cls = registry.find("tuners", name).load()
        path = Path(name).resolve() if name not in entries else None
        sha = file_sha256(path) if path else ""
        return ChosenTuner(str(path or name), cls, make_config(cls, {}), cls.name, sha)
    presets: dict[str, str] = {}
    for entry in entries.values():
        if not entry.error:
            presets.update(dict.fromkeys(entry.load().presets, entry.name))
    if name not in presets:
        raise unknown_name("tuner or preset", name, [*entries, *presets], "bench list tuners")
    cls = registry.load("tuners", presets[name])
    return ChosenTuner(presets[name], cls, make_config(cls, cls.presets[name]), name, "")


def _with_settings(chosen: ChosenTuner, pairs: Sequence[str]) -> ChosenTuner:
    given: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        scope, _, key = key.strip().rpartition(".")
        if not sign:
            raise UserError(f"--set {pair!r} has no '='", valid="key=value or tuner.key=value",
                            hint=f"bench show tuner {chosen.cls.name}")  # fmt: skip
        if scope in ("", chosen.cls.name, chosen.label):
            given[key] = value.strip()
    config = make_config(chosen.cls, {**changed_settings(chosen.cls, chosen.config), **given})
    return dataclasses.replace(chosen, config=config, label=label_of(chosen.cls, config))


def label_of(cls: type[Tuner], config: Any) -> str:
    """The preset whose settings ``config`` has, else the tuner's name: a pure function of the settings."""
    changed = changed_settings(cls, config)
    for name, settings in cls.presets.items():
        if changed and changed == changed_settings(cls, make_config(cls, settings)):
            return name
    return cls.name


def parse_seeds(text: str) -> list[int]:
    """A count, or a list with commas. Raises UserError."""
    try:
        seeds = [int(s) for s in text.split(",") if s.strip()] if "," in text else list(range(int(text)))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {text!r} names no seeds", valid="a count (3 means 0,1,2) or a list such as 0,7")
    return seeds


def parse_fractions(text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    """The suite's shares of the budget, or the user's list instead of them: rising from 0 (the base) to 1."""
    if text is None:
        return default
    shares: tuple[float, ...] = ()
    with contextlib.suppress(ValueError):
        shares = tuple(float(part) for part in text.split(","))
    rising = all(a < b for a, b in itertools.pairwise(shares))
    if not shares or shares[0] != 0 or shares[-1] != 1 or not rising:
        raise UserError(f"--fractions {text!r}", valid="shares of the budget that rise from 0 to 1, such as 0,0.5,1")
    return shares


def parse_budget(pairs: Sequence[str], default: Budget, hard_limit_s: float | None = None) -> Budget:
    """The suite's budget, or the user's ``kind=limit`` pairs instead of it; the first pair is then the primary kind."""
    hard = default.hard_wall_s if hard_limit_s is None else hard_limit_s
    if not (hard > 0):
        raise UserError(f"--hard-limit {hard} s", valid="seconds above 0")
    if not pairs:
        return dataclasses.replace(default, hard_wall_s=hard)
    limits: dict[str, Any] = {}
    for pair in pairs:
        kind, sign, amount = (part.strip() for part in pair.partition("="))
        try:
            limits[kind] = float(amount.replace("_", ""))
        except ValueError:
            raise UserError(
                f"--budget {pair!r} is not kind=number", valid="such as denoiser_u=50000 or device_s=600"
            ) from None
        if not sign or not kind:
            raise UserError(f"--budget {pair!r} is not kind=number", valid="such as denoiser_u=50000 or device_s=600")
    return Budget.from_json({**limits, "primary": next(iter(limits)), "hard_wall_s": hard})
