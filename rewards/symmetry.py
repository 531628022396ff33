"""Left-right symmetry, the low-level reward of DRTune (Wu et al., arXiv 2405.00760, eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.core.contract import Reward
from rewards.check import check_images

VARIANCE_FLOOR = 1e-10
"""A picture of one colour has no spread to divide by; below a standard deviation of 1e-5 the divisor stays constant.
The smallest spread that 8 bits can express at 64x64 (one channel of one pixel, one level) is 3.5e-5."""


class Symmetry(Reward):
    """Asymmetry of an image, |I - mirror(I)|_1 / std(I); lower is better (DRTune eq. 6).

    The paper leaves the norm's scale and the axis open. Taken here: the *mean* absolute difference, mirrored left to
    right, over one standard deviation of all pixels and channels. Its untuned 0.73 to 0.78 fits that reading
    (27 ordinary pictures: 0.74, and 0.93 upside down). White noise has 2/sqrt(pi) = 1.128, a mirrored picture 0,
    whatever the contrast. DRTune adds CLIPScore while it trains on it, with a weight that it does not state:
    ``symmetry + W*clip-h14``, where W is the reader's choice and stands in the run's reward.
    """

    name = "symmetry"
    minimise = True
    family = "symmetry"
    unit = "mean |I - mirror(I)| / std(I)"
    value_range = (0.0, 2.0)

    def __init__(self, device: str = "cpu") -> None:
        """Has no weights: it runs where the images are, whatever ``device``."""

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        images = images.float()
        difference = (images - images.flip(-1)).abs().mean(dim=(1, 2, 3))
        variance = images.var(dim=(1, 2, 3), correction=0)
        return difference / variance.clamp_min(VARIANCE_FLOOR).sqrt()
