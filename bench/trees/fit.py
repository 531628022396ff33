"""Fitting the tree to pairs: "random sample ensemble" training, TreeReward section 5.1.

A pair of dimension j trains trunk, gate and leaf j, and nothing else:

    L = CE(b(j), G(x)) + BT_j      CE over both members of the pair                                        (eq. 4, 6)
    BT_j = -log sigma(r_j(x_w, y_w) - r_j(x_l, y_l))                                                           (eq. 2)

Eq. 5 prints log(sigma(r_w) - sigma(r_l)) for BT_j, which is NaN for every pair that is ranked wrongly; the text refers
to eq. 2. Callable without a tuner: everything a run would add comes in as a plain function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from bench.core.errors import Diverged
from bench.trees.dimensions import BRANCH_OF, BRANCHES, DIMENSIONS
from bench.trees.feedback import Batch, Feedback
from bench.trees.model import RewardTree

EVAL_BATCH = 32
"""Pairs a forward when held-out data is read."""


@dataclass(frozen=True)
class FitPlan:
    """How long and how fast; nothing of it is stated in the paper."""

    steps: int
    """Optimiser steps."""
    batch: int = 16
    """Pairs a step, over all processes."""
    micro_batch: int = 16
    """Pairs a forward."""
    lr: float = 1e-3
    """Peak, after a linear warm-up over 5 % of the steps; then linear to 0."""
    trunk_lr: float = 0.1
    """Of ``lr``, for weights that the backbone brings along."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest gradient norm."""


class Charge(Protocol):
    """``bench.core.contract.Context.charge_flops``."""

    def __call__(self, name: str, rows: int, one_row: Callable[[], object]) -> None: ...


def pair_losses(model: RewardTree, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(BT_j, CE, margin) of each pair, (n,) each; CE is zero without a gate, margin = f_w - f_l.

    Args:
        model: any structure.
        batch: n pairs of any dimensions; each is scored along its own path only.
    """
    n = len(batch)
    bt, ce, margin = (batch.images.new_zeros(n) for _ in range(3))
    groups: dict[int, list[int]] = {}
    for i, j in enumerate(batch.dimensions):
        groups.setdefault(model.trunk_of(j), []).append(i)
    for t, members in groups.items():
        points = [*members, *(n + i for i in members)]
        h = model.trunks[t](batch.images[points], [batch.texts[p] for p in points])
        h_w, h_l = h.chunk(2)
        for j in sorted({batch.dimensions[i] for i in members}):
            of_j = [k for k, i in enumerate(members) if batch.dimensions[i] == j]
            at = [members[k] for k in of_j]
            leaf = model.leaves[model.leaf_of(j)]
            f_w, f_l = leaf(h_w[of_j])[:, 0], leaf(h_l[of_j])[:, 0]
            margin = margin.index_put((torch.tensor(at, device=margin.device),), f_w - f_l)
            bt = bt.index_put((torch.tensor(at, device=bt.device),), F.softplus(f_l - f_w))
        if model.gate is not None:
            b = torch.tensor([BRANCH_OF[batch.dimensions[i]] for i in members], device=h.device)
            both = F.cross_entropy(model.gate(h), torch.cat([b, b]), reduction="none")
            ce = ce.index_put((torch.tensor(members, device=ce.device),), both.view(2, -1).mean(0))
    return bt, ce, margin


class Fit:
    """One fit in progress: a few optimiser steps at a time, resumable after each call.

    Args:
        seed: a number for each named draw, such as ``functools.partial(derive_seed, root)``.
        share: this process's part of a batch of n pairs.
        all_reduce: sums gradients over processes in place.
        charge: books FLOPs; None counts nothing.
    """

    def __init__(
        self, model: RewardTree, feedback: Feedback, plan: FitPlan, seed: Callable[..., int], *,
        share: Callable[[int], range] = range, all_reduce: Callable[[Sequence[torch.Tensor]], None] = lambda _: None,
        charge: Charge = lambda name, rows, one_row: None,
    ) -> None:  # fmt: skip
        self.model = model
        self.feedback = feedback
        self.plan = plan
        self.step = 0
        self._seed = seed
        self._share = share
        self._all_reduce = all_reduce
        self._charge = charge
        self._pairs_of: list[list[list[int]]] | None = None
        self._trained = [p for p in model.parameters() if p.requires_grad]
        old = [p for p in model.pretrained() if p.requires_grad]
        known = {id(p) for p in old}
        new = [p for p in self._trained if id(p) not in known]
        self._optimizer = torch.optim.AdamW(
            [{"params": new, "peak": plan.lr}, {"params": old, "peak": plan.lr * plan.trunk_lr}],
            lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.weight_decay,
        )  # fmt: skip

    @property
    def done(self) -> bool:
        return self.step >= self.plan.steps

    def advance(self, n_steps: int) -> dict[str, float]:
        """Takes up to ``n_steps`` optimiser steps; returns the means of their losses and accuracies.

        Raises:
            Diverged: the gradient is not finite.
        """
        totals: dict[str, float] = {}
        n = min(n_steps, self.plan.steps - self.step)
        for _ in range(n):
            for key, value in self._one_step().items():
                totals[key] = totals.get(key, 0.0) + value / n
        return totals

    def _one_step(self) -> dict[str, float]:
        plan, indices = self.plan, self._draw(self.step)
        mine = self._share(len(indices))
        sums = torch.zeros(3)
        for lo in range(0, len(mine), plan.micro_batch):
            batch = self.feedback.batch([indices[k] for k in mine[lo : lo + plan.micro_batch]])
            self._charge_rows("fit", batch, train=True)
            bt, ce, margin = pair_losses(self.model, batch)
            torch.autograd.backward([(bt + ce).sum() / len(indices)])
            sums += torch.stack([bt.sum(), ce.sum(), (margin > 0).float().sum()]).detach().cpu()
        norm = self._update({self.feedback.dimension(i) for i in indices})
        bt_mean, ce_mean, right = (sums / max(len(mine), 1)).tolist()
        gate = {"gate_loss": ce_mean} if self.model.gate is not None else {}
        return {"leaf_loss": bt_mean, "pair_accuracy": right, "fit_grad_norm": norm, **gate}

    def _draw(self, step: int) -> list[int]:
        """The pairs of a step: branches in turn, so that the gate has no prior; within one, dimensions in turn; of a
        dimension, a random pair."""
        rng = torch.Generator().manual_seed(self._seed("fit-batch", step=step))
        pools = self._pools()
        chosen = []
        for k in range(step * self.plan.batch, (step + 1) * self.plan.batch):
            branch = pools[k % len(pools)]
            pool = branch[k // len(pools) % len(branch)]
            chosen.append(pool[int(torch.randint(len(pool), (), generator=rng))])
        return chosen

    def _pools(self) -> list[list[list[int]]]:
        """Training pairs by branch and dimension, as far as there are any."""
        if self._pairs_of is None:
            found: dict[int, dict[int, list[int]]] = {}
            for i in self.feedback.train():
                j = self.feedback.dimension(i)
                found.setdefault(BRANCH_OF[j], {}).setdefault(j, []).append(i)
            self._pairs_of = [[found[b][j] for j in sorted(found[b])] for b in sorted(found)]
        return self._pairs_of

    def _update(self, dimensions: set[int]) -> float:
        """One AdamW step on the paths of ``dimensions``; other leaves have no gradient and stay as they are."""
        active = {id(p) for j in dimensions for p in self.model.path(j)}
        live = [p for p in self._trained if id(p) in active]
        for p in live:
            if p.grad is None:  # another process's pairs may have reached it
                p.grad = torch.zeros_like(p)
        self._all_reduce([p.grad for p in live if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(live, self.plan.clip).item()
        if not torch.isfinite(torch.tensor(norm)):
            raise Diverged(f"the gradient norm of fit step {self.step} is {norm}")
        warmup = max(1, self.plan.steps // 20)
        factor = min((self.step + 1) / warmup, 1.0) * (1 - self.step / self.plan.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return norm

    def _charge_rows(self, what: str, batch: Batch, *, train: bool) -> None:
        model, j = self.model, batch.dimensions[0]
        image, text = batch.images[:1], batch.texts[:1]

        def one_row() -> None:
            if not train:
                with torch.no_grad():
                    model.raw(image, text)
                return
            f, gate = model.along(j, image, text)
            parameters = model.path(j)
            torch.autograd.grad(f.sum() + (0 if gate is None else gate.sum()), parameters, allow_unused=True)

        key = f"tree {what} {model.structure} {model.trunk.digest} {tuple(image.shape)}"
        self._charge(key, len(batch.texts), one_row)

    # -- held-out data

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Standardises the leaves on held-out points and freezes the model; returns its card.

        mean_k and sd_k are over all held-out points, of whatever dimension and side: the soft-min compares leaves, so
        they are put on one scale by the same pictures.
        """
        model, held = self.model, self.feedback.held_out()
        mine = self._share(len(held))
        f = model.mean.new_zeros(len(held), 2, len(model.names))
        gate = model.mean.new_zeros(len(held), 2, len(BRANCHES))
        for lo in range(mine.start, mine.stop, EVAL_BATCH):
            part = range(lo, min(lo + EVAL_BATCH, mine.stop))
            batch = self.feedback.batch([held[k] for k in part])
            self._charge_rows("read", batch, train=False)
            f_part, gate_part = model.raw(batch.images, batch.texts)
            f[part] = f_part.view(2, len(part), -1).transpose(0, 1)
            if gate_part is not None:
                gate[part] = gate_part.view(2, len(part), -1).transpose(0, 1)
        self._all_reduce([f, gate])  # each pair was read by one process and is zero in all others
        sd, mean = torch.std_mean(f.double().flatten(0, 1), dim=0, correction=0)
        model.mean.copy_(mean)
        model.sd.copy_(sd.clamp_min(1e-6))
        model.requires_grad_(False)
        return self._card(held, f.cpu(), gate.cpu() if model.gate is not None else None)

    def _card(self, held: Sequence[int], f: torch.Tensor, gate: torch.Tensor | None) -> dict[str, Any]:
        """Of raw leaves (n, 2, K) and gate logits (n, 2, 2) of held-out pairs, winners first."""
        model, js = self.model, [self.feedback.dimension(i) for i in held]
        right = [float(f[i, 0, model.leaf_of(j)] > f[i, 1, model.leaf_of(j)]) for i, j in enumerate(js)]
        of = {DIMENSIONS[j]: [r for r, own in zip(right, js, strict=True) if own == j] for j in sorted(set(js))}
        card: dict[str, Any] = {
            "structure": model.structure, "steps": self.step, "backbone": model.trunk.digest,
            "n_train": len(self.feedback.train()), "n_held_out": len(held), "pairs": self.feedback.counts(),
            "pair_accuracy": {name: sum(v) / len(v) for name, v in of.items()},
            "mean": dict(zip(model.names, model.mean.tolist(), strict=True)),
            "sd": dict(zip(model.names, model.sd.tolist(), strict=True)),
        }  # fmt: skip
        if gate is None:
            return card
        log_w = torch.log_softmax(gate, dim=-1)
        b = torch.tensor([BRANCH_OF[j] for j in js])
        named = torch.stack([log_w[:, 0].argmax(-1), log_w[:, 1].argmax(-1), log_w.sum(1).argmax(-1)])
        # mean of both branches' shares: a gate that always names the same one gets 0.5
        winner, loser, pair = (named == b).float().T[b == 0].mean(0).add((named == b).float().T[b == 1].mean(0)).div(2)
        # a winner of one branch may look just like a winner of the other; a pair shows its loser as well
        card["gate_accuracy"] = {
            "winner": winner.item(), "loser": loser.item(), "point": (winner + loser).item() / 2, "pair": pair.item()
        }  # fmt: skip
        card["gate_entropy"] = -(log_w.exp() * log_w).sum(-1).mean().item()
        return card

    # -- resume

    def state_dict(self) -> dict[str, Any]:
        """Step, everything that trains, and the optimiser."""
        return {"step": self.step, "model": trained_state(self.model), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])
        load_trained_state(self.model, state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


def trained_state(model: RewardTree) -> dict[str, torch.Tensor]:
    """Copies of all tensors that fitting changes; frozen layers of the backbone are on disk anyway."""
    frozen = model.frozen
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items() if k not in frozen}


def load_trained_state(model: RewardTree, state: Mapping[str, torch.Tensor]) -> None:
    """Inverse of ``trained_state``, on a model of the same structure and backbone."""
    model.load_state_dict({**model.state_dict(), **state})
