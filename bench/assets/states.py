"""What ``bench assets status`` says of an asset."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bench.assets.catalogue import Asset, fetch_command
from bench.assets.places import check, locate
from bench.core.errors import UserError


@dataclass(frozen=True)
class State:
    """One asset on this machine."""

    asset: Asset
    state: Literal["found", "missing", "wrong"]
    folder: str
    """Where it is; "" where it is not."""
    detail: str
    """What is wrong with it."""

    @property
    def todo(self) -> str:
        """What to type; "" when nothing is to do."""
        return "" if self.state == "found" else fetch_command(self.asset)

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        asset = self.asset
        return {
            "name": asset.name, "source": asset.source, "revision": asset.revision or None, "licence": asset.licence,
            "purpose": asset.purpose, "layout": asset.layout, "bytes": asset.bytes or None,
            "files": [dataclasses.asdict(file) for file in asset.files], "used_by": dict(asset.used_by),
            "state": self.state, "folder": self.folder or None, "detail": self.detail or None,
            "todo": self.todo or None,
        }  # fmt: skip


def state(asset: Asset) -> State:
    """Looks for an asset and checks what it finds, known digests included."""
    folder = locate(asset)
    if folder is None:
        return State(asset, "missing", "", "")
    try:
        check(asset, folder)
    except UserError as err:
        return State(asset, "wrong", str(folder), err.problem)
    return State(asset, "found", str(folder), "")
