"""Who judges a run's images, by world: rewards, CLIP scores, readers, networks. Tables and look-ups; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.assets import locate, needed
from bench.assets.catalogue import Asset, fetch_command
from bench.assets.catalogue import find as find_asset
from bench.core.judging import Judging, World

PREFERENCE_JUDGES: dict[World, tuple[str, ...]] = {
    "tiny": ("tiny-pick", "tiny-judge", "tiny-clip"),
    # three of one backbone (H/14), one on L/14 and one on BLIP: over-optimisation must show in other families
    "published": ("hps-v2.1", "pickscore", "imagereward", "aesthetic", "clip-h14"),
}
"""Asked in every run beside the reward tuned for and its terms: over-optimisation shows in those not trained on."""

PROPERTIES = ("symmetry", "compressibility")
"""Measured in every run, but nobody's preference: a win rate under them says nothing unless a run tuned for them."""


@dataclass(frozen=True)
class ClipVariant:
    """One way to compute a CLIP score, all of it in the column's name."""

    column: str
    asset: str
    """Published weights."""
    scale: float
    """Of max(cos, 0)."""
    prefix: str = ""
    """Before every prompt."""


CLIP_VARIANTS: dict[str, ClipVariant] = {
    "b32": ClipVariant("clipscore/openai-vit-b-32/w2.5", "clip-b32", 2.5, "A photo depicts "),
    "l14": ClipVariant("clipscore/openai-vit-l-14/x100", "clip-l14", 100),
    "h14": ClipVariant("clipscore/laion-vit-h-14/x1", "clip-h14", 1),
}
"""The paper's own (Hessel et al., arXiv 2104.08718), TreeReward's and DRTune's: three scales that compare with nothing
but themselves."""

DIVERSITY_CLIP = "clip-l14"
VQA = "blip-vqa-base"
"""TIFA's reader where the user names none."""
SENTENCES = "all-mpnet-base-v2"
"""TIFA's encoder of answers and choices."""
LPIPS_HEADS, LPIPS_BACKBONE = "lpips-alex", "lpips-alexnet"


def judges_of(judging: Judging) -> tuple[str, ...]:
    """Names of the preference judges of a run, whether or not their weights are here."""
    return PREFERENCE_JUDGES[judging.world] if judging.judges is None else judging.judges


def absent_judge(name: str) -> str | None:
    """Why this judge cannot be asked here, with the command that changes it; None where its weights are here."""
    lacking = [asset for asset in needed(rewards=[name]) if locate(asset) is None]
    return _sentence(f"the judge {name!r}", lacking) if lacking else None


def absent_assets(what: str, *names: str) -> str | None:
    """Why something that needs these assets cannot be computed here; None where all are found."""
    lacking = [asset for asset in map(find_asset, names) if locate(asset) is None]
    return _sentence(what, lacking) if lacking else None


def _sentence(what: str, lacking: list[Asset]) -> str:
    commands = dict.fromkeys(fetch_command(asset) for asset in lacking)
    fetched = [command.removeprefix("bench assets fetch ") for command in commands if command.startswith("bench ")]
    others = [command for command in commands if not command.startswith("bench ")]
    how = " and ".join([*([f"bench assets fetch {' '.join(fetched)}"] if fetched else []), *others])
    return f"{what} is absent: {', '.join(asset.name for asset in lacking)} not on this machine ({how})"


def stamp_of(name: str) -> Any:
    """What changes when an asset is put here or replaced: its folder with sizes and times; None where it is absent."""
    folder = locate(name)
    if folder is None:
        return None
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()]
    return [str(folder), *map(list, files)]
