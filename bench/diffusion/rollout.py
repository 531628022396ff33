"""The rollout engine: one exact gradient for ReFL, DRaFT-K, DRaFT-LV, AlignProp and DRTune.

Two switches tell the methods apart: which steps train (``Path.train``, the papers' S) and whether gradient passes
through the U-Net's input (``Path.through_input``). An update is three passes:

    A  roll out   x_{i+1} = step_i(eps_hat_i, x_i), the U-Net without a graph; each step's inputs are leaves
    B  score      L(decode(x_out)); l = dL/dx_out; the decoder's and the reward's graph is freed
    C  sweep      i = last .. min S:   (g_x, g_eps) = vjp of step_i at l        (the scheduler's arithmetic alone)
                  i in S:  run the U-Net again with a graph, backward with g_eps  -> adapter gradients (and du/dx_i)
                  l <- g_x (+ du/dx_i if through_input)

so one U-Net graph is alive at a time, memory does not grow with |S|, and yet the gradient is the full graph's. The
scheduler's coefficients are left to autograd instead of being written out; their closed forms kappa_i =
dx_out/deps_hat_i are the tests' oracle. A multistep sampler's memory m_i (DPM++ 2M: the last x0_hat) is swept along
with x.

A penalty on the distance to the untouched model (DRaFT+) joins in pass C: with eps_ref the base model's prediction at
the same x_i, held fixed,

    L_kl = kl mean_{i in S} mean_{C,h,w} (eps_hat_i - eps_ref_i)^2      adds 2 kl / (|S| C h w) (eps_hat_i - eps_ref_i)
                                                                        to g_eps before step i's backward.

``accumulate_at`` is the same update for a single prediction from a latent that is given (DRaFT-LV).

Symbols as in ``bench.diffusion.samplers``; T steps, stop index s: the rollout ends at step s with x0_hat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from bench.core.budget import Charge
from bench.core.contract import Patch
from bench.core.errors import Diverged
from bench.core.types import SamplerSpec
from bench.diffusion.models import BaseModel
from bench.diffusion.samplers import Noise, Sampler, conditions, predict_eps

Loss = Callable[[torch.Tensor], torch.Tensor]
"""Images (B, 3, H, W) in [0, 1] → scalar loss, already divided by the size of the global batch."""


@dataclass(frozen=True)
class Path:
    """Which predictions of a rollout train, and where it ends."""

    train: frozenset[int]
    """S: indices in execution order, 0 .. T-1. Steps after ``stop`` do not run, so they do not train."""
    stop: int | None = None
    """s: end at this step with its x0_hat; None runs all steps and takes the sampler's own last latent."""
    through_input: bool = False
    """False is DRTune's sg(x_t): gradient reaches x_i through the scheduler alone, not through the U-Net."""

    def n_executed(self, n_steps: int) -> int:
        return n_steps if self.stop is None else self.stop + 1

    def n_trained(self, n_steps: int) -> int:
        return sum(1 for i in self.train if i < self.n_executed(n_steps))


@dataclass(frozen=True)
class Outcome:
    """One update's (or micro-batch's) figures."""

    loss: float
    saturated: float
    """Share of image values at exactly 0 or 1, which pass no gradient."""
    eps_grads: Mapping[int, torch.Tensor]
    """i → dL/deps_hat_i (B, C, h, w), the cotangents of the re-runs."""
    x_out: torch.Tensor
    """What was scored: latents (B, C, h, w) without a graph."""
    kl: float = 0.0
    """sum_B mean_{i in S} mean (eps_hat_i - eps_ref_i)^2, without its weight; 0 where it was not asked for."""


@dataclass
class _Step:
    """The leaves and results of one scheduler step: its graph holds elementwise arithmetic on latents only."""

    x: torch.Tensor
    eps_hat: torch.Tensor
    memory: torch.Tensor | None
    x_next: torch.Tensor
    memory_next: torch.Tensor | None


@dataclass
class _Tape:
    """What pass A leaves for pass C."""

    x_out: torch.Tensor
    steps: dict[int, _Step] = field(default_factory=dict)


def accumulate_gradients(
    model: BaseModel, sampler: Sampler, path: Path, texts: Sequence[str], noise: Noise, loss: Loss,
    resolution: int | None = None, kl: float = 0.0,
) -> Outcome:  # fmt: skip
    """Adds the gradient of one batch's loss to ``.grad`` of the model's adapter parameters.

    With several micro-batches, call it once for each and step the optimiser after the last.

    Args:
        kl: weight of a sample's L_kl, already divided by the size of the global batch.

    Raises:
        Diverged: non-finite latents, loss or gradient, with the place.
    """
    cond, uncond = conditions(model, sampler, texts)
    tape = _roll_out(model, sampler, path, cond, uncond, noise, resolution)
    value, saturated, cotangent = _score(model, tape.x_out, loss)
    eps_grads, penalty = _sweep(model, sampler, path, tape, cotangent, cond, uncond, kl)
    return Outcome(value, saturated, eps_grads, tape.x_out.detach(), penalty)


def accumulate_at(
    model: BaseModel, sampler: Sampler, i: int, x: torch.Tensor, texts: Sequence[str], loss: Loss
) -> Outcome:  # fmt: skip
    """The gradient of L(decode(x0_hat_i)) for one prediction at a given latent, added to ``.grad``.

    There is no rollout whose result could be scored first, so the U-Net's graph and the decoder's are alive together
    once: a forward less than ``accumulate_gradients`` for the same step.

    Args:
        x: the sampler's latent of step i (B, C, h, w), see ``noised``.
    """
    cond, uncond = conditions(model, sampler, texts)
    with torch.enable_grad():
        eps_hat = predict_eps(model, sampler, i, x, cond, uncond)
    leaf = eps_hat.detach().requires_grad_()
    with torch.enable_grad():
        x0 = sampler.x0_hat(i, leaf, x)
    value, saturated, cotangent = _score(model, x0.detach(), loss)
    (g_eps,) = torch.autograd.grad(x0, leaf, cotangent)
    torch.autograd.backward([eps_hat], [g_eps])
    return Outcome(value, saturated, {i: g_eps}, x0.detach())


def noised(sampler: Sampler, i: int, x0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """The sampler's latent of step i that (x0, eps) make up: c_i (alpha_i x0 + sigma_i eps), (B, C, h, w)."""
    return sampler.c[i] * (sampler.alpha[i] * x0 + sampler.sigma[i] * eps)


def _roll_out(
    model: BaseModel, sampler: Sampler, path: Path, cond: torch.Tensor, uncond: torch.Tensor | None, noise: Noise,
    resolution: int | None,
) -> _Tape:  # fmt: skip
    """Pass A."""
    first = min((i for i in path.train), default=sampler.n_steps)
    walk = sampler.walk()
    x = walk.start(noise.initial(model.latent_shape(resolution), model.dtype, model.device))
    tape = _Tape(x)
    for i in range(path.n_executed(sampler.n_steps)):
        with torch.no_grad():
            eps_hat = predict_eps(model, sampler, i, x, cond, uncond)
        with torch.set_grad_enabled(i >= first):  # before min S nothing is swept, so nothing is recorded
            x = x.detach().requires_grad_(i >= first)
            eps_hat = eps_hat.requires_grad_(i >= first)
            memory = walk.cut_history()
            last = i == path.stop
            x_next = sampler.x0_hat(i, eps_hat, x) if last else walk.step(i, eps_hat, x, noise)
        if i >= first:
            tape.steps[i] = _Step(x, eps_hat, memory, x_next, None if last else walk.history)
        x = x_next
    tape.x_out = x.detach()
    _finite(tape.x_out, "the latent at the end of the rollout")
    return tape


def _score(model: BaseModel, x_out: torch.Tensor, loss: Loss) -> tuple[float, float, torch.Tensor]:
    """Pass B: loss, saturated share, and dL/dx_out (B, C, h, w)."""
    x_out = x_out.requires_grad_()
    with torch.enable_grad():
        images = model.decode(x_out)
        value = loss(images)
    _finite(value, "the loss")
    (cotangent,) = torch.autograd.grad(value, x_out)
    _finite(cotangent, "the loss gradient at the latent")
    saturated = ((images <= 0) | (images >= 1)).float().mean()
    return value.item(), saturated.item(), cotangent


def _sweep(
    model: BaseModel, sampler: Sampler, path: Path, tape: _Tape, cotangent: torch.Tensor, cond: torch.Tensor,
    uncond: torch.Tensor | None, kl: float,
) -> tuple[dict[int, torch.Tensor], float]:  # fmt: skip
    """Pass C: dL/deps_hat_i of the trained steps, whose U-Net gradients land in the adapter; and the penalty."""
    l_x = cotangent
    l_memory: torch.Tensor | None = None
    eps_grads: dict[int, torch.Tensor] = {}
    penalty = 0.0
    n_trained = path.n_trained(sampler.n_steps)
    for i in sorted(tape.steps, reverse=True):
        step = tape.steps.pop(i)  # its graph is freed with it
        g_x, g_eps, g_memory = _vjp(step, l_x, l_memory)
        if i in path.train:
            x = step.x.detach()
            if kl:
                # with the rollout's eps_hat_i the reference runs before the re-run's graph is alive, not beside it
                gap = step.eps_hat.detach() - _reference(model, sampler, i, x, cond, uncond)
                penalty += gap.square().mean((1, 2, 3)).sum().item() / n_trained
                g_eps = g_eps + 2 * kl / (n_trained * gap[0].numel()) * gap
            _finite(g_eps, f"the gradient at step {i}")
            eps_grads[i] = g_eps
            x.requires_grad_(path.through_input)
            with torch.enable_grad():
                eps_hat = predict_eps(model, sampler, i, x, cond, uncond)
            torch.autograd.backward([eps_hat], [g_eps])
            if path.through_input:
                assert x.grad is not None
                g_x = g_x + x.grad
        l_x, l_memory = g_x, g_memory
    return eps_grads, penalty


@torch.no_grad()
def _reference(
    model: BaseModel, sampler: Sampler, i: int, x: torch.Tensor, cond: torch.Tensor, uncond: torch.Tensor | None
) -> torch.Tensor:
    """eps_ref_i: the guided prediction with the adapter off."""
    with model.with_patch(Patch(adapter=False)):
        return predict_eps(model, sampler, i, x, cond, uncond)


def _vjp(
    step: _Step, l_x: torch.Tensor, l_memory: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(g_x, g_eps, g_memory): the scheduler step's transposed Jacobian at cotangents of its two results."""
    outputs, cotangents = [step.x_next], [l_x]
    if step.memory_next is not None and l_memory is not None:
        outputs.append(step.memory_next)
        cotangents.append(l_memory)
    inputs = [step.x, step.eps_hat] + ([] if step.memory is None else [step.memory])
    grads = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)  # a first-order step uses no memory
    g = [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, grads, strict=True)]
    return g[0], g[1], g[2] if len(g) > 2 else None


def rollout_cost(sampler: Sampler | SamplerSpec, path: Path, n_samples: int, kl: float = 0.0) -> Charge:
    """Exactly what the meters will count for one update of ``n_samples`` images: a forward for each executed step, a
    forward and a backward more for each trained one, and with L_kl the reference's forward; one decode and one reward
    call an image."""
    n_trained = path.n_trained(sampler.n_steps)
    rows = sampler.branches * n_samples
    fwd = rows * (path.n_executed(sampler.n_steps) + n_trained * (2 if kl else 1))
    bwd = rows * n_trained
    return Charge({
        "denoiser_fwd": fwd, "denoiser_bwd": bwd, "denoiser_u": fwd + 2 * bwd,
        "images": n_samples, "reward_calls": n_samples,
    })  # fmt: skip


def _finite(value: torch.Tensor, what: str) -> None:
    if not torch.isfinite(value).all():
        raise Diverged(f"{what} is not finite")
