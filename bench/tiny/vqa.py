"""Training of the VQA reader on exact labels, with the faults of decoded pictures as augmentation."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from bench.tiny import vae as autoencoder
from bench.tiny.data import as_images, damage, labels, round_trip
from bench.tiny.loop import Draw, Plan, device, fit
from bench.tiny.reader import CELL_HEADS, WHOLE_HEADS, Reader, ReaderConfig
from bench.tiny.world import sample_split

PLAN = Plan("vqa", steps=2100, batch=32, lr=2e-3, warmup=150, weight_decay=1e-4, ema=0.98)
DECODED = 8
"""Pictures of a batch that go through the autoencoder, with a little noise on the latents."""


def loss_of(reader: Reader, vae: AutoencoderKL | None, draw: Draw, batch: int) -> torch.Tensor:
    """Cross-entropies of all heads; attributes count where an object is."""
    scenes = [sample_split(draw.np, held=False) for _ in range(batch)]
    images = as_images(scenes)
    if vae is not None:
        images[:DECODED] = round_trip(vae, images[:DECODED], float(draw.np.uniform(0, 0.3)), draw)
    plain = images[-batch // 4 :].clone()
    images = damage(images, draw)
    images[-batch // 4 :] = plain
    truth = labels(scenes)
    seen = reader(images)
    there = truth["there"]
    loss = 10 * F.binary_cross_entropy_with_logits(seen["there"][:, 0], there)
    places = torch.stack([truth["dx"], truth["dy"]], dim=1)
    loss = (
        loss + 2 * (F.mse_loss(seen["place"].sigmoid(), places, reduction="none") * there[:, None]).sum() / there.sum()
    )
    for name in CELL_HEADS:
        if name not in ("there", "place"):
            loss = loss + F.cross_entropy(seen[name], truth[name], ignore_index=-1)
    for name in WHOLE_HEADS:
        loss = loss + 0.5 * F.cross_entropy(seen[name], truth[name])
    return loss


def build() -> Reader:
    """An untrained reader."""
    torch.manual_seed(41)
    return Reader(ReaderConfig())


def train(work: Path, plan: Plan = PLAN) -> Reader:
    """Train, or finish training, the reader; needs the trained autoencoder for its augmentation."""
    vae = autoencoder.train(work).eval().requires_grad_(False)
    reader = build()
    reader.to(device(), memory_format=torch.channels_last)
    fit(plan, reader, lambda draw: loss_of(reader, vae, draw, plan.batch), work)
    return reader
