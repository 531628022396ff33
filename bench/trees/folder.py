"""A fitted tree on disk: a folder that needs nothing beside it, made by ``bench reward train tree``.

    tree.json           structure, backbone, how leaves are weighed
    model.safetensors   every weight, the backbone's frozen ones too, in float32
    backbone/           configuration and tokenizer of a BLIP backbone
    card.json, README.md  what it was fitted to and how well it does
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError
from bench.diffusion.pretrained import reading
from bench.store import atomic
from bench.trees.model import RewardTree, Weighing
from bench.trees.trunks import TINY, BlipTrunk, Trunk, build_trunk

FORMAT = 1
VALID = "a folder that bench reward train tree wrote"
BLIP = "blip"
WEIGHTS = "model.safetensors"


def save_tree(folder: Path, model: RewardTree, weighing: Weighing, frozen: float) -> None:
    """Everything but the card, into an existing folder.

    Args:
        frozen: share of the backbone's layers that fitting left alone.
    """
    from safetensors.torch import save_file

    trunk = model.trunk
    if isinstance(trunk, BlipTrunk):
        trunk.save_shape(folder / "backbone")
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with atomic.disk_errors(folder):
        save_file(state, folder / WEIGHTS)
    atomic.write_json(folder / "tree.json", {
        "format": FORMAT, "structure": model.structure, "backbone": BLIP if isinstance(trunk, BlipTrunk) else TINY,
        "backbone_digest": trunk.digest, "frozen": frozen, "weighing": dataclasses.asdict(weighing),
    })  # fmt: skip


def load_tree(folder: Path) -> tuple[RewardTree, Weighing]:
    """The tree of a folder, in evaluation mode and without gradients to its weights; and how its leaves are weighed.

    Raises:
        UserError: no such folder, or damaged or foreign files.
    """
    from safetensors.torch import load_file

    facts = read_facts(folder)
    with reading(folder):
        weighing = Weighing(**facts["weighing"])
        state = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(0)

    def trunk() -> Trunk:
        if facts["backbone"] == TINY:
            return build_trunk(TINY, generator, 0.0)
        with torch.random.fork_rng(devices=[]):
            return BlipTrunk(folder / "backbone", empty=True)

    with reading(folder):
        model = RewardTree(facts["structure"], trunk, generator)
        model.load_state_dict(state)
    for part in model.trunks:
        assert isinstance(part, Trunk)
        part.digest = str(facts["backbone_digest"])
    return model.eval().requires_grad_(False), weighing


def read_facts(folder: Path) -> Mapping[str, Any]:
    """``tree.json``. Raises UserError where it or the weights are missing, or it is of another format."""
    path = folder / "tree.json"
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no fitted tree: no tree.json with its {WEIGHTS}", valid=VALID,
                        hint="bench reward train tree --help")  # fmt: skip
    facts: Any = atomic.read_json(path)
    wanted = ("format", "structure", "backbone", "backbone_digest", "weighing")
    if not isinstance(facts, dict) or any(key not in facts for key in wanted) or facts["format"] != FORMAT:
        raise UserError(f"{path} is not of format {FORMAT}", valid=VALID)
    if facts["structure"] not in ("tree", "global", "decoupled") or facts["backbone"] not in (TINY, BLIP):
        raise UserError(f"{path} names structure {facts['structure']!r} on backbone {facts['backbone']!r}",
                        valid=f"tree, global or decoupled on {TINY} or {BLIP}")  # fmt: skip
    return facts
