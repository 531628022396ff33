"""Meters: what a run spends, seen from outside the tuner. Hooks sit on the modules, so a call is counted however it was
made; a re-run or a checkpointed recomputation counts as it happens.

U-Net rows are branches x samples. FLOPs are measured once for each shape and charged per row, with attention as matrix
products, so that the figure is the same on every machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

from bench.core.contract import Reward
from bench.diffusion.models import BaseModel

ChargeFn = Callable[[str, float], None]
"""``Ledger.charge``: kind and amount."""

FlopTable = dict[Any, tuple[float, float]]
"""Module and shape of one row → FLOPs (forward, backward)."""


ONCE = ("steps", "device_s")
"""Kinds that do not add up over processes: an optimiser step is one step of all of them, and the clock of process 0
stands for every device (``Meters(world=...)``)."""


class Tally:
    """What one of several processes did in the unit in progress, before the others are told."""

    def __init__(self) -> None:
        self._amounts: dict[str, float] = {}

    def charge(self, kind: str, amount: float) -> None:
        self._amounts[kind] = self._amounts.get(kind, 0.0) + amount

    def take(self) -> dict[str, float]:
        """The amounts by kind; starts anew."""
        amounts, self._amounts = self._amounts, {}
        return amounts


def settle(charge: ChargeFn, tallies: Sequence[Mapping[str, float]]) -> None:
    """Charges what all processes did together, in order of rank: the same sums, bit for bit, in each of them."""
    for kind in dict.fromkeys(kind for tally in tallies for kind in tally):
        amounts = [tally.get(kind, 0.0) for tally in tallies]
        charge(kind, amounts[0] if kind in ONCE else sum(amounts))


class Meters:
    """Counts a model's U-Net, decoder, rewards, optimiser steps and time into a ledger.

    Args:
        charge: where amounts go.
        world: devices that the clock stands for.
        flops: figures measured by earlier meters on an equal model, shared and added to.
    """

    def __init__(
        self, model: BaseModel, charge: ChargeFn, *, world: int = 1, flops: FlopTable | None = None
    ) -> None:  # fmt: skip
        self._model = model
        self._charge = charge
        self._world = world
        self._paused = 0
        self._running_since: float | None = None
        self._active_s = 0.0
        self._flops: FlopTable = {} if flops is None else flops
        self._handles: list[Any] = []
        self._tiled = False

    def __enter__(self) -> Meters:
        unet, decoder = self._model.unet, self._model.vae.decoder
        self._handles = [
            # forwards count when they begin: a checkpoint's recomputation is cut short before it returns
            unet.register_forward_pre_hook(self._before_denoiser, with_kwargs=True),
            unet.register_forward_hook(self._after_denoiser, with_kwargs=True),
            decoder.register_forward_pre_hook(self._before_decoder),
            decoder.register_forward_hook(self._after_decoder),
            register_optimizer_step_post_hook(self._on_step),
        ]
        if hasattr(self._model.vae, "tiled_decode"):
            self._handles.append(_Wrapped(self._model.vae, "tiled_decode", self._on_tiles))
        if self._model.compiled:
            self._handles.append(_WhileCompiling(self.pause))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def charge(self, kind: str, amount: float) -> None:
        """Charges, unless off the clock."""
        if not self._paused:
            self._charge(kind, amount)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Off the clock and off the books: logging, checkpoints, evaluation."""
        self._stop_watch()
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1
            self._start_watch()

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Charges the active time inside as device-seconds: wall-clock, without pauses, times the devices."""
        self._active_s = 0.0
        self._running_since = self._now()
        try:
            yield
        finally:
            self._stop_watch()
            self._running_since = None
            self.charge("device_s", self._active_s * self._world)

    def metered_reward(self, reward: Reward) -> Reward:
        """The same reward; every image it scores is charged."""
        return _MeteredReward(reward, self)

    # -- clock

    def _now(self) -> float:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        return time.perf_counter()

    def _stop_watch(self) -> None:
        if self._running_since is not None and not self._paused:
            self._active_s += self._now() - self._running_since

    def _start_watch(self) -> None:
        if self._running_since is not None and not self._paused:
            self._running_since = self._now()

    # -- hooks

    def _denoiser_flops(self, unet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, float, float]:
        """Rows of a call, and the FLOPs of a row forward and backward."""
        n = int(_latents(args, kwargs).shape[0])
        # the row's own part of every input: latents first, a timestep for all rows or one for each, text, added ones
        leaves, tree = tree_flatten((args, dict(kwargs)))
        of_row = [k for k, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        inputs = [leaves[k].detach()[:1] if len(leaves[k]) == n else leaves[k].detach() for k in of_row]

        def one_row(*row: torch.Tensor) -> Any:
            row_args, row_kwargs = tree_unflatten(_replaced(leaves, dict(zip(of_row, row, strict=True))), tree)
            return _prediction(unet(*row_args, **row_kwargs))

        return n, *self._flops_per_row("unet", inputs, one_row)

    def _before_denoiser(self, unet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._paused:
            rows, fwd, _ = self._denoiser_flops(unet, args, kwargs)
            self.charge("denoiser_fwd", rows)
            self.charge("flops", fwd * rows)

    def _after_denoiser(self, unet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        prediction = _prediction(out)
        if not self._paused and prediction.requires_grad:
            rows, _, bwd = self._denoiser_flops(unet, args, kwargs)
            prediction.register_hook(lambda _: self._on_backward("denoiser_bwd", rows, bwd))

    def _on_tiles(self, decode: Callable[..., Any], z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """An image that is decoded tile by tile is one image; each tile's FLOPs count."""
        self.charge("images", 0 if self._model.repeating else z.shape[0])
        self._tiled = True
        try:
            return decode(z, *args, **kwargs)
        finally:
            self._tiled = False

    def _before_decoder(self, decoder: Any, args: tuple[Any, ...]) -> None:
        if not self._paused:
            fwd, _ = self._flops_per_row("decoder", [args[0][:1].detach()], decoder)
            self.charge("images", 0 if self._tiled or self._model.repeating else args[0].shape[0])
            self.charge("flops", fwd * args[0].shape[0])

    def _after_decoder(self, decoder: Any, args: tuple[Any, ...], out: Any) -> None:
        if not self._paused and out.requires_grad:
            _, bwd = self._flops_per_row("decoder", [args[0][:1].detach()], decoder)
            rows = args[0].shape[0]
            out.register_hook(lambda _: self._on_backward(None, rows, bwd))

    def _on_backward(self, kind: str | None, rows: int, flops: float) -> None:
        if kind is not None:
            self.charge(kind, rows)
        self.charge("flops", flops * rows)

    def _on_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.charge("steps", 1)

    def on_reward(self, inner: Reward, images: torch.Tensor, prompts: Sequence[str], out: Any) -> None:
        """Books one reward call on images (B, 3, H, W)."""
        if self._paused:
            return
        rows = images.shape[0]
        row = [images[:1].detach()]
        fwd, bwd = self._flops_per_row(f"reward {inner.name}", row, lambda x: inner.measure(x, prompts[:1]))
        self.charge("reward_calls", rows)
        self.charge("flops", fwd * rows)
        if out.requires_grad:
            out.register_hook(lambda _: self._on_backward(None, rows, bwd))

    def on_network(self, name: str, rows: int, one_row: Callable[[], object]) -> None:
        """Books ``rows`` rows of a tuner's own network, forward and backward together."""
        if self._paused:
            return
        key = ("network", name)
        if key not in self._flops:
            counter = FlopCounterMode(display=False)
            with self.pause(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
                one_row()
            self._flops[key] = (float(counter.get_total_flops()), 0.0)
        self.charge("flops", rows * self._flops[key][0])

    # -- FLOPs

    def _eager(self) -> AbstractContextManager[Any]:
        """Compiled code hides its operations from the counter."""
        return torch.compiler.set_stance("force_eager") if self._model.compiled else nullcontext()

    def _flops_per_row(
        self, name: str, row: list[torch.Tensor], call: Callable[..., torch.Tensor]
    ) -> tuple[float, float]:
        """(forward, backward) FLOPs of ``call`` on one row, measured once for each shape, off the books.

        Backward is to the first input and the adapter: autograd.grad, so no gradient is left behind.
        """
        key = (name, *(tuple(r.shape) for r in row))
        if key not in self._flops:
            first = row[0].clone().requires_grad_()
            # hooks of our own hide the measurement from a checkpoint that this call may be inside of
            mine = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
            with self.pause(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), mine, self._eager():
                with FlopCounterMode(display=False) as forward:
                    out = call(first, *row[1:])
                backward_flops = 0
                if out.requires_grad:
                    wanted = [first, *(p for p in self._model.adapter_parameters if p.requires_grad)]
                    with FlopCounterMode(display=False) as backward:
                        torch.autograd.grad(out.float().sum(), wanted, allow_unused=True)
                    backward_flops = backward.get_total_flops()
            self._flops[key] = (float(forward.get_total_flops()), float(backward_flops))
        return self._flops[key]


class _Wrapped:
    """A method of an object that another is called with instead, until ``remove``."""

    def __init__(self, owner: Any, name: str, by: Callable[..., Any]) -> None:
        self._owner, self._name = owner, name
        inner = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: by(inner, *args, **kwargs))

    def remove(self) -> None:
        delattr(self._owner, self._name)  # the class's own is there again


class _WhileCompiling:
    """Is inside ``pause`` while torch compiles, forward or backward, until ``remove``."""

    def __init__(self, pause: Callable[[], AbstractContextManager[None]]) -> None:
        from torch._dynamo.callback import callback_handler

        self._handler, self._pause = callback_handler, pause
        self._open: list[AbstractContextManager[None]] = []
        self._handler.register_start_callback(self._start)
        self._handler.register_end_callback(self._end)

    def _start(self, _: Any) -> None:
        self._open.append(self._pause())
        self._open[-1].__enter__()

    def _end(self, _: Any) -> None:
        self._open.pop().__exit__(None, None, None)

    def remove(self) -> None:
        self._handler.remove_start_callback(self._start)
        self._handler.remove_end_callback(self._end)


@contextmanager
def denoiser_rows(model: BaseModel) -> Iterator[Tally]:
    """Counts forwards of the U-Net inside, by sample and branch, as ``denoiser_fwd``: what sampling an image costs. No
    gradient, no FLOPs, so that nothing but sampling is in memory."""
    tally = Tally()

    def count(unet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        tally.charge("denoiser_fwd", _latents(args, kwargs).shape[0])

    handle = model.unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield tally
    finally:
        handle.remove()


def _latents(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Of a call of the denoiser, however they were passed: a U-Net's ``sample``, a transformer's ``hidden_states``."""
    given = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
    assert isinstance(given, torch.Tensor)
    return given


def _prediction(out: Any) -> Any:
    """The tensor in a denoiser's answer."""
    return out.sample if hasattr(out, "sample") else out[0]


def _replaced(leaves: Sequence[Any], by: Mapping[int, Any]) -> list[Any]:
    return [by.get(k, leaf) for k, leaf in enumerate(leaves)]


class _MeteredReward(Reward):
    """A reward whose every call is charged; it looks exactly like the one inside."""

    def __init__(self, inner: Reward, meters: Meters) -> None:
        self._inner = inner
        self._meters = meters
        for name in ("name", "differentiable", "minimise", "family", "unit", "licence", "weights_sha256", "input_px",
                     "value_range", "cost_gmac"):  # fmt: skip
            setattr(self, name, getattr(inner, name))

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        out = self._inner.measure(images, prompts)
        self._meters.on_reward(self._inner, images, prompts, out)
        return out

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        out = self._inner.score(images, prompts)
        self._meters.on_reward(self._inner, images, prompts, out)
        return out

    def n_truncated(self, prompts: Iterable[str]) -> int:
        return self._inner.n_truncated(prompts)

    def identity(self) -> Mapping[str, Any]:
        return self._inner.identity()
