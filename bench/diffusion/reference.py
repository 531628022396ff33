"""The same update as ``bench.diffusion.rollout``, as one autograd graph over the whole rollout: the naive way, which
tests and the benchmark compare the engine with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.diffusion.models import BaseModel
from bench.diffusion.rollout import Loss, Path
from bench.diffusion.samplers import Noise, Sampler, conditions, predict_eps


def full_graph_gradients(
    model: BaseModel, sampler: Sampler, path: Path, texts: Sequence[str], noise: Noise, loss: Loss
) -> float:
    """Adds the gradient of the loss to the adapter's ``.grad`` and returns the loss. Memory grows with |S|."""
    cond, uncond = conditions(model, sampler, texts)
    walk = sampler.walk()
    x = walk.start(noise.initial(model.latent_shape(), model.dtype, model.device))
    for i in range(path.n_executed(sampler.n_steps)):
        with torch.set_grad_enabled(i in path.train):
            eps_hat = predict_eps(model, sampler, i, x if path.through_input else x.detach(), cond, uncond)
        x = sampler.x0_hat(i, eps_hat, x) if i == path.stop else walk.step(i, eps_hat, x, noise)
    value = loss(model.decode(x))
    value.backward()
    return value.item()
