"""The same update as ``bench.diffusion.rollout``, as one autograd graph over the whole rollout: the naive way, which
tests and the benchmark compare the engine with."""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from bench.core.contract import Patch
from bench.diffusion.models import BaseModel
from bench.diffusion.rollout import Loss, Outcome, Path
from bench.diffusion.samplers import Noise, Sampler, conditions, predict_eps


def full_graph_gradients(
    model: BaseModel, sampler: Sampler, path: Path, texts: Sequence[str], noise: Noise, loss: Loss,
    resolution: int | None = None, kl: float = 0.0, checkpointed: bool = False,
) -> Outcome:  # fmt: skip
    """``bench.diffusion.rollout.accumulate_gradients`` without its passes; memory grows with |S|.

    Args:
        checkpointed: keep of each trained U-Net call its input only and run it again in the backward, AlignProp's way.
    """
    predict: Any = functools.partial(checkpoint, predict_eps, use_reentrant=False) if checkpointed else predict_eps
    cond, uncond = conditions(model, sampler, texts)
    walk = sampler.walk()
    x = walk.start(noise.initial(model.latent_shape(resolution), model.dtype, model.device))
    gaps: list[torch.Tensor] = []
    for i in range(path.n_executed(sampler.n_steps)):
        with torch.set_grad_enabled(i in path.train):
            eps_hat = predict(model, sampler, i, x if path.through_input else x.detach(), cond, uncond)
        if kl and i in path.train:
            with torch.no_grad(), model.with_patch(Patch(adapter=False)):
                eps_ref = predict_eps(model, sampler, i, x, cond, uncond)
            gaps.append((eps_hat - eps_ref).square().mean((1, 2, 3)).sum())
        x = sampler.x0_hat(i, eps_hat, x) if i == path.stop else walk.step(i, eps_hat, x, noise)
    images = model.decode(x)
    value = loss(images)
    saturated = ((images <= 0) | (images >= 1)).float().mean().item()
    penalty = torch.stack(gaps).mean() if gaps else torch.zeros(())
    torch.autograd.backward([value + kl * penalty])
    return Outcome(value.item(), saturated, {}, x.detach(), penalty.item())


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors that operations make inside a block: ``peak`` bytes alive at once, each storage once.

    Unlike ``SavedBytes`` it sees what a checkpoint keeps while it recomputes, and what no graph holds.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            key, n_bytes = storage.data_ptr(), storage.nbytes()
            if n_bytes and key not in given and key not in self._seen:
                self._alive += n_bytes
                self.peak = max(self.peak, self._alive)
                self._seen[key] = weakref.ref(storage, functools.partial(self._gone, key, n_bytes))
        return out

    def _gone(self, key: int, n_bytes: int, _: object) -> None:
        self._alive -= n_bytes
        del self._seen[key]


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class SavedBytes:
    """Counts what autograd keeps for backward inside a block: ``peak`` bytes alive at once, each storage once.

    Parameters are left out: they are kept anyway.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._alive = 0
        self._uses: Counter[int] = Counter()
        self._hooks: Any = None

    def __enter__(self) -> SavedBytes:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.__exit__(*exc)

    def _pack(self, tensor: torch.Tensor) -> _Kept:
        return _Kept(tensor, None if isinstance(tensor, torch.nn.Parameter) else self)

    def keep(self, key: int, n_bytes: int) -> None:
        self._uses[key] += 1
        if self._uses[key] == 1:
            self._alive += n_bytes
            self.peak = max(self.peak, self._alive)

    def free(self, key: int, n_bytes: int) -> None:
        self._uses[key] -= 1
        if self._uses[key] == 0:
            self._alive -= n_bytes


class _Kept:
    """A saved tensor that tells its counter when the graph lets go of it."""

    def __init__(self, tensor: torch.Tensor, counter: SavedBytes | None) -> None:
        storage = tensor.untyped_storage()
        self.tensor = tensor
        self._counter = counter
        self._key, self._n_bytes = storage.data_ptr(), storage.nbytes()
        if counter is not None:
            counter.keep(self._key, self._n_bytes)

    def __del__(self) -> None:
        if self._counter is not None:
            self._counter.free(self._key, self._n_bytes)
