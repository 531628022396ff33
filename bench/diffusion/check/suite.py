"""All promises of one tuner, in order: the tuner that breaks one is told which, and the others are still checked."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.contract import Tuner, changed_settings, make_config
from bench.diffusion.check import promises
from bench.diffusion.check.session import BrokenError, Run


@dataclass(frozen=True)
class CheckResult:
    """One promise of the contract."""

    name: str
    ok: bool
    detail: str
    """What was seen: the figures, or what broke."""


def check_tuner(tuner: type[Tuner], config: Any = None, *, base: str = "sd") -> list[CheckResult]:
    """Every promise that a tuner makes to the harness, checked on random weights.

    Args:
        tuner: the class.
        config: its settings; None takes the defaults. ``Tuner.check_settings`` are laid over them.
        base: kind of base model: ``sd``, ``sdxl`` or ``sd3``.
    """
    results = [_result("settings", lambda: promises.check_settings(tuner))]
    if not results[0].ok:
        return results
    config = make_config(tuner, {**changed_settings(tuner, config or tuner.Config()), **tuner.check_settings})
    # a folder of its own for the whole suite: what a tuner drops into the current folder never lands in the user's
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder, contextlib.chdir(folder):
        scratch = Path(folder).resolve()
        run = Run(base=base)
        results.append(_result("units", lambda: promises.check_units(tuner, config, scratch, run)))
        if results[-1].ok:
            results += [
                _result("next-cost", lambda: promises.check_cost(run)),
                _result("budget", lambda: promises.check_budget(tuner, config, scratch, run)),
                _result("resume", lambda: promises.check_resume(tuner, config, scratch, run)),
                _result("first-update", lambda: promises.check_first_update(tuner, config, run)),
                _result("processes", lambda: promises.check_processes(tuner, config, scratch, run)),
                _result("random-state", lambda: promises.no_findings(run.random, "no global random state was touched")),
                _result("evaluation-prompts", lambda: promises.no_findings(run.suites, "no suite was opened")),
                _result("writes", lambda: promises.no_findings(run.writes, "nothing was written outside work_dir")),
                _result("patch", lambda: promises.check_patch(run)),
                _result("diffusers", lambda: promises.check_diffusers(scratch, run)),
            ]
    return results


def _result(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except BrokenError as err:
        return CheckResult(name, False, str(err))
    except Exception as err:  # a plug-in may raise anything, and the report must go on
        return CheckResult(name, False, f"{type(err).__name__}: {err}")
