"""What a tuner does to the process around it: global random draws, suites that it opens, files that it writes."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.diffusion.check.session import Run


@contextlib.contextmanager
def watched(scratch: Path, work_dir: Path, run: Run) -> Iterator[None]:
    """Notes global random draws, suites that are opened, and writes outside ``work_dir``."""
    # a process's first optimiser step imports torch's compiler, which makes a cache folder: no deed of the tuner
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)]).step()
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "suites"}
    before = _random_states()

    def see(event: str, args: tuple[Any, ...]) -> None:
        if event == "import" and str(args[0]).split(".")[0] == "suites":
            run.suites.append(f"the package {args[0]} was imported")
        for path in _written(event, args):
            if work_dir not in (path, *path.parents) and "__pycache__" not in path.parts and path != Path(os.devnull):
                run.writes.append(f"{event} {path}")

    known = set(scratch.iterdir())
    with _audited(see):
        try:
            yield
        finally:
            run.random += [name for name, state in _random_states().items() if state != before[name]]
            # native code escapes the audit, but not the current folder
            run.writes += [f"{p.name} in the current folder" for p in scratch.iterdir() if p not in known]
            for name in [n for n in sys.modules if n.split(".")[0] == "suites"]:
                del sys.modules[name]
            sys.modules.update(hidden)


def _random_states() -> dict[str, bytes]:
    states = {
        "random": pickle.dumps(random.getstate()),
        "numpy.random": pickle.dumps(np.random.get_state()),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_available():
        states["torch.cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return states


def _written(event: str, args: tuple[Any, ...]) -> Iterator[Path]:
    """Paths that an audit event creates or changes."""
    names: Sequence[Any] = ()
    if event == "open":
        name, mode, flags = args
        writes = (
            set(mode) & set("wax+") if isinstance(mode, str) else (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        names = [name] if writes else []
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        names = args[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        names = args[:2]
    for name in names:
        if isinstance(name, (str, bytes, os.PathLike)):
            yield Path(os.path.abspath(os.fsdecode(name)))


_watchers: list[Callable[[str, tuple[Any, ...]], None]] = []
_installed: list[bool] = []


@contextlib.contextmanager
def _audited(see: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Calls ``see`` for Python's audit events. A hook cannot be removed, so one stays and does nothing."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(lambda event, args: [watch(event, args) for watch in _watchers] and None)
    _watchers.append(see)
    try:
        yield
    finally:
        _watchers.remove(see)
