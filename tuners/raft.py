"""RAFT: Reward rAnked FineTuning (Dong et al., arXiv 2304.06767), algorithm 1.

Symbols: k images a prompt from the current model; r the reward, of which only the order counts; eps_theta the tuned
model, eps_ref the same with its adapter off; m mean squared noise error over C, h, w.

    repeat   draw k images for each prompt of the round with the current model and score them
             keep x* = argmax_j r(x_j, c) of each prompt
             for some updates:   L = mean over winners of m_theta(x*_t, t, eps) + kl_weight mean (eps_theta - eps_ref)^2

The reward is never differentiated, so any will do: a compressor, a caption model, a person. Each prompt of a round is
one unit, and so is each update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.core.afford import Need
from bench.core.budget import Charge
from bench.core.contract import Context, Patch, Phase, Report, Setup, setting
from bench.diffusion import adapters
from bench.diffusion.denoising import diffuse, noise_levels, predict, squared_error, target
from bench.diffusion.shuffle import Shuffle
from tuners.adapting import AdapterConfig, AdapterTuner
from tuners.pool import draw, draw_cost, score, score_cost


@dataclass(frozen=True)
class RAFTConfig(AdapterConfig):
    """RAFT's own settings."""

    k: int = setting(
        4, unit="images", source="algorithm 1: 1/k is kept", low=2, help="images a prompt, of which the best is kept"
    )  # fmt: skip
    prompts: int = setting(
        0, unit="prompts", source="algorithm 1: batch size b", low=0, help="prompts a round; 0 is four global batches"
    )  # fmt: skip
    updates: int = setting(
        0, unit="updates", source="ours", low=0,
        help="optimiser steps a round, each on a global batch of winners; 0 is two epochs of the round's",
    )  # fmt: skip
    kl_weight: float = setting(
        0.0, unit="", source="algorithm 1 with the KL penalty", low=0.0,
        help="weight of the squared difference between tuned and base noise predictions, at the winners",
    )  # fmt: skip


class RAFT(AdapterTuner):
    """Fine-tunes on the best of k images of the current model, round by round (Dong et al. 2023)."""

    name = "raft"
    version = 1
    paper = "Dong et al., RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment, arXiv 2304.06767"
    equations = "algorithm 1"
    deviations = (
        "the penalty is the squared difference of noise predictions at the winners, what the KL of two samplers' steps "
        "is made of; the paper lowers the reward by a log-likelihood ratio, which a diffusion model does not give",
        "k, prompts and updates a round are ours: the paper's are for language models or not stated for a budget",
        "winners of earlier rounds are dropped, as in algorithm 1",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"black-box-reward", "images"})
    Config = RAFTConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"raft": {}, "raft-kl": {"kl_weight": 1.0}}
    check_settings: ClassVar[Mapping[str, Any]] = {"prompts": 2, "k": 2, "updates": 2}

    def __init__(self, config: RAFTConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        self.n_prompts = prompts_a_round(config, ctx.global_batch)
        self.updates = config.updates or max(1, 2 * self.n_prompts // ctx.global_batch)
        self.n_timesteps = len(noise_levels(ctx.model)[0])
        self.round = 0
        self.winners: list[tuple[str, torch.Tensor]] = []
        """(prompt, clean latent (C, h, w)) kept so far in this round."""
        self.trained = 0
        """Updates done in this round."""
        self._order = self._shuffle()

    @classmethod
    def first_update(cls, config: Any, setup: Setup) -> list[Need]:
        D, k = prompts_a_round(config, setup.global_batch), config.k
        n = D * k
        images = Need(
            f"a round's prompts x k = {D} x {k} images", draw_cost(setup.train_sampler, n) + score_cost(n),
            "fewer prompts or a smaller k, prompts x k is at most {room}", n, least=2,
        )  # fmt: skip
        return [images, Need("an update", update_cost(config, setup.global_batch))]

    def phases(self) -> list[Phase]:
        # what comes before the first update is a phase of its own, as the contract asks
        first = Phase("first-images", self.unit, lambda: self.round > 0 or not self.drawing, self.next_cost)
        return [first, Phase("rounds", self.unit, lambda: False, self.next_cost)]

    @property
    def drawing(self) -> bool:
        return len(self.winners) < self.n_prompts

    def next_cost(self) -> Charge:
        if self.drawing:
            return draw_cost(self.ctx.sampler, self.config.k) + score_cost(self.config.k)
        return update_cost(self.config, self.ctx.global_batch)

    def unit(self) -> Report:
        """The best of k images of the round's next prompt, or one optimiser step on the round's winners."""
        if self.drawing:
            return self.add_winner()
        scalars = self.accumulate()
        report = Report({**scalars, **self.step(), "round": self.round})
        self.trained += 1
        if self.trained == self.updates:
            self.round, self.winners, self.trained = self.round + 1, [], 0
            self._order = self._shuffle()
        return report

    def add_winner(self) -> Report:
        """Draws k images of one prompt with the current model and keeps the best."""
        ctx, p, k = self.ctx, len(self.winners), self.config.k
        text = ctx.prompts(self.round, self.n_prompts)[p].text
        seeds = [ctx.seed("raft-draw", round=self.round, prompt=p, image=j) for j in range(k)]
        latents = draw(ctx, [text] * k, seeds, Patch())
        r = score(ctx, latents, [text] * k)
        self.winners.append((text, latents[int(r.argmax())].clone()))
        return Report({"reward": r.mean().item(), "reward_best": r.max().item(), "round": self.round}, n_steps=0)

    def accumulate(self) -> dict[str, float]:
        """Adds the gradient of L over a global batch of winners, micro-batch by micro-batch; returns what to log."""
        ctx, B = self.ctx, self.ctx.global_batch
        model = ctx.model
        mine = ctx.share(B)
        sums = {"loss": 0.0, "m": 0.0} | ({"kl": 0.0} if self.config.kl_weight else {})
        for lo in range(0, len(mine), ctx.micro_batch):
            drawn = [self.draw(k) for k in mine[lo : lo + ctx.micro_batch]]
            cond = model.encode_prompts([text for text, *_ in drawn])
            x0, t, eps = (torch.stack(parts).to(model.device) for parts in list(zip(*drawn, strict=True))[1:])
            x_t = diffuse(model, x0, t, eps)
            terms = {}
            if self.config.kl_weight:
                with torch.no_grad(), adapters.disabled(model.unet):
                    ref = predict(model, x_t, t, cond)
            eps_hat = predict(model, x_t, t, cond)
            loss = terms["m"] = squared_error(target(model, x0, eps), eps_hat)
            if self.config.kl_weight:
                terms["kl"] = squared_error(ref, eps_hat)
                loss = loss + self.config.kl_weight * terms["kl"]
            torch.autograd.backward([loss.sum() / B])
            for name, term in {"loss": loss, **terms}.items():
                sums[name] += term.detach().sum().item() / len(mine)
        return sums

    def draw(self, k: int) -> tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(prompt, x*, t, eps) of the update's k-th winner: a seeded shuffle of the round's winners, epoch by epoch."""
        text, x0 = self.winners[self._order(self.trained * self.ctx.global_batch + k)]
        rng = self.ctx.rng("raft", update=self.update, sample=k)
        t = torch.randint(self.n_timesteps, (), generator=rng)
        return text, x0, t, torch.randn(x0.shape, generator=rng).to(x0)

    def _shuffle(self) -> Shuffle:
        """The order of this round's winners."""
        return Shuffle(
            self.n_prompts, lambda epoch: self.ctx.rng("raft-order", round=self.round, epoch=epoch)
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(), "round": self.round, "winners": list(self.winners), "trained": self.trained,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.round, self.trained = int(state["round"]), int(state["trained"])
        self.winners = [(str(text), x0) for text, x0 in state["winners"]]
        self._order = self._shuffle()


def prompts_a_round(config: RAFTConfig, global_batch: int) -> int:
    return config.prompts or 4 * global_batch


def update_cost(config: RAFTConfig, n: int) -> Charge:
    """Exactly what one update of ``n`` winners costs: 3 U each, 4 U with the penalty's reference forward."""
    fwd = n * (2 if config.kl_weight else 1)
    return Charge({"denoiser_fwd": fwd, "denoiser_bwd": n, "denoiser_u": fwd + 2 * n, "steps": 1})
