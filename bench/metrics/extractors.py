"""Feature networks of distances between image sets, each with its protocol: what is done to a picture before it."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.assets import need
from bench.assets.files import sha256_of_all, weights_in
from bench.core.errors import unknown_name
from bench.diffusion.pretrained import load_pretrained, reading
from bench.metrics import inception
from bench.metrics.protocols import PROTOCOLS, cmmd, dinov2
from bench.metrics.requirements import EXTRACTOR_PROTOCOLS

BATCH = 32
"""Pictures in one pass."""


class FeatureNetwork(nn.Module):
    """(B, 3, H, W) uint8 → (B, D): a protocol and a network; also torchmetrics' ``feature`` module."""

    protocol: str
    num_features: int
    sha256: str
    """Digest of the weights."""
    device: str

    @property
    @abstractmethod
    def name(self) -> str:
        """What features are cached under: weights digest and preprocessing."""

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 → the network's input, all of one size."""

    @abstractmethod
    def embed(self, prepared: Tensor) -> Tensor:
        """The features (B, D) of prepared pictures."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.embed(self.prepare(part)) for part in torch.split(images, BATCH)])


class Extractor(FeatureNetwork):
    """The published Inception under one of FID's protocols.

    Args:
        protocol: a name of ``PROTOCOLS``.
        device: where the network runs.
    """

    num_features = inception.DIM
    sha256 = inception.SHA256

    def __init__(self, protocol: str, device: str = "cpu") -> None:
        super().__init__()
        self.protocol = protocol
        self.network = inception.load_inception(device)
        self.device = device

    @property
    def name(self) -> str:
        return f"inception-{inception.SHA256[:16]}-{self.protocol}"

    def prepare(self, images: Tensor) -> Tensor:
        return PROTOCOLS[self.protocol](images.to(self.device))

    def embed(self, prepared: Tensor) -> Tensor:
        features: Tensor = self.network(prepared)
        return features


class Dinov2(FeatureNetwork):
    """DINOv2's class token, as FD-DINOv2 takes it (Stein et al., arXiv 2306.04675): ViT-L/14, 1024 numbers.

    Args:
        folder: ``save_pretrained`` folder of a Dinov2Model.
    """

    protocol = "dinov2-l14"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import Dinov2Model

        super().__init__()
        self.sha256 = sha256_of_all(weights_in(folder))
        with reading(folder):
            model: Any = load_pretrained(Dinov2Model, folder)
        self.network = model.eval().requires_grad_(False).to(device)
        self.num_features = int(model.config.hidden_size)
        self.device = device

    @property
    def name(self) -> str:
        return f"dinov2-{self.sha256[:16]}-{self.protocol}"

    def prepare(self, images: Tensor) -> Tensor:
        return dinov2(images).to(self.device)

    def embed(self, prepared: Tensor) -> Tensor:
        features: Tensor = self.network(pixel_values=prepared).last_hidden_state[:, 0]
        return features


class ClipVision(FeatureNetwork):
    """CLIP's image embedding of length 1, as CMMD takes it (Jayasumana et al., arXiv 2401.09603): ViT-L/14 at 336.

    Args:
        folder: ``save_pretrained`` folder of a CLIPModel or CLIPVisionModelWithProjection.
    """

    protocol = "cmmd"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoConfig, CLIPVisionModelWithProjection

        super().__init__()
        self.sha256 = sha256_of_all(weights_in(folder))
        with reading(folder):
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
            if hasattr(config, "vision_config"):  # of both towers: the width of the projection is stated above them
                config.vision_config.projection_dim = config.projection_dim
                config = config.vision_config
            model: Any = load_pretrained(CLIPVisionModelWithProjection, folder, config=config)
        self.network = model.eval().requires_grad_(False).to(device)
        self.num_features = int(model.config.projection_dim)
        self.side = int(model.config.image_size)
        self.device = device

    @property
    def name(self) -> str:
        return f"clip-vision-{self.sha256[:16]}-{self.protocol}"

    def prepare(self, images: Tensor) -> Tensor:
        return cmmd(images.to(self.device), self.side)

    def embed(self, prepared: Tensor) -> Tensor:
        return F.normalize(self.network(pixel_values=prepared).image_embeds.float(), dim=-1)


def load_extractor(protocol: str, device: str = "cpu") -> FeatureNetwork:
    """The network of that protocol.

    Raises:
        UserError: an unknown protocol (closest names), or weights that are not on this machine.
    """
    if protocol not in EXTRACTOR_PROTOCOLS:
        raise unknown_name("protocol", protocol, EXTRACTOR_PROTOCOLS, "bench refs build --help")
    if protocol == Dinov2.protocol:
        return Dinov2(need(EXTRACTOR_PROTOCOLS[protocol]), device)
    if protocol == ClipVision.protocol:
        return ClipVision(need(EXTRACTOR_PROTOCOLS[protocol]), device)
    return Extractor(protocol, device)
