"""Random weights in real formats: drawn once, and the same for everybody who is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quantmux.config import LinearConfig, Scheme
from quantmux.errors import ConfigError
from quantmux.ops.dequantize import dequantize_weights
from quantmux.ops.linear.reference import quantize_input
from quantmux.ops.linear.weights import quantize_weight

if TYPE_CHECKING:
    from quantmux.bench.decoder.shapes import DecoderShape
    from quantmux.ops.quantized import LinearWeights


class DrawnWeights:
    """The canonical weights of every linear of a decoder, by its name.

    Normal numbers of variance 1/K, other ones in every layer: a step finds all of them cold where
    they are together more than the cache.

    Args:
        shape: The decoder.
        scheme: Of every linear.
        device: Where they lie.
        merged: See `Form`.
        seed: Of the numbers.

    Raises:
        ConfigError: The scheme needs a calibrated scale, which random numbers have not.
    """

    def __init__(
        self,
        shape: DecoderShape,
        scheme: str,
        device: torch.device,
        *,
        merged: bool,
        seed: int = 0,
    ) -> None:
        asked = Scheme.model_validate(scheme)
        if asked.needs_static_activation_scale:
            raise ConfigError(
                f"the decoder step quantizes activations by their own values, {scheme} does not",
                hint="take fp8_channel_token, fp8_block128, nvfp4_dynamic or nvfp4_w4a16",
                code="usage",
            )
        self.scheme = asked
        self.device = device
        self.configs: dict[str, LinearConfig] = {}
        self._weights: dict[str, LinearWeights] = {}
        generator = torch.Generator(device=device).manual_seed(seed)
        for layer in range(len(shape.mlps)):
            for one in shape.linears(layer, merged=merged):
                name = f"layers.{layer}.{one.name}"
                drawn = torch.randn(one.n, one.k, generator=generator, device=device)
                self._weights[name] = quantize_weight(drawn.mul_(one.k**-0.5), asked)
                self.configs[name] = LinearConfig(
                    in_features=one.k, out_features=one.n, scheme=asked
                )

    def canonical(self, name: str) -> LinearWeights:
        """Give the weights of one linear; they are shared, not copied."""
        return self._weights[name]

    @property
    def bytes(self) -> int:
        """Bytes of all codes and scales: what a step must read at least."""
        every = (t for weights in self._weights.values() for t in weights.named().values())
        return sum(t.numel() * t.element_size() for t in every)

    def values(self, name: str) -> torch.Tensor:
        """Give what the codes of one linear stand for, fp32 [N, K]."""
        config = self.configs[name]
        return dequantize_weights(self._weights[name], config.scheme.weight, config.n, config.k)

    def bf16_linear(self, name: str, n: int, k: int) -> nn.Module:
        """Give an nn.Linear with the dequantized weights rounded to bf16."""
        made = nn.Linear(k, n, bias=False, dtype=torch.bfloat16, device="meta")
        made.weight = nn.Parameter(self.values(name).to(torch.bfloat16), requires_grad=False)
        return made


class ReferenceLinear(nn.Module):
    """``round(values(x) · values(W)ᵀ)`` in fp32.

    The values of W are made in every call and not kept: all of them in fp32 would fill a GPU.

    Args:
        weights: Of the decoder.
        name: Of the linear.
        quantized: x is quantized first, by the reference quantizer, where the scheme says so.
    """

    def __init__(self, weights: DrawnWeights, name: str, *, quantized: bool) -> None:
        super().__init__()
        self._quantized = quantized
        self._weights = weights
        self._name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give y bf16 [M, N] of x bf16 [M, K]."""
        weights, name = self._weights, self._name
        config = weights.configs[name]
        a = x.float()
        if self._quantized and config.scheme.activation is not None:
            a = quantize_input(x, weights.canonical(name), config).dequantize()
        return (a @ weights.values(name).T).to(torch.bfloat16)
