"""Is what the user named for judging whole? Read by structure at plan time, without torch: not after a run of hours."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from bench.assets.files import check_whole, weights_in
from bench.core.errors import UserError
from bench.core.judging import Judging

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def problems_of(judging: Judging) -> list[str]:
    """What is wrong with the reader, the photographs and the face network that were named; one sentence each."""
    found = []
    if judging.vqa and (problem := _said(_check_folder, "--vqa", Path(judging.vqa))):
        found.append(problem)
    if judging.embedder and (problem := _said(_check_embedder, "--embedder", Path(judging.embedder))):
        found.append(problem)
    if judging.subject and (problem := _said(_check_subject, "--subject", Path(judging.subject))):
        found.append(problem)
    for one, other, what in (("subject", "embedder", "FILE of a face network"),
                             ("embedder", "subject", "FOLDER of photographs")):  # fmt: skip
        if getattr(judging, one) and not getattr(judging, other):
            found.append(f"--{one} without --{other}: identity compares by both (--{other} {what})")
    return found


def _said(check: Callable[[Path], None], option: str, path: Path) -> str:
    try:
        check(path)
    except UserError as err:
        return f"{option}: {err.problem}" + (f" (valid: {err.valid})" if err.valid else "")
    return ""


def _check_folder(folder: Path) -> None:
    """Raises UserError unless it is a folder of a transformers model whose files are whole."""
    valid = "a save_pretrained folder"
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", valid=valid)
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{folder} has no config.json", valid=valid)
    check_whole(config)
    content = json.loads(config.read_text("utf-8"))
    if not isinstance(content, dict) or "model_type" not in content:
        raise UserError(f"{config} names no model_type", valid=valid)
    weights = weights_in(folder)
    if not weights:
        raise UserError(f"{folder} has no weights", valid=valid)
    for path in (*weights, *sorted(folder.glob("*.json"))):
        check_whole(path)
    for index in (folder / name for name in _INDEXES):
        if index.is_file() and (absent := _absent_parts(index)):
            raise UserError(f"{folder} lacks {absent[0]}, one of {len(absent)} absent files that {index.name} names",
                            valid=valid)  # fmt: skip


def _absent_parts(index: Path) -> list[str]:
    try:
        names = {str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()}
    except (KeyError, TypeError, AttributeError) as err:
        raise UserError(f"{index} is no index of weights: {type(err).__name__}: {err}") from err
    return sorted(name for name in names if not (index.parent / name).is_file())


def _check_embedder(path: Path) -> None:
    if path.is_dir():
        _check_folder(path)
        return
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no TorchScript file, or is cut off", valid="a TorchScript file, or a transformers "
                        "folder of an image model")  # fmt: skip


def _check_subject(folder: Path) -> None:
    from bench.metrics.references import pictures_of

    _decoded(tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in pictures_of(folder)))


@functools.lru_cache(maxsize=4)
def _decoded(states: tuple[tuple[str, int, int], ...]) -> None:
    """Pictures by (path, size, time of change) are decoded once a process, however many runs a plan has."""
    from bench.metrics.references import check_pictures

    check_pictures([Path(path) for path, _, _ in states])
