"""The rewards of the tiny world, stored beside the code and trained by ``python -m bench.tiny.train``."""

from __future__ import annotations

from bench.core.contract import Reward
from bench.tiny import weights_dir

PAIRS = "tiny-pairs"
"""Family of scorers that saw the same image-text pairs: one of them cannot be a held-out judge of another."""

JUDGE = "tiny-judge"
"""Family of the scorer trained apart, with another seed and width."""

LICENCE = "Apache-2.0"


def tiny_clip(device: str = "cpu") -> Reward:
    """Cosine of image and prompt under tiny-clip, the CLIP model of the tiny world."""
    from rewards.clip import ClipReward

    return ClipReward(weights_dir() / "tiny-clip", "tiny-clip", "cosine", family=PAIRS, licence=LICENCE, device=device)


def tiny_pick(device: str = "cpu") -> Reward:
    """Preference scorer of the tiny world in PickScore's form, exp(logit_scale) * cosine."""
    from rewards.clip import ClipReward

    return ClipReward(
        weights_dir() / "tiny-pick", "tiny-pick", "pickscore", family=PAIRS, licence=LICENCE, device=device
    )


def tiny_judge(device: str = "cpu") -> Reward:
    """Second preference scorer of the tiny world, trained apart: the held-out judge."""
    from rewards.clip import ClipReward

    return ClipReward(
        weights_dir() / "tiny-judge", "tiny-judge", "pickscore", family=JUDGE, licence=LICENCE, device=device
    )
