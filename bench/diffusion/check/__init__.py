"""The contract suite of tuners, on a random pipeline in seconds: ``bench check tuner NAME`` and ``./my_tuner.py``.

What cannot be seen from outside: files that native code writes outside the current folder, and evaluation prompts that
a tuner carries inside its own source; those are for reviewers to find.
"""

from __future__ import annotations

from bench.diffusion.check.new import new_tuner
from bench.diffusion.check.suite import CheckResult, check_tuner

__all__ = ["CheckResult", "check_tuner", "new_tuner"]
