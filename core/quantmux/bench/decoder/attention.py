"""Attention of the decoders, around linears that somebody else makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from quantmux.bench.decoder.norm import RmsNorm, rotate
from quantmux.layers.linear import Linear
from quantmux.layers.shared import shared_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from quantmux.bench.decoder.shapes import Gqa, Mla

Cache = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Keys and values bf16 [M, kv_heads, length, head_dim], and int64 [1]: where a token's go."""


class GroupedAttention(nn.Module):
    """Qwen3's attention: a norm on every head of q and k, rotation, SDPA.

    Args:
        shape: Heads.
        linears: ``qkv``, or ``q``, ``k`` and ``v``; and ``o``.
        eps: Of the norms.
        device: Where the norms lie.
        attends: See `Form`.
        shares: Likewise.
    """

    def __init__(
        self,
        shape: Gqa,
        linears: Mapping[str, nn.Module],
        eps: float,
        device: torch.device,
        *,
        attends: bool,
        shares: bool = False,
    ) -> None:
        super().__init__()
        self.first = None if "qkv" in linears else _first(linears, "qkv", shares=shares)
        self.linears = nn.ModuleDict(linears)
        self.q_norm = RmsNorm(shape.head_dim, eps, device)
        self.k_norm = RmsNorm(shape.head_dim, eps, device)
        self.heads, self.kv_heads, self.dim = shape.heads, shape.kv_heads, shape.head_dim
        self.attends = attends

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: Cache | None
    ) -> torch.Tensor:
        """Give the attention's output [M, hidden]; arguments as `Decoder.forward`."""
        m, heads, kv_heads, dim = x.shape[0], self.heads, self.kv_heads, self.dim
        if self.first is None:
            parts = (heads * dim, kv_heads * dim, kv_heads * dim)
            q, k, v = self.linears["qkv"](x).split(parts, dim=-1)
        else:
            q, k, v = self.first(x)
        q = rotate(self.q_norm(q.reshape(m, heads, dim)), cos, sin)
        k = rotate(self.k_norm(k.reshape(m, kv_heads, dim)), cos, sin)
        v = v.reshape(m, kv_heads, dim)
        if not self.attends:
            many = heads // kv_heads
            k, v = (part.repeat_interleave(many, dim=1) for part in (k, v))
            y = read_itself(q, k, v)
        elif cache is None:
            y = _over_prompt(q, k, v)
        else:
            y = _over_cache(q, k, v, cache)
        out: torch.Tensor = self.linears["o"](y.reshape(m, heads * dim))
        return out


class LowRankAttention(nn.Module):
    """DeepSeek-V3's projections; attention itself is left out, see `read_itself`.

    Args:
        shape: Heads and ranks.
        linears: ``qkv_a``, or ``q_a`` and ``kv_a``; ``q_b``, ``kv_b`` and ``o``.
        eps: Of the norms.
        device: Where the norms lie.
        shares: See `Form`.
    """

    def __init__(
        self,
        shape: Mla,
        linears: Mapping[str, nn.Module],
        eps: float,
        device: torch.device,
        *,
        shares: bool = False,
    ) -> None:
        super().__init__()
        self.first = None if "qkv_a" in linears else _first(linears, ("q_a", "kv_a"), shares=shares)
        self.linears = nn.ModuleDict(linears)
        self.q_norm = RmsNorm(shape.q_rank, eps, device)
        self.kv_norm = RmsNorm(shape.kv_rank, eps, device)
        self.shape = shape

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: Cache | None
    ) -> torch.Tensor:
        """Give the attention's output [M, hidden]; arguments as `Decoder.forward`."""
        del cache  # nothing is read over, so nothing is kept
        s, m, linears = self.shape, x.shape[0], self.linears
        if self.first is None:
            parts = (s.q_rank, s.kv_rank, s.rope_dim)
            low_q, low_kv, k_rope = linears["qkv_a"](x).split(parts, dim=-1)
        else:
            low_q, low = self.first(x)
            low_kv, k_rope = low[:, : s.kv_rank], low[:, s.kv_rank :]
        q = linears["q_b"](self.q_norm(low_q)).reshape(m, s.heads, s.nope_dim + s.rope_dim)
        kv = linears["kv_b"](self.kv_norm(low_kv)).reshape(m, s.heads, s.nope_dim + s.v_dim)
        q_nope, q_rope = q.split((s.nope_dim, s.rope_dim), dim=-1)
        k_nope, v = kv.split((s.nope_dim, s.v_dim), dim=-1)
        k_rope = rotate(k_rope.unsqueeze(1), cos, sin).expand(m, s.heads, s.rope_dim)
        q = torch.cat((q_nope, rotate(q_rope, cos, sin)), dim=-1)
        k = torch.cat((k_nope, k_rope), dim=-1)
        out: torch.Tensor = linears["o"](read_itself(q, k, v).reshape(m, s.heads * s.v_dim))
        return out


def read_itself(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Give attention over two keys, the token's own and a null key of score and value 0.

    It stands where attention is left out: a few elementwise operations that need q, k and v, so
    that no compiler takes the linears away that made them.

    Args:
        q: [M, heads, dim].
        k: [M, heads, dim].
        v: [M, heads, v_dim].
    """
    score = (q * k).sum(dim=-1, keepdim=True) * q.shape[-1] ** -0.5
    return torch.sigmoid(score) * v


def _first(
    linears: Mapping[str, nn.Module], names: Iterable[str], *, shares: bool
) -> Callable[[torch.Tensor], Sequence[torch.Tensor]]:
    """Give the linears that read the same x as one function of it."""
    layers = [linears[name] for name in names]
    ours = [layer for layer in layers if isinstance(layer, Linear)]
    if shares and len(ours) == len(layers):
        return shared_input(ours)
    return lambda x: [layer(x) for layer in layers]


def _over_prompt(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Give causal attention of one prompt; tensors [M, heads, dim]."""
    q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in (q, k, v))
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return y.squeeze(0).transpose(0, 1)


def _over_cache(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Give attention of one token of each sequence over its cache, after writing its own to it."""
    keys, values, at = cache
    keys[:, :, at] = k.unsqueeze(2)
    values[:, :, at] = v.unsqueeze(2)
    # the query heads of a group are as many queries of one key head: all see the whole cache
    grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[2])
    y = functional.scaled_dot_product_attention(grouped, keys, values)
    return y.reshape(q.shape)
