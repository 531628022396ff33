"""What a tuner fitted for itself: kept when tuning is over, read again when images are scored."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping

import torch

from bench.core import registry
from bench.core.contract import Reward, Tuner, make_config
from bench.core.types import RunSpec
from bench.store import atomic
from bench.store.runs import RunFolder


def keep(tuner: Tuner, folder: RunFolder) -> None:
    """Writes ``kept.pt`` where the tuner has something to keep."""
    kept = tuner.kept()
    if kept:
        buffer = io.BytesIO()
        torch.save(dict(kept), buffer)
        atomic.write_bytes(folder.kept_path, buffer.getvalue())


def own_rewards(folder: RunFolder, spec: RunSpec, tuner_ref: str, device: str) -> Mapping[str, Reward]:
    """The rewards that the run fitted, by name; none where it fitted none or ended before."""
    if not folder.kept_path.exists():
        return {}
    data = folder.kept_path.read_bytes()
    kept = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    cls = registry.find("tuners", tuner_ref).load()
    rewards: Mapping[str, Reward] = cls.own_rewards(make_config(cls, spec.settings), kept, device)
    for reward in rewards.values():
        reward.weights_sha256 = hashlib.sha256(data).hexdigest()
    return rewards
