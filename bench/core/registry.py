"""The one registry: names to lazy targets, over entry points. Listing imports no plug-in.

Built-ins are declared in our own pyproject.toml exactly as a third party declares theirs.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown_name
from bench.core.outline import Memory, Outline

GROUPS: dict[str, str] = {
    "suites": "suite", "tuners": "tuner", "rewards": "reward", "metrics": "metric", "models": "model",
    "launchers": "launcher",
}  # fmt: skip
"""Group (after ``bench.``) and the word for one member."""


_memory = Memory()


@dataclass(frozen=True)
class Entry:
    """One plug-in, found and not imported."""

    group: str
    name: str
    target: str
    """``module:attribute``"""
    package: str
    """The distribution that brought it."""

    @functools.cached_property
    def _outline(self) -> Outline | str:
        """What the source text says of the attribute, or why that cannot be read; nothing is imported."""
        module, _, attribute = self.target.partition(":")
        try:
            found = _memory.of_file(_source_file(module)).get(attribute)
        except (OSError, SyntaxError, ImportError, ValueError) as err:
            return f"{type(err).__name__}: {err}"
        return found or f"AttributeError: {module} has no {attribute!r}"

    @property
    def summary(self) -> str:
        return "" if isinstance(self._outline, str) else self._outline.summary

    @property
    def error(self) -> str:
        """Why this plug-in cannot be loaded; "" when nothing is wrong with its source."""
        return self._outline if isinstance(self._outline, str) else ""

    def keys_of(self, attribute: str) -> list[str]:
        """The keys of a class attribute that is written as a dict, such as a tuner's ``presets``, read from the source
        text without importing it; those of a target that cannot be read are none."""
        return [] if isinstance(self._outline, str) else list(self._outline.keys.get(attribute, []))

    @property
    def source_digest(self) -> str:
        """Digest of the Python files in the folder of the target's module: while it stays, so does what the target says
        of itself. "" where there is no source. Nothing is imported."""
        try:
            folder = _source_file(self.target.partition(":")[0]).parent
        except ModuleNotFoundError:
            return ""
        files = sorted(folder.rglob("*.py"))
        found = hashlib.sha256()
        for path in files:
            found.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
        return found.hexdigest()

    def load(self) -> Any:
        """Imports the target. Raises UserError that names plug-in and package when that fails."""
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, SyntaxError) as err:
            raise UserError(
                f"the {GROUPS[self.group]} {self.name!r} of package {self.package!r} does not load: "
                f"{type(err).__name__}: {err}",
                hint=f"bench list {self.group}",
            ) from err


def _source_file(module: str) -> Path:
    """The file of a module, found without running any package's code."""
    path: list[str] | None = None
    spec = None
    parts = module.split(".")
    for i in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: i + 1]), path)
        if spec is None:
            # editable installs may map packages by a finder of their own
            spec = importlib.util.find_spec(parts[0]) if i == 0 else None
        if spec is None:
            raise ModuleNotFoundError(f"No module named {module!r}")
        path = list(spec.submodule_search_locations or [])
    assert spec is not None
    if not spec.origin:
        raise ModuleNotFoundError(f"{module!r} has no source file")
    return Path(spec.origin)


@functools.cache
def _declared() -> tuple[tuple[str, importlib.metadata.EntryPoint], ...]:
    """(distribution, entry point) of all our groups. Reading the metadata of every package is the whole cost of
    listing, so it is done once a process; of several copies of one distribution the first on the path counts."""
    found, seen = [], set()
    for dist in importlib.metadata.distributions():
        points = [ep for ep in dist.entry_points if ep.group.startswith("bench.")]
        if not points:
            continue
        name = dist.metadata["Name"]
        if name not in seen:
            seen.add(name)
            found += [(name, ep) for ep in points]
    return tuple(found)


@functools.cache
def entries(group: str) -> dict[str, Entry]:
    """All plug-ins of a group, by name. Two packages that claim one name are an error that names both."""
    found: dict[str, Entry] = {}
    for package, ep in _declared():
        if ep.group != f"bench.{group}":
            continue
        other = found.get(ep.name)
        if other is not None:
            raise UserError(
                f"two packages register the {GROUPS[group]} {ep.name!r}: {other.package} and {package}",
                hint=f"pip uninstall {package}",
            )
        found[ep.name] = Entry(group, ep.name, ep.value, package)
    return dict(sorted(found.items()))


def find(group: str, name: str) -> Entry:
    """The entry of that name; for tuners also a path to a Python file that defines one.

    Raises:
        UserError: unknown name, with the closest ones.
    """
    if group == "tuners" and (name.endswith(".py") or "/" in name):
        return _entry_of_file(group, Path(name))
    known = entries(group)
    if not known:
        raise UserError(
            f"no {group} are registered: the package 'tunebench' is not installed in this Python ({sys.executable})",
            hint="pip install -c constraints.txt -e .",
        )
    if name not in known:
        raise unknown_name(GROUPS[group], name, known, f"bench list {group}")
    return known[name]


def load(group: str, name: str) -> Any:
    """The object registered as ``name``."""
    return find(group, name).load()


def _entry_of_file(group: str, path: Path) -> Entry:
    """Registers ``./my_tuner.py`` under a module name of its own; the file must hold one class named in ``TUNER``."""
    if not path.is_file():
        raise UserError(f"there is no file {path}", valid="a Python file with a line 'TUNER = MyTuner'",
                        hint="bench new tuner my_tuner")  # fmt: skip
    module = f"_bench_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(module, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    try:
        spec.loader.exec_module(loaded)
    except Exception as err:
        raise UserError(f"{path} does not import: {type(err).__name__}: {err}", hint=f"python {path}") from err
    if not hasattr(loaded, "TUNER"):
        raise UserError(f"{path} names no tuner", valid="a line 'TUNER = MyTuner' at the end of the file")
    return Entry(group, str(path), f"{module}:TUNER", f"file {path}")
