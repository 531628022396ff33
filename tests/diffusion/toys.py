"""Toy models with a base model's interface: their gradients are known in closed form, and they cost nothing."""

import torch

from bench.diffusion.random_tiny import random_pipeline
from bench.diffusion.samplers import build_sampler

SD = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading",
}  # fmt: skip

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


class Toy:
    """A denoiser given as a function; the decoder is the identity, so a loss sees the latent."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, net, prediction_type="epsilon", **scheduler):
        self.net = net
        self.prediction_type = prediction_type
        self.scheduler_config = {**(FLOW if prediction_type == "flow_prediction" else SD), **scheduler}
        self.inputs = []

    def latent_shape(self, resolution=None):
        return 2, 2, 2

    def encode_prompts(self, texts):
        return torch.tensor([float(len(t)) for t in texts], dtype=self.dtype).view(-1, 1, 1)

    def denoiser(self, x_in, t, cond):
        self.inputs.append(x_in.detach().clone())
        return self.net(x_in, t, cond)

    def decode(self, x):
        return x


def constant_toy(**kwargs):
    """eps_theta(x, t, c) = theta for a text, phi for the empty one."""
    theta = torch.full((2, 2, 2), 0.1, dtype=torch.float64, requires_grad=True)
    phi = torch.full((2, 2, 2), 0.05, dtype=torch.float64, requires_grad=True)
    toy = Toy(lambda x, t, cond: torch.where(cond.view(-1, 1, 1, 1) > 0, theta, phi).expand_as(x), **kwargs)
    return toy, theta, phi


def smooth_toy(seed=0, **kwargs):
    """A smooth non-linear denoiser that mixes channels and depends on time and text."""
    g = torch.Generator().manual_seed(seed)
    weight = (torch.randn(2, 2, generator=g, dtype=torch.float64) * 0.4).requires_grad_()

    def net(x, t, cond):
        mixed = torch.einsum("oc,bchw->bohw", weight, x)
        return torch.tanh(mixed + 0.1 * cond.view(-1, 1, 1, 1) + t.double() / 1000) + 0.3 * x

    return Toy(net, **kwargs), weight


def linear_loss(seed=0):
    """L = <c, x>, so dL/dx_out = c exactly."""
    c = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return c, lambda x: (x * c).sum()


def curved_loss(images):
    """Neither linear nor symmetric in its input."""
    weights = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype).view_as(images[0])
    first = (images * weights).mean((1, 2, 3))
    return (first + (images.square() * weights).mean((1, 2, 3)) ** 2).mean()


def real_model(**kwargs):
    """The random pipeline in float64 with an adapter away from its start, so that all its gradients are non-zero."""
    model = random_pipeline(0, torch.float64, **kwargs)
    parameters = model.attach_adapter(rank=2, alpha=2, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model


def gradient(parameters, accumulate, *args):
    """What ``accumulate(*args)`` adds to the parameters' gradients, as one vector."""
    for p in parameters:
        p.grad = None
    accumulate(*args)
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


__all__ = [
    "FLOW", "SD", "Toy", "build_sampler", "constant_toy", "curved_loss", "gradient", "linear_loss", "real_model",
    "relative", "smooth_toy",
]  # fmt: skip
