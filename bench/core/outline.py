"""What a Python file says of itself without being imported: first lines of docstrings, keys of class attributes.

Parsing is most of what ``bench list`` takes, so that what was read is remembered in the user's cache, by the file's
size and time of change as Python remembers compiled files. The memory may be deleted at any time.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FORMAT = 1
"""Raise it when what is remembered of a file changes."""


@dataclass(frozen=True)
class Outline:
    """One definition at a module's top level."""

    summary: str
    """First line of its docstring, else of the module's."""
    keys: Mapping[str, list[str]]
    """Class attribute that is written as a dict → its keys that are strings."""


def outlines(text: str) -> dict[str, Outline]:
    """Every class, function, assigned and imported name of a module's source text.

    Raises:
        SyntaxError, ValueError: it does not parse.
    """
    tree = ast.parse(text)
    of_module = _first_line(tree)
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            keys = _keys(node) if isinstance(node, ast.ClassDef) else {}
            found[node.name] = Outline(_first_line(node) or of_module, keys)
            continue
        for name in _names(node):
            found[name] = Outline(of_module, {})
    return found


def _first_line(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return ((ast.get_docstring(node) or "").strip().splitlines() or [""])[0]


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    return []


def _keys(node: ast.ClassDef) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in node.body:
        value = getattr(line, "value", None)
        if isinstance(value, ast.Dict):
            keys = [k.value for k in value.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
            found |= dict.fromkeys(_names(line), keys)
    return found


class Memory:
    """Outlines of files, kept between commands. A folder that cannot be written to costs time only."""

    def __init__(self, path: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.path = path or cache / "tunebench" / f"outlines-{_FORMAT}.json"
        self._files: dict[str, Any] | None = None
        self._read: dict[str, dict[str, Outline]] = {}
        self._changed = False

    def of_file(self, file: Path) -> dict[str, Outline]:
        """The outlines of ``file`` as it is now.

        Raises:
            OSError, SyntaxError, ValueError: it cannot be read or does not parse.
        """
        key, stat = str(file), file.stat()
        if key not in self._read:
            stamp = [stat.st_mtime_ns, stat.st_size]
            kept = self._kept().get(key)
            if kept is not None and kept["stamp"] == stamp:
                self._read[key] = {name: Outline(*fields) for name, fields in kept["names"].items()}
            else:
                self._read[key] = outlines(file.read_text("utf-8"))
                names = {name: [o.summary, o.keys] for name, o in self._read[key].items()}
                if not self._changed:
                    self._changed = True
                    atexit.register(self.write)
                self._kept()[key] = {"stamp": stamp, "names": names}
        return self._read[key]

    def _kept(self) -> dict[str, Any]:
        if self._files is None:
            try:
                self._files = dict(json.loads(self.path.read_text("utf-8")))
            except (OSError, ValueError, TypeError):
                self._files = {}
        return self._files

    def write(self) -> None:
        """Keeps what was read; called once, when the process ends."""
        own = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(json.dumps(self._files), "utf-8")
            own.replace(self.path)
