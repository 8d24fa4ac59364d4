"""torch's own product in 16 bit, on dequantized weights: what quantizing has to beat."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from quantmux.bench.peers.base import BoundPeer, linear_peer
from quantmux.ops.dequantize import dequantize_weights
from quantmux.ops.quantized import DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.materials import Materials
    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.spec import Call

_TOLERANCE: Final = 1e-2
"""Weights rounded to 8 bits of mantissa are off by 2^-9 each."""


class TorchBf16:
    """``F.linear`` in the input's format."""

    name = "torch bf16"
    part: Part = "pipeline"

    def unavailable(self, device: DeviceProfile) -> str:  # noqa: ARG002
        """Give "": it runs everywhere."""
        return ""

    def refuses(self, case: BenchCase) -> str:
        """Give why it does not do this case."""
        config = case.config
        if config.op != "linear":
            return f"it does not do {config.op}"
        return "" if config.in_dtype == config.out_dtype else "it gives what it is given"

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        """Give its calls."""
        config = case.config
        if config.op != "linear":
            raise TypeError(config.op)
        dtype = DTYPES[config.in_dtype]
        canonical = materials.weights
        weight = dequantize_weights(canonical, config.scheme.weight, config.n, config.k).to(dtype)
        bias = None if canonical.bias is None else canonical.bias.to(dtype)
        calls = [
            partial(torch.nn.functional.linear, call.args[0], weight.clone(), bias)
            for call in inputs
        ]
        plain = config.replace(scheme=config.scheme.replace(activation=None))
        return linear_peer(calls, plain, materials, inputs, _TOLERANCE)
