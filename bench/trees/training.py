"""A reward tree from a file of votes: what ``bench reward train tree`` does, without a tuner and without a base model.

    OUT/work/training.json   what is trained on what, and the shards of pairs that are there
    OUT/work/pairs/          the votes' images, brought to the backbone's size
    OUT/work/checkpoint.pt   the newest safe point of the fit
    OUT/tree.json ...        the fitted tree (``bench.trees.folder``); with its last file the work is removed

The same command continues where a killed one stood, and ends in the same bits on a CPU. Another command on the same
folder is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256
from bench.core.seeds import derive_seed
from bench.store import atomic
from bench.store.lock import exclusive
from bench.trees.card import card_text
from bench.trees.dimensions import DIMENSIONS
from bench.trees.feedback import Feedback
from bench.trees.fit import Fit, FitPlan
from bench.trees.folder import save_tree
from bench.trees.model import RewardTree, Weighing
from bench.trees.trunks import BLIP_FROZEN, TINY, backbone_problem, build_trunk
from bench.trees.votes import MIN_VOTES, Vote, load_vote, missing_dimensions, read_votes

STRUCTURES = ("tree", "global", "decoupled")
SHARD = 240
"""Pairs between two safe points while images are read."""
UNIT = 10
"""Optimiser steps between two safe points."""
PASSES = 4
"""How often each vote is seen where the number of steps is not given; the paper states nothing."""
MIN_STEPS = 100


@dataclass(frozen=True)
class Training:
    """What to train. ``checkpoint_s`` and ``micro_batch`` change no answer but by rounding."""

    votes: Path
    backbone: str
    """``tiny-clip`` or a folder with BLIP."""
    out: Path
    images: Path | None = None
    """Folder that the votes' image files are relative to; by default the vote file's."""
    structure: str = "tree"
    steps: int = 0
    """Optimiser steps; 0: ``PASSES`` over the votes, at least ``MIN_STEPS``."""
    batch: int = 64
    """Pairs a step; ImageReward's 64."""
    micro_batch: int = 16
    """Pairs a forward."""
    lr: float = 1e-3
    """Peak learning rate of gate and leaves."""
    trunk_lr: float = 0.01
    """Of ``lr``, for the backbone: 1e-5, ImageReward's, of BLIP."""
    frozen: float = -1.0
    """Share of the backbone's layers that stay as they are; -1: 0.7 of BLIP, none of tiny-clip."""
    seed: int = 0
    device: str = "cpu"
    checkpoint_s: float = 120.0
    """Seconds between two checkpoints of the fit; 0 writes one after each unit."""


class Stage(Protocol):
    """A bar or lines of progress."""

    def advance_to(self, count: float, info: str = "") -> None: ...


class Screen(Protocol):
    """``bench.engine.progress.Progress``, as far as training needs it."""

    def say(self, text: str) -> None: ...

    def stage(self, name: str, total: float, unit: str, *, done: float = 0.0) -> AbstractContextManager[Stage]: ...


def train_tree(what: Training, screen: Screen) -> dict[str, Any]:
    """Trains, or continues, and returns the card.

    Raises:
        UserError: settings, votes, images or backbone that cannot be used; a folder with something else in it; another
            process at work there.
        Diverged: the gradient is not finite.
    """
    votes = _checked(what)
    plan = _plan(what, len(votes))
    generator = torch.Generator().manual_seed(derive_seed(what.seed, "tree-init"))
    frozen = what.frozen if what.frozen >= 0 else (0.0 if what.backbone == TINY else BLIP_FROZEN)
    tree = RewardTree(what.structure, lambda: build_trunk(what.backbone, generator, frozen), generator)
    identity = {
        "votes_sha256": file_sha256(what.votes), "backbone": tree.trunk.digest, "structure": what.structure,
        "frozen": frozen, "seed": what.seed, "steps": plan.steps, "batch": plan.batch, "lr": plan.lr,
        "trunk_lr": plan.trunk_lr,
    }  # fmt: skip
    if (done := _finished(what.out, identity)) is not None:
        screen.say(f"{what.out} holds this tree already")
        return done
    work = what.out / "work"
    shards = _continued(what.out, work, identity)
    with exclusive(work / "lock", f"{what.out}"):
        tree.to(what.device)
        pairs = Feedback(work / "pairs", what.device, by_prompt=True)
        pairs.restore(shards)
        _read_images(votes, pairs, tree.trunk.side, lambda: _note(work, identity, pairs), screen)
        _check_split(pairs)
        fit = Fit(tree, pairs, plan, functools.partial(derive_seed, what.seed))
        _fit(fit, work / "checkpoint.pt", what.checkpoint_s, screen)
        card = {**fit.finish(), **_of_the_votes(pairs), "identity": identity, "settings": _settings(what, plan),
                "backbone_name": what.backbone if what.backbone == TINY else Path(what.backbone).name}  # fmt: skip
        atomic.write_json(what.out / "card.json", card)
        atomic.write_text(what.out / "README.md", card_text(card))
        save_tree(what.out, tree, Weighing(), frozen)
        atomic.remove(work)
    return card


def _checked(what: Training) -> list[Vote]:
    """The votes; nothing slow has happened until here."""
    if what.structure not in STRUCTURES:
        raise UserError(f"structure {what.structure!r}", valid=", ".join(STRUCTURES))
    for name, value, low in (("steps", what.steps, 0), ("batch", what.batch, 1), ("micro-batch", what.micro_batch, 1)):
        if value < low:
            raise UserError(f"{name} = {value}", valid=f"{low} or more")
    if not -1 <= what.frozen <= 1 or what.lr <= 0 or what.trunk_lr < 0:
        raise UserError(f"frozen = {what.frozen}, lr = {what.lr}, trunk-lr = {what.trunk_lr}",
                        valid="frozen from 0 to 1, or -1; a positive lr; trunk-lr of 0 or more")  # fmt: skip
    votes = read_votes(what.votes, what.images)
    lacking = missing_dimensions(votes) if what.structure != "global" else []
    if lacking or len(votes) < MIN_VOTES:
        raise UserError(
            f"{what.votes} has fewer than {MIN_VOTES} votes on {', '.join(lacking) or 'anything'}",
            valid=f"for every one of {', '.join(DIMENSIONS)}, a vote to fit on and one held out",
            hint="--structure global, which takes votes of any dimensions" if lacking else "",
        )
    if problem := backbone_problem(what.backbone):
        raise UserError(problem, hint="--backbone DIR")
    return votes


def _plan(what: Training, n_votes: int) -> FitPlan:
    steps = what.steps or max(MIN_STEPS, math.ceil(PASSES * n_votes / what.batch))
    return FitPlan(steps, what.batch, min(what.micro_batch, what.batch), what.lr, what.trunk_lr)


def _finished(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card of the same training where it has ended."""
    if not (out / "tree.json").is_file():
        return None
    card = atomic.read_json(out / "card.json") if (out / "card.json").is_file() else None
    if not isinstance(card, dict) or card.get("identity") != dict(identity):
        raise _other(out)
    return card


def _continued(out: Path, work: Path, identity: Mapping[str, Any]) -> list[str]:
    """The shards of the same training that are there; a fresh folder is begun."""
    if (work / "training.json").is_file():
        state = atomic.read_json(work / "training.json")
        if not isinstance(state, dict) or state.get("identity") != dict(identity):
            raise _other(out)
        return list(state["shards"])
    if out.exists() and (not out.is_dir() or any(p.name != "work" for p in out.iterdir())):
        raise UserError(f"{out} exists and holds something else", valid="a new folder, or one that this command began",
                        hint="another --out")  # fmt: skip
    atomic.write_json(work / "training.json", {"identity": identity, "shards": []})
    return []


def _other(out: Path) -> UserError:
    return UserError(f"{out} holds a tree of other votes, backbone or settings",
                     valid="the command that began it, or a new folder", hint="another --out")  # fmt: skip


def _note(work: Path, identity: Mapping[str, Any], pairs: Feedback) -> None:
    atomic.write_json(work / "training.json", {"identity": identity, "shards": pairs.state()})


def _read_images(votes: list[Vote], pairs: Feedback, side: int, note: Callable[[], None], screen: Screen) -> None:
    if len(pairs) == len(votes):
        return
    with screen.stage("read votes", len(votes), "votes", done=len(pairs)) as stage:
        while len(pairs) < len(votes):
            pairs.add([load_vote(vote, side) for vote in votes[len(pairs) :][:SHARD]])
            note()
            stage.advance_to(len(pairs))


def _check_split(pairs: Feedback) -> None:
    """Every dimension that has votes must have some to fit on: all may be on prompts that are held out."""
    fitted = {pairs.dimension(i) for i in pairs.train()}
    empty = [DIMENSIONS[j] for j in {pairs.dimension(i) for i in pairs.held_out()} - fitted]
    if empty:
        raise UserError(f"all votes on {', '.join(sorted(empty))} are on held-out prompts",
                        valid="votes on at least two prompts for each dimension: accuracy is measured on prompts that "
                              "were not fitted on")  # fmt: skip


def _fit(fit: Fit, path: Path, every_s: float, screen: Screen) -> None:
    """All steps, with safe points."""
    if path.is_file():
        try:
            fit.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as err:
            raise UserError(
                f"the checkpoint {path} is damaged: {type(err).__name__}",
                hint=f"remove {path} and run the same command again: the fit starts anew",
            ) from err
    written = time.monotonic()
    with screen.stage("fit", fit.plan.steps, "steps", done=fit.step) as stage:
        while not fit.done:
            told = fit.advance(UNIT)
            stage.advance_to(fit.step, "  ".join(f"{k} {told[k]:.3f}" for k in sorted(told) if k != "fit_grad_norm"))
            if fit.done or time.monotonic() - written >= every_s:
                packed = io.BytesIO()
                torch.save(fit.state_dict(), packed)
                atomic.write_bytes(path, packed.getvalue())
                written = time.monotonic()


def _of_the_votes(pairs: Feedback) -> dict[str, Any]:
    """How many votes of each dimension were fitted on and held out, and a digest of all their images and texts."""
    train, held = ([pairs.dimension(i) for i in part] for part in (pairs.train(), pairs.held_out()))
    return {
        "n_train_of": {d: train.count(j) for j, d in enumerate(DIMENSIONS)},
        "n_held_out_of": {d: held.count(j) for j, d in enumerate(DIMENSIONS)},
        "data": digest(pairs.state(), 16), "held_out_by": "prompt",
    }  # fmt: skip


def _settings(what: Training, plan: FitPlan) -> dict[str, Any]:
    return {**dataclasses.asdict(plan), "seed": what.seed, "device": what.device}
