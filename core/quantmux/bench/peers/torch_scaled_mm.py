"""torch's scaled products called directly, without quantmux: cuBLASLt and torch's CUTLASS."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.peers.base import BoundPeer, linear_peer
from quantmux.ops.linear.reference import quantize_input
from quantmux.ops.quantized import DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.materials import Materials
    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.ops.spec import Call

_TOLERANCE: Final = 3e-2
_READS: Final = {"tensor": "tensor", "row": "row", "block": "group"}
"""Kind of the weight's blocks → kind of the activation's."""


class TorchScaledMm:
    """``torch._scaled_mm`` with tensor, row or block scales, as the scheme has them.

    Args:
        fast: Accumulate in the tensor core's short accumulator, as a scheme that allows it does;
            torch's own default is not to.
    """

    part: Part = "gemm"

    def __init__(self, *, fast: bool) -> None:
        self._fast = fast
        self.name = "torch._scaled_mm fast" if fast else "torch._scaled_mm"

    def unavailable(self, device: DeviceProfile) -> str:
        """Give why it cannot run here."""
        if not device.is_cuda:
            return "it is timed on GPUs; on a host it is quantmux's own kernel"
        return "" if (device.arch.sm or 0) >= 89 else f"{device.arch} has no fp8"

    def refuses(self, case: BenchCase) -> str:
        """Give why it does not do this case."""
        config = case.config
        if config.op != "linear":
            return f"it does not do {config.op}"
        kind = _kind(config)
        if kind is None:
            return f"it does not do {config.scheme.name}"
        if config.bias or config.out_dtype != "bf16":
            return "it is called without a bias, for bf16"
        if config.n % 16 or config.k % (128 if kind == "block" else 16):
            return "N and K are no multiples of what it wants"
        if kind == "block" and (case.m % 4 or not self._fast):
            return "M is no multiple of 4, or it has one accumulation only"
        return ""

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        """Give its calls, on inputs quantized by the reference."""
        config = case.config
        if config.op != "linear":
            raise TypeError(config.op)
        kind = _kind(config)
        calls = []
        for i, call in enumerate(inputs):
            weights = materials.weights_copy(i)
            q = quantize_input(call.args[0], weights, config)
            calls.append(self._call(kind, q, weights, DTYPES[config.out_dtype]))
        return linear_peer(calls, config, materials, inputs, _TOLERANCE)

    def _call(
        self, kind: str | None, q: QuantizedTensor, weights: LinearWeights, dtype: torch.dtype
    ) -> partial[torch.Tensor]:
        scale_a, scale_b = q.scales, weights.scales
        if kind == "row":
            scale_b = scale_b.reshape(1, -1)
        elif kind == "block":
            return _block_call(q, weights, dtype)
        else:
            scale_a, scale_b = scale_a.reshape(()), scale_b.reshape(())
        product: Any = torch._scaled_mm  # noqa: SLF001 - torch has no public name for it
        return partial(
            product,
            q.data,
            weights.data.T,
            scale_a=scale_a,
            scale_b=scale_b,
            out_dtype=dtype,
            use_fast_accum=self._fast,
        )


def _block_call(
    q: QuantizedTensor, weights: LinearWeights, dtype: torch.dtype
) -> partial[torch.Tensor]:
    functional: Any = torch.nn.functional
    kinds = functional.ScalingType
    rows, cols = weights.scales.shape
    padded = torch.zeros(rows, -(-cols // 4) * 4, device=q.data.device)
    padded[:, :cols] = weights.scales
    return partial(
        functional.scaled_mm,
        q.data,
        weights.data.T,
        q.scales.T.contiguous().T,
        kinds.BlockWise1x128,
        padded.T,
        kinds.BlockWise128x128,
        output_dtype=dtype,
    )


def _kind(config: LinearConfig) -> str | None:
    weight, activation = config.scheme.weight, config.scheme.activation
    if activation is None or weight.element != "fp8_e4m3" or activation.element != "fp8_e4m3":
        return None
    kind = weight.block.kind
    if activation.block.kind != _READS.get(kind):
        return None
    if kind == "block" and (weight.block.rows, weight.block.cols) != (128, 128):
        return None
    return kind
