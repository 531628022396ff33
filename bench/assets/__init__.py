"""Published weights: what they are, where they lie on this machine, whether they are whole, and how to get them.

``need(name)`` is the one way to a folder of published weights; nothing else looks for them. No torch.
"""

from bench.assets.catalogue import Asset, AssetFile, catalogue, find, needed
from bench.assets.places import ENVIRONMENT, OTHER_WEIGHTS, UNSAFE_PICKLE, allowed, locate, need

__all__ = [
    "ENVIRONMENT", "OTHER_WEIGHTS", "UNSAFE_PICKLE", "Asset", "AssetFile", "allowed", "catalogue", "find", "locate",
    "need", "needed",
]  # fmt: skip
