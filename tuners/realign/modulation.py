"""Re-weighting attention modulation (RealignDiff, arXiv 2305.19599, eq. 8-10), as attention processors.

Symbols: q a pixel of the latent (query), k a text token or another pixel (key); m_i, s_i, l_i mask, score and local
caption of object i; tau the training timestep of the step.

    A' = softmax((Q K^T + S * M) / sqrt(d))                                                                   (eq. 8)
    M  = lambda_t R * M_pos * (1 - B) - lambda_t (1 - R) * M_neg * (1 - B)
    M_pos = max_k(Q K^T) - Q K^T,    M_neg = Q K^T - min_k(Q K^T)                                            (eq. 10)
    S_q = s_i where q is in m_i                                                                               (eq. 9)
    R_qk = 1 where q is in m_i and token k in l_i (cross-attention), or k in m_i too (self-attention)
    B    = the share of the picture that the region of k (cross) or of q (self) covers

The last two lines, lambda_t = w (tau / 1000)^5 and "the first steps only, the conditional rows only" are those of
DenseDiffusion (Kim et al., arXiv 2308.12964), which the paper extends: as printed, R is a vector over tokens and
B = Q K^T, which sends 1 - B out of [0, 1] and turns signs around.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from bench.core.errors import UserError

EXACT = ("AttnProcessor", "AttnProcessor2_0")
"""Processors that compute plain attention, which ours can stand in for."""


def modulate(product: torch.Tensor, R: torch.Tensor, S: torch.Tensor, B: torch.Tensor, strength: float) -> torch.Tensor:
    """Q K^T + S * M.

    Args:
        product: Q K^T, not yet divided by sqrt(d): (..., queries, keys).
        R: bool, broadcastable to it.
        S: scores, broadcastable to it.
        B: broadcastable to it.
        strength: lambda_t.
    """
    top, bottom = product.amax(-1, keepdim=True), product.amin(-1, keepdim=True)
    # R M_pos - (1 - R) M_neg: the distance to the row's largest or smallest product
    M = strength * (1 - B) * (torch.where(R, top, bottom) - product)
    return product + S * M


class Maps(NamedTuple):
    """R, S and B of eq. 8 for one attention layer, each broadcastable to (rows, 1, queries, keys)."""

    R: torch.Tensor
    S: torch.Tensor
    B: torch.Tensor


@dataclass(frozen=True, eq=False)
class Regions:
    """What is where in a batch of pictures, and which tokens speak of it; n objects, absent ones with empty masks."""

    masks: torch.Tensor
    """m: (rows, n, H, W) bool."""
    scores: torch.Tensor
    """s: (rows, n)."""
    tokens: torch.Tensor
    """l: (rows, n, L) bool."""
    outside: float
    """S where no mask is: 1 in eq. 9. R is 0 there for every key, so 1 flattens the attention of the background;
    0 leaves it alone."""

    @property
    def rows(self) -> int:
        return len(self.masks)

    def at(self, height: int, width: int) -> torch.Tensor:
        """m resized to an attention layer: (rows, n, height * width) bool, the value at each cell's centre."""
        small = F.interpolate(self.masks.float(), size=(height, width), mode="nearest-exact")
        return small.flatten(2) > 0.5

    def cross(self, height: int, width: int) -> Maps:
        """Pixels against text tokens."""
        m = self.at(height, width)
        R = torch.einsum("rnq,rnk->rqk", m.float(), self.tokens.float()) > 0
        return Maps(R[:, None], self._scores(m), R.float().mean(1)[:, None, None, :])

    def self(self, height: int, width: int) -> Maps:
        """Pixels against pixels."""
        m = self.at(height, width)
        R = torch.einsum("rnq,rnk->rqk", m.float(), m.float()) > 0
        return Maps(R[:, None], self._scores(m), R.float().mean(2)[:, None, :, None])

    def _scores(self, m: torch.Tensor) -> torch.Tensor:
        """S: (rows, 1, queries, 1); where masks overlap, the surest object counts."""
        s = torch.where(m, self.scores[:, :, None].to(m.device), -torch.inf).amax(1)
        return torch.where(m.any(1), s, self.outside)[:, None, :, None]


@dataclass(eq=False)
class Modulation:
    """The state that all processors of a U-Net share while one batch is sampled."""

    regions: Regions
    latent: tuple[int, int]
    """Height and width of the latents."""
    literal: bool = False
    """Whether B is Q K^T, as printed."""
    cross_strength: float = 0.0
    """lambda_t of text attention at the current step."""
    self_strength: float = 0.0
    """lambda_t of pixel attention at the current step."""
    _maps: dict[tuple[str, int], Maps] = field(default_factory=dict)

    def maps(self, kind: str, n_queries: int) -> Maps:
        """``kind`` is ``cross`` or ``self``."""
        key = (kind, n_queries)
        if key not in self._maps:
            height, width = layer_shape(*self.latent, n_queries)
            self._maps[key] = getattr(self.regions, kind)(height, width)
        return self._maps[key]


@lru_cache(maxsize=64)
def layer_shape(height: int, width: int, n: int) -> tuple[int, int]:
    """Height and width of an attention layer with n queries, in a U-Net that halves latents of (height, width).

    Raises:
        UserError: no such layer.

    >>> layer_shape(64, 96, 32 * 48)
    (32, 48)
    """
    h, w = height, width
    while h * w > n:
        h, w = -(-h // 2), -(-w // 2)
        if h * w == 1:
            break
    if h * w != n:
        raise UserError(f"an attention layer of {n} queries is no halving of {height} x {width} latents",
                        valid="a U-Net that samples down by factors of two")  # fmt: skip
    return h, w


class ModulatedAttention:
    """An attention processor: the softmax written out for the conditional rows, the last ``rows`` of a batch; the
    unconditional rows before them go the ordinary way."""

    def __init__(self, state: Modulation) -> None:
        self.state = state

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None, temb: torch.Tensor | None = None, *args: Any, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        """Hidden states (N, queries, C), text (N, L, D) or None for self-attention → (N, queries, C)."""
        kind = "self" if encoder_hidden_states is None else "cross"
        keys_from = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            keys_from = attn.norm_encoder_hidden_states(encoder_hidden_states)
        q, k, v = (_heads(attn, x) for x in (attn.to_q(hidden_states), attn.to_k(keys_from), attn.to_v(keys_from)))
        if attn.norm_q is not None:
            q, k = attn.norm_q(q), attn.norm_k(k)
        plain = len(q) - self.state.regions.rows
        out = self._modulated(kind, q[plain:], k[plain:], v[plain:])
        if plain:
            out = torch.cat([F.scaled_dot_product_attention(q[:plain], k[:plain], v[:plain]), out])
        out = out.transpose(1, 2).flatten(2).to(q.dtype)
        hidden: torch.Tensor = attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor
        return hidden

    def _modulated(self, kind: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(rows, heads, queries, d) → the same shape."""
        state = self.state
        wide = torch.promote_types(q.dtype, torch.float32)
        product = q.to(wide) @ k.to(wide).transpose(-1, -2)
        maps = state.maps(kind, q.shape[-2])
        B = product if state.literal else maps.B.to(wide)
        strength = state.cross_strength if kind == "cross" else state.self_strength
        product = modulate(product, maps.R, maps.S.to(wide), B, strength)
        weights = (product / math.sqrt(q.shape[-1])).softmax(-1)
        return weights.to(v.dtype) @ v


def _heads(attn: Any, x: torch.Tensor) -> torch.Tensor:
    """(N, length, heads * d) → (N, heads, length, d)."""
    split: torch.Tensor = x.view(*x.shape[:2], attn.heads, -1)
    return split.transpose(1, 2)


def install(unet: Any, state: Modulation) -> dict[str, Any]:
    """Puts our processors on all attention layers; returns the ones that were there, for ``unet.set_attn_processor``.

    Raises:
        UserError: a layer whose processor does more than plain attention.
    """
    before: dict[str, Any] = dict(unet.attn_processors)
    for name, processor in before.items():
        if type(processor).__name__ not in EXACT:
            raise UserError(f"{name} is a {type(processor).__name__}, which stage 2 cannot stand in for",
                            valid=" or ".join(EXACT), hint="unet.set_default_attn_processor()")  # fmt: skip
    unet.set_attn_processor({name: ModulatedAttention(state) for name in before})
    return before
