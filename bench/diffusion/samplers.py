"""Samplers: diffusers' schedulers behind one step, and the algebra that reward gradients need.

Symbols: steps i = 0..T-1 in execution order, timesteps tau_i falling. At the source of step i: alpha = sqrt(abar),
sigma = sqrt(1 - abar), lambda = sigma / alpha. ``x`` is the sampler's latent; ``x_in = x / c_i`` is the U-Net's input,
variance-preserving for every sampler (c_i = 1, or sqrt(lambda^2 + 1) for Euler). ``eps_hat`` is the guided noise
prediction; x0_hat = (x_in - sigma eps_hat) / alpha.

Every sampler steps in eps: other parametrisations are converted first, so that a method defined by which predictions
carry gradient (DRTune) means the same for an eps- and a v-model (section 1.4).

A flow model (Esser et al., arXiv 2403.03206) draws a straight path, x = (1 - s) x0 + s eps, and predicts its velocity
v = eps - x0. At s = 1 no x0 follows from eps_hat, so that v_hat takes eps_hat's place in all that follows:
x' = x + (s' - s) v_hat and x0_hat = x - s v_hat, hence kappa = s' - s, and -s where a rollout stops early.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.core.errors import UserError
from bench.core.seeds import derive_seed
from bench.core.types import SamplerSpec
from bench.diffusion.models import BaseModel

SCHEDULERS = ("ddim", "ddpm", "euler", "euler-a", "dpmpp-2m")
FLOW_SCHEDULERS = ("flow-euler",)
"""Of flow models, which take no other."""


class Noise:
    """The noise of a batch: one seed a sample, one CPU generator a draw, named by (sample, step).

    An image therefore depends on no other image: not on the batch size, the order, or the device.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)

    def initial(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """x_T before scaling: (B, C, h, w), standard normal, drawn in float32 for every dtype."""
        draws = [torch.randn(shape, generator=_generator(seed, "init-noise", 0)) for seed in self.seeds]
        return torch.stack(draws).to(device, dtype)

    def at_step(self, i: int) -> list[torch.Generator]:
        """A fresh generator a sample for the noise that step i adds."""
        return [_generator(seed, "step-noise", i) for seed in self.seeds]


def _generator(root: int, purpose: str, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(root, purpose, step=step))


class Sampler:
    """A sampler setting on a model: checked once, then ``walk()`` gives a fresh stateful scheduler for each rollout."""

    def __init__(self, spec: SamplerSpec, scheduler_config: Mapping[str, Any], prediction_type: str) -> None:
        self.spec = spec
        self.prediction_type = prediction_type
        self._config = _checked_config(spec, scheduler_config)
        scheduler = self._scheduler()
        self.timesteps: torch.Tensor = scheduler.timesteps
        """(T,), falling; on the CPU."""
        self.c: torch.Tensor = torch.ones(spec.n_steps, dtype=torch.float64)
        if spec.scheduler in FLOW_SCHEDULERS:
            self.sigma: torch.Tensor = scheduler.sigmas[:-1].double()
            self.alpha: torch.Tensor = 1 - self.sigma
            return
        abar = scheduler.alphas_cumprod.double()
        if spec.scheduler in ("euler", "euler-a"):
            lam = scheduler.sigmas[:-1].double()
            self.c = (lam**2 + 1).sqrt()
        else:
            lam = ((1 - abar) / abar).sqrt()[self.timesteps]
            if spec.scheduler == "ddim":
                _check_ddim_grid(spec, self.timesteps, int(scheduler_config["num_train_timesteps"]))
        self.alpha = 1 / (lam**2 + 1).sqrt()
        self.sigma = lam * self.alpha

    @property
    def n_steps(self) -> int:
        return self.spec.n_steps

    @property
    def branches(self) -> int:
        """U-Net rows a sample costs at one step: 2 with guidance, 1 without."""
        return self.spec.branches

    def walk(self) -> Walk:
        return Walk(self, self._scheduler())

    def model_input(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """x_in of step i, differentiable in x."""
        return x / self.c[i]

    def eps(self, i: int, prediction: torch.Tensor, x_in: torch.Tensor) -> torch.Tensor:
        """The network's prediction as noise: eps itself, alpha v + sigma x_in, or (x_in - alpha x0) / sigma. The
        velocity of a flow model stays what it is."""
        if self.prediction_type == "v_prediction":
            return self.alpha[i] * prediction + self.sigma[i] * x_in
        if self.prediction_type == "sample":
            return (x_in - self.alpha[i] * prediction) / self.sigma[i]
        return prediction

    def x0_hat(self, i: int, eps_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The clean latent that (x_i, eps_hat) predict. Written out, as DPM++'s scheduler does not return it."""
        if self.spec.scheduler in FLOW_SCHEDULERS:
            return x - self.sigma[i] * eps_hat
        return (self.model_input(i, x) - self.sigma[i] * eps_hat) / self.alpha[i]

    def _scheduler(self) -> Any:
        with warnings.catch_warnings():
            # diffusers 0.42 calls np.array on a tensor, which NumPy 2 deprecates for torch's protocol
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            scheduler = _scheduler_class(self.spec.scheduler).from_config(self._config)
            scheduler.set_timesteps(self.spec.n_steps)
        return scheduler


class Walk:
    """One rollout's scheduler. Euler and DPM++ count their steps, so an instance is never used twice."""

    def __init__(self, sampler: Sampler, scheduler: Any) -> None:
        self.sampler = sampler
        self._scheduler = scheduler

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """x of step 0 from standard-normal noise (B, C, h, w)."""
        if self.sampler.spec.scheduler in FLOW_SCHEDULERS:
            return noise  # as the pipeline starts, also where its first s is below 1
        scaled: torch.Tensor = noise * self._scheduler.init_noise_sigma
        return scaled

    def step(self, i: int, eps_hat: torch.Tensor, x: torch.Tensor, noise: Noise) -> torch.Tensor:
        """x of step i + 1, with gradient to ``eps_hat`` and ``x`` where they carry it."""
        kind = self.sampler.spec.scheduler
        t: Any = self.sampler.timesteps[i]
        kwargs: dict[str, Any] = {}
        if kind == "ddim":
            kwargs["eta"] = self.sampler.spec.eta
        if kind in ("ddpm", "euler-a") or self.sampler.spec.eta > 0:
            kwargs["generator"] = noise.at_step(i)
        if kind in ("euler", "euler-a"):
            self._scheduler.scale_model_input(x.detach(), t)  # sets its step counter and a flag it insists on
        elif kind in ("ddim", "ddpm"):
            t = int(t)
        out: torch.Tensor = self._scheduler.step(eps_hat, t, x, return_dict=False, **kwargs)[0]
        return out

    def cut_history(self) -> torch.Tensor | None:
        """Makes what the scheduler remembers of earlier steps (DPM++ 2M: the last x0_hat) a leaf, and returns it.

        With it, a multistep sampler is a single-step one on the pair (x, memory), and the adjoint sweep covers both.
        """
        outputs = getattr(self._scheduler, "model_outputs", None)
        if not outputs or outputs[-1] is None:
            return None
        leaf: torch.Tensor = outputs[-1].detach().requires_grad_(torch.is_grad_enabled())
        outputs[-1] = leaf
        return leaf

    @property
    def history(self) -> torch.Tensor | None:
        """What the next step will remember of this one."""
        outputs = getattr(self._scheduler, "model_outputs", None)
        return outputs[-1] if outputs else None


def guide(eps_u: torch.Tensor, eps_c: torch.Tensor, w: float) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): eps_u + w (eps_c - eps_u)."""
    return eps_u + w * (eps_c - eps_u)


def predict_eps(
    model: BaseModel, sampler: Sampler, i: int, x: torch.Tensor, cond: torch.Tensor, uncond: torch.Tensor | None
) -> torch.Tensor:
    """eps_hat of step i (v_hat of a flow model): both branches in one U-Net call. Shapes: x (B, C, h, w), conditions
    (B, L, D)."""
    x_in = sampler.model_input(i, x)
    t = sampler.timesteps[i]
    if uncond is None:
        return sampler.eps(i, model.denoiser(x_in, t, cond), x_in)
    out_u, out_c = model.denoiser(torch.cat([x_in, x_in]), t, torch.cat([uncond, cond])).chunk(2)
    return guide(sampler.eps(i, out_u, x_in), sampler.eps(i, out_c, x_in), sampler.spec.guidance)


def conditions(model: BaseModel, sampler: Sampler, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(conditional, unconditional) text conditions, each (B, L, D); the second is None without guidance."""
    cond = model.encode_prompts(texts)
    return cond, None if sampler.branches == 1 else model.encode_prompts([""]).expand_as(cond)


def build_sampler(model: BaseModel, spec: SamplerSpec) -> Sampler:
    """The sampler ``spec`` on the model's own noise schedule.

    Raises:
        UserError: a scheduler we do not have or that is not for this kind of model, clipping or thresholding, or a
            step count that DDIM's grid cannot hold.
    """
    return Sampler(spec, model.scheduler_config, model.prediction_type)


def _scheduler_class(name: str) -> Any:
    import diffusers

    return {
        "ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler, "euler": diffusers.EulerDiscreteScheduler,
        "euler-a": diffusers.EulerAncestralDiscreteScheduler, "dpmpp-2m": diffusers.DPMSolverMultistepScheduler,
        "flow-euler": diffusers.FlowMatchEulerDiscreteScheduler,
    }[name]  # fmt: skip


def check_sampler(spec: SamplerSpec, scheduler_config: Mapping[str, Any]) -> None:
    """Refuses what no rollout can be made of; a plan asks it before anything is loaded.

    Raises:
        UserError: an unknown sampler, an eta or a step count out of range, clipping or thresholding, a DDIM grid that
            its own update does not follow.
    """
    _check_settings(spec, scheduler_config)
    n_train = int(scheduler_config["num_train_timesteps"])
    if spec.scheduler == "ddim" and n_train % spec.n_steps:  # a divisor of n_train always fits; others need a look
        Sampler(spec, scheduler_config, "epsilon")


def is_flow(scheduler_config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's config is that of a flow model."""
    return str(scheduler_config.get("_class_name", "")).startswith("FlowMatch")


def _check_settings(spec: SamplerSpec, scheduler_config: Mapping[str, Any]) -> None:
    fitting = FLOW_SCHEDULERS if is_flow(scheduler_config) else SCHEDULERS
    if spec.scheduler not in (*SCHEDULERS, *FLOW_SCHEDULERS):
        raise UserError(f"there is no sampler named {spec.scheduler!r}", valid=", ".join(fitting))
    if spec.scheduler not in fitting:
        raise UserError(f"{spec.scheduler} on a {'flow' if is_flow(scheduler_config) else 'diffusion'} model",
                        valid=", ".join(fitting))  # fmt: skip
    made_for = str(scheduler_config.get("_class_name", ""))
    if made_for.startswith("EDM"):
        raise UserError(f"the model's scheduler is a {made_for}, whose noise levels no sampler here has",
                        valid="models of the DDPM or the flow-matching family")  # fmt: skip
    if spec.eta and spec.scheduler != "ddim":
        raise UserError(f"eta = {spec.eta} with {spec.scheduler}", valid="eta belongs to ddim; others leave it 0")
    if not 0 <= spec.eta <= 1:
        raise UserError(f"eta = {spec.eta}", valid="0 (deterministic) to 1 (as DDPM)")
    # a latent has no range to clip to, and under clipping the gradient is no multiple of dr/dx (section 1.4)
    unset = set(scheduler_config.get("_use_default_values", ()))
    for key in ("use_dynamic_shifting", "stochastic_sampling", "invert_sigmas"):
        if is_flow(scheduler_config) and scheduler_config.get(key):
            raise UserError(f"the model's scheduler config sets {key}", valid=f"{key} false, as in SD3 and SD3.5")
    for key in ("clip_sample", "thresholding"):
        if scheduler_config.get(key) and key not in unset:
            raise UserError(
                f"the model's scheduler config sets {key}, which is wrong for latents and for reward gradients",
                valid=f"{key} false", hint=f'set "{key}": false in scheduler/scheduler_config.json',
            )  # fmt: skip
    n_train = int(scheduler_config["num_train_timesteps"])
    if not 1 <= spec.n_steps < n_train:
        raise UserError(f"n_steps = {spec.n_steps}", valid=f"1 to {n_train - 1}")


def _checked_config(spec: SamplerSpec, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's scheduler config for this sampler. Class names go, as each class takes what it knows."""
    _check_settings(spec, scheduler_config)
    unset = set(scheduler_config.get("_use_default_values", ()))
    # what the model's file leaves open is each scheduler's own default, as in diffusers (timestep_spacing, above all)
    config = {k: v for k, v in scheduler_config.items() if not k.startswith("_") and k not in unset}
    if is_flow(scheduler_config):
        return config
    config |= {"clip_sample": False, "thresholding": False, "prediction_type": "epsilon"}
    if spec.scheduler == "dpmpp-2m":
        config |= {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
        # PNDM's and DDIM's files carry a solver choice of their own under this name
        config.pop("solver_type", None)
    known = _scheduler_class(spec.scheduler)._get_init_keys(_scheduler_class(spec.scheduler))
    return {k: v for k, v in config.items() if k in known}


def _check_ddim_grid(spec: SamplerSpec, timesteps: torch.Tensor, n_train: int) -> None:
    """DDIM steps to tau - floor(N / T), whatever the next listed timestep is; refuse grids where the two differ."""
    tau = [int(t) for t in timesteps]
    stride = n_train // spec.n_steps
    if any(a - stride != b for a, b in itertools.pairwise(tau)):
        near = [n for n in range(2, 201) if n_train % n == 0]
        raise UserError(
            f"ddim with {spec.n_steps} steps visits timesteps that its own update does not step to",
            valid=f"a step count that divides {n_train}: {', '.join(map(str, near))}",
        )
