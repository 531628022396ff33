"""Human Preference Score v2 and v2.1 (Wu et al., arXiv 2306.09341): a CLIP ViT-H/14 tuned on choices of people.

    HPS(x, c) = cos(E_image(x), E_text(c))

Tables print 100 times that (DRTune's 40.63 is 0.4063 here; losses of the kind 1 - r take it as it is). v2 and v2.1 are
two networks and not comparable. The reference scores in half precision, on a grid of 2^-12, and so knows ties; here the
cosine is formed in float32.

Arguments of both:

- ``shift=random``: FDXL's random shift of images larger than the network's 224 pixels (``rewards.preprocess.Shifted``).
- ``resize=plain``: without antialiasing, as the reference did with torchvision before 0.17.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from bench.assets import find, need
from bench.core.errors import UserError
from rewards.checkpoints import read_checkpoint
from rewards.clip import PUBLISHED, ClipReward
from rewards.open_clip import clip_model
from rewards.preprocess import Letterbox, choose

PIXELS = 224


def hps_v21(device: str = "cpu", shift: str = "no", resize: str = "antialiased") -> ClipReward:
    """Human Preference Score v2.1, a cosine; tables print 100 times it. The reward of DRTune and FDXL."""
    return _hps("hps-v2.1", device, shift, resize)


def hps_v2(device: str = "cpu", shift: str = "no", resize: str = "antialiased") -> ClipReward:
    """Human Preference Score v2, a cosine; tables print 100 times it. Not comparable with v2.1."""
    return _hps("hps-v2", device, shift, resize)


def _hps(name: str, device: str, shift: str, resize: str) -> ClipReward:
    if resize not in ("antialiased", "plain"):
        raise UserError(f"reward {name!r}: resize = {resize!r}", valid="antialiased, plain")
    asset, facts = find(name), PUBLISHED[name]
    folder, processor = need(name), need("clip-h14-processor")
    file = folder / asset.files[0].path
    preprocess = choose(name, Letterbox(PIXELS, antialias=resize == "antialiased"), shift)
    full = name + ("-plain" if resize == "plain" else "") + ("-shift" if shift == "random" else "")
    reward = ClipReward(
        folder, full, facts.form, family=facts.family, licence=asset.licence, device=device, processor=processor,
        preprocess=preprocess, weights=[file], load=functools.partial(_load, file, name),
    )  # fmt: skip
    reward.unit, reward.cost_gmac = facts.unit, facts.cost_gmac
    return reward


def _load(file: Path, name: str) -> Any:
    """The CLIPModel in a checkpoint of open_clip's trainer."""
    found = read_checkpoint(file, name)
    if not isinstance(found.get("state_dict"), dict):
        raise UserError(f"{file} has no state_dict: it holds {', '.join(map(str, list(found)[:5]))}",
                        valid="a checkpoint of HPS as published")  # fmt: skip
    model = clip_model(found["state_dict"])
    if (side := model.config.vision_config.image_size) != PIXELS:
        raise UserError(f"{file} holds a CLIP for images of {side} pixels", valid=f"{PIXELS}, as HPS has")
    return model
