"""Where published weights lie on this machine.

Looked for in this order:

1. ``TUNEBENCH_MODELS``, a folder that holds each repository under its name (``PickScore_v1``), under
   ``organisation--name`` or under ``organisation/name``;
2. the user's cache, where ``bench assets fetch`` puts them;
3. the Hugging Face cache, at the catalogue's revision.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path

from bench.assets.catalogue import Asset, fetch_command, find, not_here
from bench.assets.files import cache_dir, check_whole, sha256_of, weights_in
from bench.core.errors import UserError

ENVIRONMENT = "TUNEBENCH_MODELS"
"""Folder of published models."""

OTHER_WEIGHTS = "TUNEBENCH_OTHER_WEIGHTS"
"""Names of assets, with commas, whose files may be others than the published ones: a conversion, tuned weights, a tiny
model of the same classes. What was loaded is in every record by its digest."""

UNSAFE_PICKLE = "TUNEBENCH_UNSAFE_PICKLE"
"""Names of assets, with commas, whose checkpoints may run code when they are loaded."""


def allowed(variable: str, name: str) -> bool:
    """Whether the environment variable names this asset."""
    return name in {part.strip() for part in os.environ.get(variable, "").split(",")}


def fetched_folder(asset: Asset) -> Path:
    """Where ``bench assets fetch`` puts an asset; assets of one repository share it."""
    at = f"@{asset.revision[:12]}" if asset.revision else ""
    return cache_dir() / "assets" / f"{asset.repo.replace('/', '--')}{at}"


def is_at_pin(asset: Asset, folder: Path) -> bool:
    """Whether a folder is known to be the catalogue's revision: we fetched it, or it is the hub's own snapshot."""
    return bool(asset.revision) and (folder == fetched_folder(asset) or folder.name == asset.revision)


def locate(asset: Asset | str) -> Path | None:
    """The folder with all files of an asset, or None. Sizes and digests are not looked at: see ``need``."""
    asset = find(asset) if isinstance(asset, str) else asset
    return next((folder for folder in _folders(asset) if not lacking(asset, folder)), None)


def need(name: str) -> Path:
    """The folder with all files of an asset, whole and as published.

    Raises:
        UserError: missing (where it was looked for, and the command that gets it), cut off, or other bytes than the
            published ones where those are known (see ``OTHER_WEIGHTS``).
    """
    asset = find(name)
    folder = locate(asset)
    if folder is None:
        raise not_here(asset, _looked_in(asset))
    check(asset, folder)
    return folder


def lacking(asset: Asset, folder: Path) -> list[str]:
    """What a folder lacks to be this asset; [] when nothing."""
    if asset.layout == "files":
        return [file.path for file in asset.files if not (folder / file.path).is_file()]
    if asset.layout == "diffusers-pipeline":
        return _lacking_components(folder)
    absent = [] if (folder / "config.json").is_file() else ["config.json"]
    return absent if weights_in(folder) else [*absent, "weights"]


def _lacking_components(folder: Path) -> list[str]:
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text("utf-8"))
    except (OSError, ValueError):
        return [index.name]
    # a component is [library, class], or [null, null] where the pipeline does without; the filter is not used here
    named = [key for key, value in parts.items() if isinstance(value, list) and value[:1] != [None]]
    skipped = ("safety_checker", "feature_extractor", "image_encoder")
    return [part for part in named if part not in skipped and not (folder / part).is_dir()]


def check(asset: Asset, folder: Path) -> None:
    """Raises UserError where a file is cut off or is not the published one."""
    published = {file.path: file for file in asset.files}
    paths = {folder / path for path in published}
    if asset.layout != "files":
        paths |= {*weights_in(folder), *folder.glob("*.json")}
    for path in sorted(paths):
        # a folder may hold safetensors where the published digest is of a pickle, or the other way round
        if not path.is_file():
            continue
        check_whole(path)
        file = published.get(path.relative_to(folder).as_posix())
        if file is None or allowed(OTHER_WEIGHTS, asset.name):
            continue
        n_bytes = path.stat().st_size
        if file.bytes and n_bytes != file.bytes:
            raise _wrong(asset, path, f"{n_bytes:,} bytes, the published one {file.bytes:,}")
        if file.sha256 and (found := sha256_of(path)) != file.sha256:
            raise _wrong(asset, path, f"sha256 {found}, the published one {file.sha256}")


def _wrong(asset: Asset, path: Path, what: str) -> UserError:
    return UserError(
        f"{path} is not the file of {asset.source} at {asset.pin}: it has {what}",
        valid=f"the published file, or {OTHER_WEIGHTS}={asset.name} if these weights are meant: the record names them "
        "by their digest",
        hint=fetch_command(asset),
    )


def _folders(asset: Asset) -> list[Path]:
    """Where the asset may lie, best first."""
    found: list[Path] = []
    root = os.environ.get(ENVIRONMENT)
    repos = [repo for repo in (asset.repo, *asset.other_repos) if repo]
    if root:
        for repo in repos:
            found += [Path(root, repo.rpartition("/")[2]), Path(root, repo.replace("/", "--")), Path(root, repo)]
        found += [Path(root, name) for name in (*asset.other_folders, asset.package, asset.name) if name]
    if asset.package:
        return [*found, *_package_folder(asset)]
    found.append(fetched_folder(asset))
    if not asset.url:
        found += [folder for repo in repos if (folder := _hub_folder(asset, repo))]
    return found


def _package_folder(asset: Asset) -> list[Path]:
    """The folder of the first file in an installed package, found without importing it."""
    try:
        carried = importlib.metadata.distribution(asset.package).files or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).parent for file in carried if file.name == asset.files[0].path][:1]


def _hub_folder(asset: Asset, repo: str) -> Path | None:
    """The snapshot in the Hugging Face cache that holds the asset's first file."""
    from huggingface_hub import try_to_load_from_cache

    first = {"files": asset.files[0].path if asset.files else "", "diffusers-pipeline": "model_index.json"}
    path = try_to_load_from_cache(repo, first.get(asset.layout, "config.json"), revision=asset.revision or "main")
    return Path(path).parent if isinstance(path, str) else None


def _looked_in(asset: Asset) -> list[str]:
    root = os.environ.get(ENVIRONMENT)
    name = asset.repo.rpartition("/")[2] or asset.package
    own = f"{ENVIRONMENT}={root} (as {name})" if root else f"{ENVIRONMENT} (not set)"
    if asset.package:
        return [own, f"the package {asset.package}"]
    places = [own, str(fetched_folder(asset))]
    return places if asset.url else [*places, "the Hugging Face cache"]
