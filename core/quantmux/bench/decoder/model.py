"""The decoder in plain PyTorch: whoever makes its linears decides in which numbers it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from quantmux.bench.decoder.attention import GroupedAttention, LowRankAttention
from quantmux.bench.decoder.norm import RmsNorm
from quantmux.bench.decoder.shapes import Gqa

if TYPE_CHECKING:
    from quantmux.bench.decoder.attention import Cache
    from quantmux.bench.decoder.shapes import DecoderShape

MakeLinear = Callable[[str, int, int], nn.Module]
"""Name, N, K → a module that takes x [M, K] and gives y [M, N]."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a decoder is put together.

    Attributes:
        merged: q, k and v (or q_a and kv_a) are one linear, as servers merge them.
        shares: Quantized linears that are not merged and read one x share its quantized form by
            `quantmux.shared_input`.
        attends: Attention reads a cache, or the whole prompt; else a token reads itself and a
            null key. Low-rank attention always does the latter.
    """

    merged: bool = True
    attends: bool = True
    shares: bool = False


class Mlp(nn.Module):
    """``down(silu(gate) · up)`` with gate and up merged into one linear."""

    def __init__(self, gate_up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.gate_up = gate_up
        self.down = down

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give y [M, hidden] of x [M, hidden]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: torch.Tensor = self.down(functional.silu(gate) * up)
        return y


class Block(nn.Module):
    """One layer: norm, attention, norm, MLP, each half added to the residual."""

    def __init__(
        self, shape: DecoderShape, layer: int, make: MakeLinear, form: Form, device: torch.device
    ) -> None:
        super().__init__()
        made = {
            one.name: make(f"layers.{layer}.{one.name}", one.n, one.k)
            for one in shape.linears(layer, merged=form.merged)
        }
        mlp = Mlp(made.pop("gate_up"), made.pop("down"))
        attention = shape.attention
        self.before_attention = RmsNorm(shape.hidden, shape.eps, device)
        self.attention: GroupedAttention | LowRankAttention
        if isinstance(attention, Gqa):
            self.attention = GroupedAttention(
                attention, made, shape.eps, device, attends=form.attends, shares=form.shares
            )
        else:
            self.attention = LowRankAttention(
                attention, made, shape.eps, device, shares=form.shares
            )
        self.before_mlp = RmsNorm(shape.hidden, shape.eps, device)
        self.mlp = mlp

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: Cache | None
    ) -> torch.Tensor:
        """Give the residual stream [M, hidden] behind the layer."""
        x = x + self.attention(self.before_attention(x), cos, sin, cache)
        y: torch.Tensor = x + self.mlp(self.before_mlp(x))
        return y


class Decoder(nn.Module):
    """The layers of a shape, one after the other.

    Args:
        shape: Widths.
        make: Makes every linear.
        form: How it is put together.
        device: Where the norms lie.
    """

    def __init__(
        self, shape: DecoderShape, make: MakeLinear, form: Form, device: torch.device
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(shape, layer, make, form, device) for layer in range(len(shape.mlps))
        )

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        caches: list[Cache] | None = None,
    ) -> torch.Tensor:
        """Give the residual stream behind the last layer.

        Args:
            x: bf16 [M, hidden]: one token of each of M sequences with ``caches``, else the M
                tokens of one prompt.
            cos: bf16 [M, rope_dim].
            sin: Likewise.
            caches: Keys and values of every layer. The token's own are written to the place that
                they name, and nothing else is.
        """
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, None if caches is None else caches[i])
        return x
